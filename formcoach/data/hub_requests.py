"""Requests to a dataset repository on the hub, which wait as long as the server asks and then go on."""

import hashlib
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import msgspec

from formcoach.errors import UserError
from formcoach.files import inside

RETRIES = 5  # of a request that fails without getting any further
RATE_LIMITS = 30  # in a row, on one request
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds, where the server says nothing
LONGEST_ASKED = 6 * 3600.0  # seconds; who asks for more does not want us
CHUNK = 2**18  # bytes
LISTED = 50  # pages between two lines on how far the list is

Value = TypeVar("Value")


class LargeFile(msgspec.Struct, frozen=True):
    """What the hub lists of a file in LFS: `oid` is its sha256."""

    oid: str


class Entry(msgspec.Struct, frozen=True):
    """A file or folder as the hub lists it; `oid` is git's id of its content."""

    type: str
    path: str
    oid: str
    size: int = 0
    lfs: LargeFile | None = None


class RemoteFile(msgspec.Struct, frozen=True):
    """A file of a repository.

    Args:
        path: in the repository; checked, safe below a folder.
        size: bytes.
        sha256: of the content; None for a small file, of which the hub tells git's id.
        git_id: sha1 of git's blob; that of a pointer if there is a `sha256`.
    """

    path: str
    size: int
    sha256: str | None
    git_id: str

    def is_content_of(self, file: Path) -> str | None:
        """Return the sha256 of `file` if it has this content, else None."""
        if file.stat().st_size != self.size:
            return None
        digest = hashlib.sha256()
        git = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                if self.sha256 is None:
                    git.update(chunk)
        matches = digest.hexdigest() == self.sha256 if self.sha256 else git.hexdigest() == self.git_id
        return digest.hexdigest() if matches else None


class Stopped(Exception):
    """The download was told to stop."""


class FileFailed(Exception):
    """One file cannot be had; the message says why."""


