"""A stand-in for the hub that models are uploaded to: accounts, repositories, large files, commits.

It answers what huggingface_hub's `whoami`, `create_repo` and `create_commit` ask for, over plain HTTP, with LFS's basic
transfer, and serves what arrived as `HubStub` does.
"""

import base64
import hashlib
import json
import re
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

import yaml
from hub_stub import Handler, HubStub, Repo, blob_id, is_large

MODEL = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+?)(?:/(?P<what>preupload|commit)/main)?")
BATCH = re.compile(r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")


@dataclass(frozen=True)
class Account:
    """Whose a token is, what it may do, and where."""

    name: str
    role: str = "write"
    organisations: tuple[str, ...] = ()


class UploadStub(HubStub):
    """The hub with accounts.

    Attributes:
        accounts: token -> account.
        private: repositories that only their owners see.
        objects: sha256 -> content of large files, committed or not.
        arrived: sha256 of the large files that came, oldest first.
        breaks_put: so many times, the connection breaks off after the first half of a large file.
        holds_put: large files of more bytes than this are begun, but do not arrive; None: all do.
        refuses_commit: what the next commits are answered with: a status, or 0 for a connection that breaks off.
    """

    def __init__(self):
        super().__init__(UploadHandler)
        self.accounts = {
            "hf_writer": Account("coach-user", organisations=("gym",)),
            "hf_reader": Account("reader", "read"),
        }
        self.private = set()
        self.objects = {}
        self.arrived = []
        self.breaks_put = 0
        self.holds_put = None
        self.refuses_commit = []

    def files(self, repo):
        """Content of each file of a repository, by name."""
        found = self.repos["model", repo]
        return found.commits[found.revisions["main"]]

    def wrote(self):
        """Methods and paths of all requests that were to change something."""
        return [(method, path) for method, path in self.asked if method in ("POST", "PUT")]


class UploadHandler(Handler):
    def do_GET(self):
        path = urlsplit(self.path).path
        if path == "/api/whoami-v2":
            return self._whoami()
        match = MODEL.fullmatch(path) or re.match(r"/(?:api/models/)?(?P<repo>[^/]+/[^/]+)/", path)
        repo = match and match["repo"]
        if repo in self.hub.private and not self._may(repo):
            self.hub.asked.append((self.command, path))
            return self._fail(404, "RepoNotFound")
        if MODEL.fullmatch(path) and ("model", repo) in self.hub.repos:
            self.hub.asked.append((self.command, path))
            return self._json(self._info(repo))
        super().do_GET()

    def do_POST(self):
        path, body = urlsplit(self.path).path, self._body()
        self.hub.asked.append((self.command, path))
        if path == "/api/validate-yaml":
            head = json.loads(body)["content"].split("---")[1]
            assert isinstance(yaml.safe_load(head), dict)
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        match = MODEL.fullmatch(path) or BATCH.fullmatch(path)
        if not self._may(match["repo"]):
            return self._forbid()
        if path.endswith("/batch"):
            return self._batch(json.loads(body))
        return (
            self._preupload(match["repo"], json.loads(body))
            if match["what"] == "preupload"
            else self._commit(match["repo"], [json.loads(line) for line in body.splitlines()])
        )

    def do_PUT(self):
        self.hub.asked.append((self.command, self.path))
        size = int(self.headers["Content-Length"])
        if self.hub.breaks_put:
            self.hub.breaks_put -= 1
            self.rfile.read(size // 2)
            self.close_connection = True
            return
        if self.hub.holds_put is not None and size > self.hub.holds_put:
            while self.hub.holds_put is not None:
                time.sleep(0.02)
            self.close_connection = True  # whoever sent it is gone
            return
        content = self._body()
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.objects[oid] = content
        self.hub.arrived.append(oid)
        self._answer(200, {}, b"")

    def _account(self):
        return self.hub.accounts.get((self.headers.get("Authorization") or "").removeprefix("Bearer "))

    def _may(self, repo):
        account = self._account()
        return account and account.role == "write" and repo.split("/")[0] in (account.name, *account.organisations)

    def _forbid(self):
        self._answer(403, {"X-Error-Message": "You don't have the rights to do this"}, b"{}")

    def _whoami(self):
        self.hub.asked.append((self.command, "/api/whoami-v2"))
        account = self._account()
        if account is None:
            return self._answer(401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b"{}")
        token = {"type": "access_token", "accessToken": {"displayName": "of the test", "role": account.role}}
        organisations = [{"name": name} for name in account.organisations]
        self._json({"type": "user", "name": account.name, "orgs": organisations, "auth": token})

    def _info(self, repo):
        files = self.hub.files(repo)
        siblings = [
            {"rfilename": name, "size": len(content), "blobId": blob_id(content)}
            | (
                {"lfs": {"sha256": _sha256(content), "size": len(content), "pointerSize": 134}}
                if is_large(name)
                else {}
            )
            for name, content in sorted(files.items())
        ]
        card = files.get("README.md", b"").decode().split("---")
        metadata = {"cardData": yaml.safe_load(card[1])} if len(card) > 2 else {}
        revision = self.hub.repos["model", repo].revisions["main"]
        return {"id": repo, "sha": revision, "private": repo in self.hub.private, "siblings": siblings} | metadata

    def _create(self, wanted):
        account = self._account()
        repo = f"{wanted['organization'] or account.name}/{wanted['name']}"
        if not self._may(repo):
            return self._forbid()
        if ("model", repo) in self.hub.repos:
            return self._answer(409, {}, b'{"error": "You already created this model repo"}')
        if wanted.get("visibility") == "private":
            self.hub.private.add(repo)
        self._store(repo, {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
        self._json({"url": f"{self.hub.endpoint}/{repo}", "id": repo, "name": repo})

    def _preupload(self, repo, wanted):
        there = self.hub.files(repo)
        told = []
        for file in wanted["files"]:
            name = file["path"]
            mode = "lfs" if is_large(name) else "regular"
            oid = None
            if name in there:
                oid = _sha256(there[name]) if mode == "lfs" else blob_id(there[name])
            told.append({"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": told})

    def _batch(self, wanted):
        objects = []
        for one in wanted["objects"]:
            action = {"actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{one['oid']}", "header": {}}}}
            objects.append(one | ({} if one["oid"] in self.hub.objects else action))
        self._json({"transfer": "basic", "objects": objects})

    def _commit(self, repo, lines):
        if self.hub.refuses_commit:
            status = self.hub.refuses_commit.pop(0)
            if status:
                return self._answer(status, {}, b"{}")
            self.close_connection = True
            return None
        files = dict(self.hub.files(repo))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        commit = self._store(repo, files)
        self.hub.repos["model", repo].messages.append(lines[0]["value"]["summary"])
        return self._json({"commitUrl": f"{self.hub.endpoint}/{repo}/commit/{commit}", "commitOid": commit})

    def _store(self, repo, files):
        found = self.hub.repos.setdefault(("model", repo), UploadedRepo())
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        found.commits[commit] = files
        found.revisions |= {commit: commit, "main": commit}
        return commit

    def _body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)


class UploadedRepo(Repo):
    """A repository with the messages of its commits."""

    def __init__(self):
        super().__init__()
        self.messages = []


def _sha256(content):
    return hashlib.sha256(content).hexdigest()
