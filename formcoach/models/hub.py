"""Models on the Hugging Face hub, fetched through its cache: `owner/name`, or `owner/name@revision`."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formcoach.errors import UserError

ALIASES = {"OpenGVLab/InternVideo2_5-Chat-8B": "OpenGVLab/InternVideo2_5_Chat_8B"}

_NAME = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[A-Za-z0-9][\w./+-]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubName:
    """A model on the hub.

    Args:
        id: `owner/name`.
        revision: branch, tag or commit; None: the default branch.
    """

    id: str
    revision: str | None = None

    @classmethod
    def parse(cls, name: str | Path) -> "HubName | None":
        """Return what `name` means on the hub; None if it is a path: a file or folder here, or below one."""
        match = _NAME.fullmatch(canonical(name))
        if match is None or ".." in (match["revision"] or ""):
            return None
        path = Path(match["id"])
        if Path(name).exists() or path.exists() or path.parent.is_dir():
            return None
        return cls(match["id"], match["revision"])

    def __str__(self) -> str:
        return self.id if self.revision is None else f"{self.id}@{self.revision}"


def canonical(name: str | Path) -> str:
    """Return `name` with the hub's spelling of an id that has another one too."""
    hub_id, at, revision = str(name).partition("@")
    return ALIASES.get(hub_id, hub_id) + at + revision


def at_revision(name: str | Path, revision: str | None) -> str:
    """Return the name of a model at a revision; None leaves it as it is.

    Raises:
        UserError: it is no hub id, or names another revision itself.
    """
    if revision is None:
        return str(name)
    wanted = HubName.parse(name)
    if wanted is None:
        raise UserError(f"revision {revision}: {name} is not a hub id, and only models on the hub have revisions")
    if wanted.revision not in (None, revision):
        raise UserError(f"model {name}: revision {revision} is asked for as well; name one of the two")
    return str(HubName(wanted.id, revision))


def commit_of(folder: Path) -> str | None:
    """Return the commit of a folder in the hub's cache (`models--owner--name/snapshots/<commit>`), else None."""
    in_cache = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
    return folder.name if in_cache else None


def fetch(wanted: HubName, files: tuple[str, ...], is_complete: Callable[[Path], bool]) -> Path:
    """Return the folder of a model in the hub's cache, downloading what is missing.

    The cache is used as it is where the hub cannot be reached, and where a commit is named, which never changes.

    Args:
        wanted: the model.
        files: patterns of the files that are needed.
        is_complete: tells whether a folder in the cache has all of them, where there is no list of the model's files.

    Raises:
        UserError: there is no such model or revision, it is restricted, or it is not in the cache and cannot be
            downloaded.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError, RevisionNotFoundError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(wanted.id)
    except HFValidationError:
        raise UserError(f"model {wanted}: there is no such folder here, and the hub has no ids like this") from None
    if _COMMIT.fullmatch(wanted.revision or "") and (folder := _cached(wanted, files, is_complete)):
        return folder
    reached = False
    try:
        # By itself, snapshot_download waits minutes for a network that swallows packets, and retries for a commit.
        HfApi().model_info(wanted.id, revision=wanted.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        reached = True
        if not sys.stderr.isatty() and _cached(wanted, files, is_complete) is None:
            print(f"downloading {wanted} from the hub: {', '.join(files)}", file=sys.stderr, flush=True)
        found = snapshot_download(
            wanted.id, revision=wanted.revision, allow_patterns=list(files), tqdm_class=_terminal_bar()
        )
        return Path(found)
    except RevisionNotFoundError:
        raise UserError(
            f"model {wanted}: {wanted.id} has no revision {wanted.revision or 'main'} on the hub; "
            "name a branch, a tag or a commit of it"
        ) from None
    except (HTTPError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk, not the network
        message = _why_not(wanted, error, reached)
    folder = _cached(wanted, files, is_complete)
    if folder is None:
        raise UserError(message)
    return folder


def file_names(wanted: HubName, folder: Path) -> list[str]:
    """Return the names of all files that a model has on the hub, fetched or not.

    Args:
        wanted: the model.
        folder: from `fetch`.
    """
    from huggingface_hub import get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    try:
        return [file.path for file in get_cached_repo_tree(wanted.id, revision=folder.name)]
    except CachedRepoTreeNotFoundError:
        return []  # the cache was filled by an older huggingface_hub, which kept no list


def _terminal_bar() -> type:
    """Return the class of the hub's progress bars, shown on a terminal only."""
    from huggingface_hub.utils import tqdm

    class TerminalBar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **(options | {"disable": None}))

    return TerminalBar


def _cached(wanted: HubName, files: tuple[str, ...], is_complete: Callable[[Path], bool]) -> Path | None:
    """Return the model's folder in the cache if all of `files` are there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            wanted.id, revision=wanted.revision, allow_patterns=list(files), local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    folder = Path(found)
    return folder if file_names(wanted, folder) or is_complete(folder) else None


def _why_not(wanted: HubName, error: Exception, reached: bool) -> str:
    """Return a line on why a model cannot be fetched, with the remedy.

    Args:
        wanted: the model.
        error: what was raised.
        reached: whether the hub had answered before.
    """
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return f"model {wanted}: access is restricted; ask for it on the hub and run `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"model {wanted}: there is no such folder here and no such model on the hub; "
            "if it is a private one, run `hf auth login`"
        )
    if reached:
        return f"model {wanted}: the download broke off; run this again, files that are complete are kept"
    reason = "the hub cannot be reached"
    if isinstance(error, OfflineModeIsEnabled):
        reason = "HF_HUB_OFFLINE is set"
    elif isinstance(error, HfHubHTTPError):
        reason = f"the hub answers with HTTP {error.response.status_code}"
    pinned = f" --revision {wanted.revision}" if wanted.revision else ""
    return (
        f"model {wanted}: neither a folder here nor complete in the hub's cache, and {reason}. Download it where there "
        f"is a network (`hf download {wanted.id}{pinned} --local-dir FOLDER`) and give that folder, or use tiny"
    )