class HubDataset:
    """A dataset repository on the hub; its methods may be called from many threads.

    Args:
        repo: `owner/name`.
        say: tells the user a line.
    """

    def __init__(self, repo: str, say: Callable[[str], None]) -> None:
        self.repo = repo
        self.stop = threading.Event()
        self._say = say
        self._lock = threading.Lock()
        self._not_before = 0.0  # nobody asks the server before this time
        self._reached = False
        self._progress = 0.0  # when the server last sent something

    def commit(self, revision: str) -> str:
        """Return the commit that a branch, a tag or a commit's id stands for.

        Raises:
            UserError: there is no such repository or revision, it is restricted, or the hub cannot be reached.
        """
        url = f"{_endpoint()}/api/datasets/{self.repo}/revision/{quote(revision, safe='')}"
        _, answer = self._json(url, revision)
        commit = answer.get("sha") if isinstance(answer, dict) else None
        if not isinstance(commit, str) or not re.fullmatch("[0-9a-f]{40}", commit):
            raise UserError(f"dataset {self.repo}: the hub's answer names no commit; check HF_ENDPOINT ({_endpoint()})")
        return commit

    def files(self, commit: str) -> list[RemoteFile]:
        """Return all files at a commit.

        Raises:
            UserError: as for `commit`, or a name in the list leads outside a folder or cannot be a file's.
        """
        url: str | None = f"{_endpoint()}/api/datasets/{self.repo}/tree/{commit}?recursive=true&expand=false"
        found: dict[str, RemoteFile] = {}
        seen = set()
        while url is not None:
            seen.add(url)
            response, page = self._json(url, commit)
            try:
                entries = msgspec.convert(page, list[Entry])
            except msgspec.ValidationError as error:
                raise UserError(
                    f"dataset {self.repo}: the hub's list of files cannot be read ({error}); "
                    f"check HF_ENDPOINT ({_endpoint()})"
                ) from None
            for entry in entries:
                if entry.type == "file":
                    found[entry.path] = self._checked(entry)
            url = self._next_page(response)
            if len(seen) % LISTED == 0:
                self._say(f"listing {self.repo}: {len(found)} files so far")
            if url in seen:
                raise UserError(f"dataset {self.repo}: the hub's list of files leads back to itself; try again later")
        self._check_nested(found)
        return list(found.values())

    def fetch(self, commit: str, file: RemoteFile, partial: Path, advance: Callable[[int], None]) -> str:
        """Complete `partial`, which may hold the file's first bytes already; return the sha256.

        Args:
            commit: which the file is taken from.
            file: from `files`.
            partial: gets the content, checked at the end.
            advance: is told the number of bytes that came; a negative one where they have to come again.

        Raises:
            FileFailed: the file cannot be had.
            Stopped: `stop` was set meanwhile.
            UserError: nothing can be had from this repository, or not any more.
        """
        from huggingface_hub import hf_hub_url

        url = hf_hub_url(self.repo, file.path, repo_type="dataset", revision=commit, endpoint=_endpoint())
        for _ in range(3):
            self._patiently(url, commit, lambda: self._continue(url, file, partial, advance), partial)
            if digest := file.is_content_of(partial):
                return digest
            advance(-partial.stat().st_size)
            partial.unlink()
        raise FileFailed("it arrives with another content than the hub lists")

    def _json(self, url: str, revision: str) -> tuple[Any, Any]:
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        def attempt() -> Any:
            response = get_session().get(url, headers=build_hf_headers(), timeout=_timeout())
            hf_raise_for_status(response)
            return response

        try:
            response = self._patiently(url, revision, attempt)
        except FileFailed as error:
            raise UserError(f"dataset {self.repo}: {error}; try again later") from None
        try:
            return response, msgspec.json.decode(response.content)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise UserError(
                f"dataset {self.repo}: the answer is not the hub's (no JSON); check HF_ENDPOINT ({_endpoint()})"
            ) from None

    def _continue(self, url: str, file: RemoteFile, partial: Path, advance: Callable[[int], None]) -> None:
        """Ask for the bytes that are missing and append them."""
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        have = partial.stat().st_size if partial.exists() else 0
        if have > file.size:
            partial.unlink()
            advance(-have)
            have = 0
        if have == file.size:
            partial.touch()
            return
        headers = build_hf_headers() | {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with (
            get_session().stream("GET", url, headers=headers, timeout=_timeout(), follow_redirects=True) as response,
            partial.open("ab") as out,
        ):
            if response.status_code == 416:
                out.truncate(0)  # the server has less than we do: it was another file's beginning
                advance(-have)
            hf_raise_for_status(response)
            if have and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                out.truncate(0)  # the server sends all of it again
                advance(-have)
                have = 0
            for chunk in response.iter_bytes():
                if self.stop.is_set():
                    raise Stopped
                taken = out.write(chunk[: file.size - have + 1])  # a byte too many shows that it is another file
                out.flush()  # so that a killed download goes on from here
                have += taken
                advance(taken)
                self._progress = time.monotonic()
                if have > file.size:
                    return

    def _patiently(self, url: str, revision: str, attempt: Callable[[], Value], partial: Path | None = None) -> Value:
        """Return what `attempt` does, repeating it while that may help.

        Args:
            url: for messages.
            revision: for messages.
            attempt: asks the server once.
            partial: grows while attempts get further.
        """
        from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

        began = time.monotonic()
        failures = limits = 0
        while True:
            self._wait()
            before = _size(partial)
            try:
                value = attempt()
            except HfHubHTTPError as error:
                self._reached = True
                status = error.response.status_code
                if status == 429 and limits < RATE_LIMITS:
                    limits += 1
                    self._pause(limits, error.response, "the hub limits how often it is asked")
                    continue
                if status not in (408, 416, 429) and status < 500:
                    raise self._refused(error, revision) from None
                reason = f"answers with HTTP {status}"
                response = error.response
            except OfflineModeIsEnabled:
                raise UserError(
                    f"dataset {self.repo}: HF_HUB_OFFLINE is set; unset it, or import a folder with --from-dir"
                ) from None
            except HTTPError as error:
                if not self._reached:
                    raise UserError(
                        f"dataset {self.repo}: the hub cannot be reached at {_endpoint()} "
                        f"({_first_line(error)}); check the network, or import a folder with --from-dir"
                    ) from None
                reason = f"broke off the connection ({_first_line(error)})"
                response = None
            else:
                self._reached = True
                return value
            failures = 1 if _size(partial) > before else failures + 1
            if failures >= RETRIES:
                if response is None and self._progress < began:
                    raise UserError(
                        f"dataset {self.repo}: the hub does not answer any more; run this again later, "
                        "files that are complete are kept"
                    )
                raise FileFailed(f"the hub {reason}")
            self._pause(failures, response, f"the hub {reason}")

    def _wait(self) -> None:
        while (left := self._not_before - time.monotonic()) > 0:
            if self.stop.wait(left):
                break
        if self.stop.is_set():
            raise Stopped

    def _pause(self, failures: int, response: Any, why: str) -> None:
        """Keep everybody from asking for as long as the server wishes, else for longer each time."""
        asked = None if response is None else asked_pause(response.headers)
        seconds = min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE) if asked is None else asked
        if seconds > LONGEST_ASKED:
            raise UserError(
                f"dataset {self.repo}: the hub asks to wait {seconds / 3600:.0f} hours; run this again then, "
                "files that are complete are kept"
            )
        until = time.monotonic() + seconds
        with self._lock:
            news = until > self._not_before + 0.5
            self._not_before = max(self._not_before, until)
        if news:
            self._say(f"{why}; going on in {seconds:.0f} s")

    def _refused(self, error: Exception, revision: str) -> Exception:
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        if isinstance(error, GatedRepoError):  # one of RepositoryNotFoundError
            return UserError(
                f"dataset {self.repo}: access is restricted; ask for it on the hub and run `hf auth login`"
            )
        if isinstance(error, RepositoryNotFoundError):
            return UserError(
                f"dataset {self.repo}: there is no such dataset on the hub; if it is a private one, run `hf auth login`"
            )
        if isinstance(error, RevisionNotFoundError):
            return UserError(
                f"dataset {self.repo}: it has no revision {revision}; name a branch, a tag or a commit with --revision"
            )
        if isinstance(error, EntryNotFoundError):
            return FileFailed("it is not on the hub any more")
        status = error.response.status_code
        if status in (401, 403):
            return UserError(f"dataset {self.repo}: the hub refuses access (HTTP {status}); run `hf auth login`")
        return FileFailed(f"the hub answers with HTTP {status}")

    def _checked(self, entry: Entry) -> RemoteFile:
        shown = entry.path.encode("unicode_escape").decode()
        try:
            parts = inside(Path(), entry.path).parts
        except UserError:
            raise UserError(
                f"dataset {self.repo}: lists a file {shown!r}, which would be written outside the dataset folder; "
                "nothing was downloaded"
            ) from None
        if "/".join(parts) != entry.path or not is_plain(entry.path) or entry.size < 0:
            raise UserError(
                f"dataset {self.repo}: lists a file {shown!r} that cannot be written; nothing was downloaded"
            )
        return RemoteFile(entry.path, entry.size, entry.lfs.oid if entry.lfs else None, entry.oid)

    def _check_nested(self, found: dict[str, RemoteFile]) -> None:
        for path in found:
            for folder in PurePosixPath(path).parents:
                if str(folder) in found:
                    raise UserError(
                        f"dataset {self.repo}: lists {str(folder)!r} as a file and as a folder; nothing was downloaded"
                    )

    def _next_page(self, response: Any) -> str | None:
        from huggingface_hub.utils import fix_hf_endpoint_in_url

        url = response.links.get("next", {}).get("url")
        if url is None:
            return None
        url = fix_hf_endpoint_in_url(url, _endpoint())
        if urlsplit(url)[:2] != urlsplit(_endpoint())[:2]:
            raise UserError(
                f"dataset {self.repo}: the hub's list of files goes on at another server ({urlsplit(url).netloc}), "
                "which is not asked; set HF_ENDPOINT to it if you trust it"
            )
        return url


