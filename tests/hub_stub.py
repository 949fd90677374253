"""A stand-in for the Hugging Face hub on the loopback interface: serves folders as repositories at named revisions.

It answers what huggingface_hub's `model_info`, `snapshot_download` and `hf_hub_download` ask for, over plain HTTP, and
remembers what it was asked. Point HF_ENDPOINT at `HubStub.endpoint` (see `environment`).
"""

import hashlib
import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(
    r"/api/(?P<kind>model|dataset)s/(?P<repo>[^/]+/[^/]+)(?:/(?P<what>revision|tree)/(?P<revision>[^/]+))?"
)
FILE = re.compile(r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@dataclass
class Repo:
    """A repository: the files of each commit, and the names that point to commits."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    gated: bool = False


class HubStub:
    """The hub, from `with` on; its repositories may change meanwhile.

    Attributes:
        asked: method and path of each request, oldest first.
        held: files of these names are begun, but do not end while their names are here.
        broken: of files of these names, the connection breaks off after the first half.
        breaks: the same, name -> so many times.
        tokens: what requests said in their Authorization header.
        elsewhere: address of another server that files are had from; None: from here.
        instead: name of a file, `tree` or `revision` -> statuses and headers that the next requests are answered with.
        altered: name -> what is sent as the content of the file of this name.
        page: how many entries of a tree are listed at once; None: all of them.
        next_page: where the list goes on, instead of here.
    """

    def __init__(self, handler=None):
        self.repos = {}
        self.asked = []
        self.held = set()
        self.broken = set()
        self.breaks = {}
        self.tokens = set()
        self.elsewhere = None
        self.instead = {}
        self.altered = {}
        self.page = None
        self.next_page = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler or Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home, **more):
        """The environment of a process that uses this hub, with its cache below `home`."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "HF_HOME": str(home / "huggingface"),
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_DISABLE_XET": "1",
        } | more

    def publish(self, repo, folder, *revisions, kind="model", gated=False):
        """Serve the files of `folder` as a new commit that `revisions` point to from now on; return the commit."""
        files = {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
        commit = hashlib.sha1(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()
        found = self.repos.setdefault((kind, repo), Repo(gated=gated))
        found.commits[commit] = files
        found.revisions |= dict.fromkeys((commit, *revisions), commit)
        return commit

    def files_asked(self):
        """Names of the files whose content was asked for, and forget them."""
        names = [FILE.fullmatch(path)["path"] for method, path in self.asked if method == "GET" and "/resolve/" in path]
        self.asked.clear()
        return sorted(names)

    def stop(self):
        """Answer nothing any more."""
        self.held.clear()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urlsplit(self.path).path
        self.hub.asked.append((self.command, path))
        self.hub.tokens.add(self.headers.get("Authorization"))
        match = API.fullmatch(path) or FILE.fullmatch(path)
        if match is None:
            return self._fail(404, "EntryNotFound")
        named = match.groupdict()
        if instead := self.hub.instead.get(unquote(named.get("path") or named.get("what") or "")):
            status, headers = instead.pop(0)
            return self._answer(status, headers, b"")
        kind = (named["kind"] or "model").removesuffix("s/")
        repo = self.hub.repos.get((kind, named["repo"]))
        if repo is None:
            return self._fail(401, "RepoNotFound")  # as the hub answers who has not logged in
        commit = repo.revisions.get(unquote(named["revision"] or "main"))
        if commit is None:
            return self._fail(404, "RevisionNotFound")
        files = repo.commits[commit]
        if "path" not in named:
            return self._tree(files) if named["what"] == "tree" else self._json(_info(named["repo"], commit, files))
        if repo.gated:
            return self._fail(403, "GatedRepo")
        if self.hub.elsewhere:
            return self._answer(302, {"Location": self.hub.elsewhere + self.path}, b"")
        name = unquote(named["path"])
        if name not in files:
            return self._fail(404, "EntryNotFound", {"X-Repo-Commit": commit})
        return self._file(name, self.hub.altered.get(name, files[name]), commit)

    def _tree(self, files):
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        entries = _tree(files)
        page = entries[start : start + (self.hub.page or len(entries))]
        headers = {}
        if start + len(page) < len(entries):
            here = (
                f"{self.hub.endpoint}{urlsplit(self.path).path}?recursive=true&expand=false&cursor={start + len(page)}"
            )
            headers["Link"] = f'<{self.hub.next_page or here}>; rel="next"'
        self._json(page, headers)

    def _json(self, value, headers=None):
        self._answer(200, {"Content-Type": "application/json"} | (headers or {}), json.dumps(value).encode())

    def _fail(self, status, code, headers=None):
        self._answer(status, {"X-Error-Code": code, "X-Error-Message": code} | (headers or {}), b"")

    def _file(self, name, content, commit):
        headers = {"ETag": f'"{_oid(name, content)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(span[1]) if span else 0
        if span:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._head(206 if span else 200, headers, len(content) - start)
        if self.command == "HEAD":
            return
        half = max(start, len(content) // 2)
        self.wfile.write(content[start:half])
        self.wfile.flush()
        while name in self.hub.held:
            time.sleep(0.02)
        if name in self.hub.broken or self.hub.breaks.get(name, 0) > 0:
            self.hub.breaks[name] = self.hub.breaks.get(name, 0) - 1
            self.close_connection = True
        else:
            self.wfile.write(content[half:])

    def _answer(self, status, headers, body):
        self._head(status, headers, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status, headers, length):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_):
        pass


def _info(repo, commit, files):
    return {"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in sorted(files)]}


def _tree(files):
    return [_entry(name, content) for name, content in sorted(files.items())]


def _entry(name, content):
    entry = {"type": "file", "path": name, "size": len(content), "oid": blob_id(content)}
    if is_large(name):
        entry["lfs"] = {"oid": _oid(name, content), "size": len(content), "pointerSize": 134}
    return entry


def _oid(name, content):
    return hashlib.sha256(content).hexdigest() if is_large(name) else blob_id(content)


def blob_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(name):
    return name.endswith((".safetensors", ".bin", ".mp4"))
