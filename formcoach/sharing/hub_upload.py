"""A model repository on the hub, and one commit to it: all of an upload arrives, or nothing changes.

Large files go ahead of the commit. Those that arrived before an upload broke off are not sent again by the next one.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formcoach.data.hub_requests import RemoteFile
from formcoach.errors import UserError
from formcoach.models.location import WEIGHT_SUFFIXES
from formcoach.sharing.bundle import Bundle
from formcoach.sharing.card import TAG

WRITE_TOKEN = (
    "make one that may write at https://huggingface.co/settings/tokens and run `hf auth login`, or set HF_TOKEN"
)

_GIT_FILES = {".gitattributes", ".gitignore"}


@dataclass(frozen=True)
class Repository:
    """A model repository that exists.

    Args:
        id: `owner/name`.
        private: whether only its members see it.
        files: path -> file, those of git left out.
        is_ours: whether its card was written here.
        base: what its card names as the base model.
    """

    id: str
    private: bool
    files: dict[str, RemoteFile]
    is_ours: bool
    base: str | None

    def changed(self, files: Mapping[str, Path]) -> dict[str, Path]:
        """Return those of `files` that it has not, or with another content."""
        return {
            name: path
            for name, path in files.items()
            if name not in self.files or self.files[name].is_content_of(path) is None
        }

    def check_fits(self, bundle: Bundle) -> None:
        """Refuse to put a model where something else is.

        Raises:
            UserError: says what is there.
        """
        other = "choose another --repo_name, or delete it on the hub first"
        if self.files and not self.is_ours:
            raise UserError(f"{self.id}: holds something that formcoach did not put there ({min(self.files)}); {other}")
        base = bundle.base.id if bundle.base else None
        if self.files and self.base != base:
            raise UserError(f"{self.id}: holds a model trained on {self.base or 'the tiny model'}; {other}")
        for name in sorted(self.files):
            if Path(name).suffix in WEIGHT_SUFFIXES and name not in bundle.files:
                raise UserError(f"{self.id}: holds {name}, so a model of another kind than this one; {other}")


def sign_in() -> str:
    """Return the name of the account that a token gives access to: that of HF_TOKEN, or of `hf auth login`.

    Raises:
        UserError: there is no token, the hub does not accept it, or it may only read.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise UserError(f"no token for the hub: {WRITE_TOKEN}")
    with _told("the hub"):
        account = HfApi().whoami()
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError(f"the token of {account['name']} may only read: {WRITE_TOKEN}")
    return account["name"]


def look_up(repo: str) -> Repository | None:
    """Return a model repository, or None if there is none that this account may see.

    Raises:
        UserError: the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    with _told(repo):
        try:
            info = HfApi().model_info(repo, files_metadata=True)
        except RepositoryNotFoundError:
            return None
    files = {
        file.rfilename: RemoteFile(file.rfilename, file.size, file.lfs.sha256 if file.lfs else None, file.blob_id)
        for file in info.siblings or []
        if file.rfilename not in _GIT_FILES
    }
    card = info.card_data.to_dict() if info.card_data else {}
    base = card.get("base_model")
    return Repository(repo, bool(info.private), files, TAG in (card.get("tags") or []), base)


def create(repo: str, private: bool) -> None:
    """Make an empty model repository.

    Raises:
        UserError: the account may not, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    with _told(repo):
        HfApi().create_repo(repo, repo_type="model", private=private)


def commit(repo: str, files: Mapping[str, Path], message: str) -> str:
    """Add files to a repository in one commit; return its id.

    Raises:
        UserError: the account may not, or the connection broke off.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    with _told(repo, again="run this again, files that have arrived are not sent again"):
        operations = [CommitOperationAdd(name, path) for name, path in files.items()]
        return HfApi().create_commit(repo, operations, commit_message=message).oid


def address(repo: str) -> str:
    """Return where a repository is seen."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repo}"


@contextmanager
def _told(what: str, again: str = "check the network and run this again") -> Iterator[None]:
    """Tell in one line why the hub does not do what is asked for.

    Args:
        what: is asked for; a repository.
        again: what to do where the connection breaks off.
    """
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        yield
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it") from None
    except RepositoryNotFoundError:
        raise UserError(f"{what}: was not found on the hub; check the name and the token's rights") from None
    except ValueError as error:
        raise UserError(f"{what}: the hub refuses the upload ({' '.join(str(error).split())[:300]})") from None
    except (HTTPError, OSError, RuntimeError) as error:
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ else error  # of one file of several
        if isinstance(cause, OSError) and cause.errno is not None:
            raise  # this machine's, not the network's
        raise UserError(_why_not(what, cause, again)) from None


def _why_not(what: str, error: BaseException, again: str) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(error, HfHubHTTPError):
        return f"{what}: the connection to the hub broke off ({_first_line(error)}); {again}"
    status = error.response.status_code
    if status == 401:
        return f"{what}: the hub does not accept the token, which may be mistyped or expired: {WRITE_TOKEN}"
    if status == 403:
        return f"{what}: the token may not write there; use one of an account that may: {WRITE_TOKEN}"
    return f"{what}: the hub answers with HTTP {status} ({_first_line(error)}); {again}"


def _first_line(error: Any) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