def asked_pause(headers: Any) -> float | None:
    """Return for how many seconds a server's answer asks to wait: `RateLimit` as the hub sends it, or `Retry-After`.

    Args:
        headers: of the answer; `Retry-After` has seconds or a date (RFC 9110, 10.2.3).
    """
    from huggingface_hub.utils import parse_ratelimit_headers

    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return limit.reset_in_seconds + 1.0  # it counts in whole seconds
    asked = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", asked):
        return float(asked)
    try:
        when = parsedate_to_datetime(asked)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def is_plain(path: str) -> bool:
    """Tell whether a path can be written to disk, to JSON and to a terminal: text without control characters."""
    return not re.search(r"[\x00-\x1f\x7f\x80-\x9f\ud800-\udfff\\]", path) and all(
        len(part.encode()) <= 255 for part in path.split("/")
    )


def check_repo(repo: str) -> None:
    """Raise a `UserError` if the hub has no ids like `repo`."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        repo = repo.encode("unicode_escape").decode()
        raise UserError(f"dataset {repo}: the hub has no ids like this; name it as owner/name") from None


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _timeout() -> float:
    from huggingface_hub import constants

    return constants.HF_HUB_DOWNLOAD_TIMEOUT


def _size(partial: Path | None) -> int:
    return partial.stat().st_size if partial is not None and partial.exists() else 0


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200] or type(error).__name__
