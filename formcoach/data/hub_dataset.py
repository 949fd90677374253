"""Clips and labels from a dataset repository on the hub: chosen by class, fetched in parallel, resumable.

All of a download comes from one commit. A file is fetched to `.formcoach/download/` in the dataset folder, checked
against what the hub lists, and renamed into place. `download.json` tells where each file came from.
"""

import hashlib
import queue
import shutil
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import EXDEV
from pathlib import Path, PurePosixPath

import msgspec

from formcoach.command import progress
from formcoach.data.annotations import LONG_RANGE
from formcoach.data.arrivals import COPIED, SESSIONS_NOTICE, add_to_manifest, blocked_folders, gigabytes, in_the_way
from formcoach.data.clip_index import VIDEO_SUFFIXES, ClipIndex
from formcoach.data.download_display import Display
from formcoach.data.file_cache import FOLDER, FileCache
from formcoach.data.hub_requests import FileFailed, HubDataset, RemoteFile, Stopped
from formcoach.data.qevd import LABEL_FILES
from formcoach.data.selection import Labels, Selection, Wanted, match_labels, select
from formcoach.errors import UserError
from formcoach.files import read_bytes, replacing, write_text

PROVENANCE = "download.json"
CACHE = "sha256"  # digests of files that were checked, by size and time of change
LISTEN_SECONDS = 0.5  # a Ctrl-C at the very moment when a wait begins is not seen before that ends
JOIN_SECONDS = 2.0  # for a worker that waits for the server when all is stopped


class Arrived(msgspec.Struct, frozen=True):
    """A file that came from the hub."""

    size: int
    sha256: str


class Download(msgspec.Struct, frozen=True):
    """What came from one commit.

    Args:
        repo: `owner/name`.
        revision: that was asked for.
        commit: that it stood for.
        seed: of the last choice.
        videos_per_class: of the last choice.
        classes: of the last choice.
        complete: whether all of the last choice arrived.
        files: path in the dataset folder -> what arrived there.
    """

    repo: str
    revision: str
    commit: str
    seed: int
    videos_per_class: int | None
    classes: list[str]
    complete: bool
    files: dict[str, Arrived]


class Provenance(msgspec.Struct, frozen=True):
    """`download.json`: the downloads into a dataset folder, oldest first; no file is in two of them."""

    downloads: list[Download] = []


@dataclass(frozen=True)
class Plan:
    """What a download will do.

    Args:
        dataset_dir: where the files go.
        repo: `owner/name`.
        revision: that was asked for.
        commit: that everything comes from.
        wanted: what was asked for.
        selection: the clips that were chosen.
        labels: what the label file says of the repository's clips; None without one.
        files: path in the dataset folder -> file of the repository.
        kept: of those, the ones that are there already -> their sha256.
        edited: label files that came from this commit and were changed since; they stay.
        size: bytes that have to come.
    """

    dataset_dir: Path
    repo: str
    revision: str
    commit: str
    wanted: Wanted
    selection: Selection
    labels: Labels | None
    files: dict[str, RemoteFile]
    kept: dict[str, str]
    edited: list[str]
    size: int

    @property
    def missing(self) -> list[str]:
        """Files that have to come, label files first."""
        return [path for path in self.files if path not in self.kept and path not in self.edited]


@dataclass(frozen=True)
class Outcome:
    """What a download did.

    Args:
        counts: class -> clips of it that are there, of those that were asked for.
        fetched: files that came.
        size: their bytes.
        seconds: it took.
        failed: file -> why it is not there.
    """

    counts: dict[str, int]
    fetched: int
    size: int
    seconds: float
    failed: dict[str, str]


def pending_commit(dataset_dir: Path, repo: str, revision: str) -> str | None:
    """Return the commit of a download that broke off, to go on with it; None if there is none."""
    for download in reversed(read_provenance(dataset_dir).downloads):
        if (download.repo, download.revision, download.complete) == (repo, revision, False):
            return download.commit
    return None


def list_files(hub: HubDataset, dataset_dir: Path, revision: str, display: Display) -> tuple[str, list[RemoteFile]]:
    """Return the commit to download and the files it has."""
    commit = pending_commit(dataset_dir, hub.repo, revision)
    if commit is not None:
        with suppress(UserError):  # it may be gone
            listed = hub.files(commit)
            display.say(f"going on with commit {commit[:12]} of {hub.repo}, which a download was interrupted at")
            return commit, listed
    commit = hub.commit(revision)
    return commit, hub.files(commit)


def plan_download(
    hub: HubDataset,
    commit: str,
    listed: list[RemoteFile],
    dataset_dir: Path,
    store: Path,
    *,
    revision: str,
    wanted: Wanted,
    overwrite: bool,
    display: Display,
) -> Plan:
    """Return what has to be downloaded; fetches the label files to `store` to know the clips' classes.

    Args:
        hub: the repository.
        commit: everything comes from it.
        listed: all its files.
        dataset_dir: where the files go.
        store: a folder for files on the way.
        revision: that was asked for.
        wanted: which clips.
        overwrite: whether files of another content may be replaced.
        display: tells how far it is.

    Raises:
        UserError: nothing fits what is wanted, or another file is in the way and `overwrite` is not set.
    """
    clips = {file.path: file for file in listed if _is_clip(file.path)}
    label_files = _label_files(listed)
    if any(PurePosixPath(file.path).name == LONG_RANGE for file in listed):
        display.say(SESSIONS_NOTICE)
    readable = _label_files_to_read(hub, commit, label_files, dataset_dir, store, overwrite, display)
    edited = [path for path, (_, is_edited) in readable.items() if is_edited]
    name = next((name for name in LABEL_FILES if name in readable), None)
    labels = None if name is None else _labels(hub.repo, name, readable[name][0], ClipIndex(dataset_dir, list(clips)))
    selection = select(list(clips), labels.exercises if labels else {}, wanted)
    if not selection.clips:
        raise UserError(_nothing(hub.repo, clips, selection))
    files = label_files | {path: clips[path] for path in selection.clips}
    kept = _kept(dataset_dir, files, overwrite, edited)
    left = {path: file for path, file in files.items() if path not in kept and path not in edited}
    size = sum(file.size - _size(_partial(store, path, file)) for path, file in left.items())
    return Plan(
        dataset_dir=dataset_dir,
        repo=hub.repo,
        revision=revision,
        commit=commit,
        wanted=wanted,
        selection=selection,
        labels=labels,
        files=files,
        kept=kept,
        edited=edited,
        size=size,
    )


def _label_files_to_read(
    hub: HubDataset,
    commit: str,
    label_files: Mapping[str, RemoteFile],
    dataset_dir: Path,
    store: Path,
    overwrite: bool,
    display: Display,
) -> dict[str, tuple[Path, bool]]:
    """Return where each label file can be read, and whether it came before and was changed since."""
    came = _came(read_provenance(dataset_dir), hub.repo)
    readable = {}
    for path, file in label_files.items():
        at, partial = dataset_dir / path, _partial(store, path, file)
        if at.is_file() and file.is_content_of(at):
            readable[path] = (at, False)
            continue
        store.mkdir(parents=True, exist_ok=True)
        display.say(f"fetching {file.path} ({gigabytes(file.size)}) for the clips' classes")
        try:
            digest = hub.fetch(commit, file, partial, lambda _: None)
        except FileFailed as error:
            raise UserError(f"dataset {hub.repo}: {path}: {error}; run this again later") from None
        is_edited = not overwrite and at.is_file() and path in came and came[path].sha256 == digest
        readable[path] = (at if is_edited else partial, is_edited)
    return readable


def _labels(repo: str, name: str, file: Path, index: ClipIndex) -> Labels:
    try:
        return match_labels(file, index)
    except UserError as error:
        raise UserError(str(error).replace(str(file), f"{name} of {repo}")) from None


def download(hub: HubDataset, plan: Plan, store: Path, workers: int, display: Display) -> Outcome:
    """Fetch what is missing, and write `manifest.json` and `download.json`, also when it is interrupted.

    Args:
        hub: the repository.
        plan: what to do.
        store: a folder in the dataset folder for files on the way.
        workers: files that are fetched at once.
        display: tells how far it is.

    Raises:
        UserError: the hub refuses or does not answer any more.
    """
    began = time.monotonic()
    display.expect(len(plan.missing), plan.size)
    cache = FileCache(plan.dataset_dir, CACHE, str, 1)
    arrived = {path: Arrived(plan.files[path].size, digest) for path, digest in plan.kept.items()}
    came: dict[str, str] = {}
    failed: dict[str, str] = {}
    if plan.missing:
        _record(plan, arrived, complete=False)
    try:
        with display:
            for path, error in _fetch_all(hub, plan, store, workers, display, came):
                if error is not None:
                    failed[path] = str(error)
                    continue
                cache.put(path, came[path])
                display.file_done()
    finally:
        new = dict(came)  # a worker that could not be stopped may still be at it
        arrived |= {path: Arrived(plan.files[path].size, digest) for path, digest in new.items()}
        cache.save()
        complete = all(path in arrived or path in plan.edited for path in plan.files)
        add_to_manifest(plan.dataset_dir, plan.selection.clips, arrived, new)
        _record(plan, arrived, complete=complete)
    if complete:
        shutil.rmtree(store, ignore_errors=True)
    counts = dict.fromkeys(plan.selection.available, 0)
    for path, name in plan.selection.clips.items():
        counts[name] += path in arrived
    size = sum(plan.files[path].size for path in new)
    return Outcome(counts, len(new), size, time.monotonic() - began, failed)


def read_provenance(dataset_dir: Path) -> Provenance:
    """Return what `download.json` says; there need not be one.

    Raises:
        UserError: it is damaged.
    """
    path = dataset_dir / PROVENANCE
    if not path.exists():
        return Provenance()
    remedy = "It tells where the clips came from; move it away to go on without"
    try:
        return msgspec.json.decode(read_bytes(path, remedy), type=Provenance)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}. {remedy}") from None


def store_of(dataset_dir: Path) -> Path:
    """Return the folder for files on the way."""
    return dataset_dir / FOLDER / "download"


def _record(plan: Plan, arrived: Mapping[str, Arrived], complete: bool) -> None:
    """Write `download.json`."""
    before = read_provenance(plan.dataset_dir).downloads
    files = dict(arrived)
    others = []
    for one in before:
        same = (one.repo, one.commit) == (plan.repo, plan.commit)
        left = {path: file for path, file in one.files.items() if path not in arrived}
        if same:
            files |= left
        elif left:
            others.append(msgspec.structs.replace(one, files=left, complete=one.complete or one.repo == plan.repo))
    this = Download(
        repo=plan.repo,
        revision=plan.revision,
        commit=plan.commit,
        seed=plan.wanted.seed,
        videos_per_class=plan.wanted.per_class,
        classes=list(plan.wanted.classes),
        complete=complete,
        files=dict(sorted(files.items())),
    )
    content = msgspec.json.encode(Provenance([*others, this]))
    write_text(plan.dataset_dir / PROVENANCE, msgspec.json.format(content, indent=2).decode() + "\n")


def _fetch_all(
    hub: HubDataset, plan: Plan, store: Path, workers: int, display: Display, came: dict[str, str]
) -> Iterator[tuple[str, FileFailed | None]]:
    """Yield each missing file when it is there, or with the reason why it is not; `came` gets their sha256."""
    store.mkdir(parents=True, exist_ok=True)
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    for path in plan.missing:
        todo.put(path)
    done: queue.SimpleQueue[tuple[str, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        while not hub.stop.is_set():
            try:
                path = todo.get_nowait()
            except queue.Empty:
                return
            try:
                file = plan.files[path]
                partial = _partial(store, path, file)
                digest = hub.fetch(plan.commit, file, partial, display.advance)
                if hub.stop.is_set():
                    return
                _put(partial, plan.dataset_dir / path)
                came[path] = digest
                done.put((path, None))
            except Stopped:
                return
            except BaseException as error:
                done.put((path, error))

    left = todo.qsize()
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(workers, left))]
    for thread in threads:
        thread.start()
    try:
        while left:
            try:
                path, error = done.get(timeout=LISTEN_SECONDS)
            except queue.Empty:
                continue
            if error is not None and not isinstance(error, FileFailed):
                raise error
            left -= 1
            yield path, error
    finally:
        hub.stop.set()
        deadline = time.monotonic() + JOIN_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _put(partial: Path, target: Path) -> None:
    """Move a complete file into place."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(target)
    except IsADirectoryError:
        raise FileFailed("there is a folder of that name") from None
    except FileExistsError:
        raise FileFailed("there is a file where its folder should be") from None
    except OSError as error:
        if error.errno != EXDEV:
            raise
        with replacing(target) as temporary:  # the class's folder is a link to another disk
            shutil.copyfile(partial, temporary)
        partial.unlink()


def _kept(
    dataset_dir: Path, files: Mapping[str, RemoteFile], overwrite: bool, edited: Collection[str]
) -> dict[str, str]:
    """Return the files that are there already, with their sha256.

    Raises:
        UserError: others are in the way.
    """
    cache = FileCache(dataset_dir, CACHE, str, 1)
    kept, others = {}, blocked_folders(dataset_dir, files)
    for path, file in progress(files.items(), len(files), "files checked") if dataset_dir.exists() else ():
        at = dataset_dir / path
        if path in edited or not at.exists():
            continue
        if at.is_dir():
            others.append(path)
        elif at.stat().st_size == file.size and (digest := _digest(cache, path, at, file)):
            kept[path] = digest
        elif at.stat().st_size and not overwrite:
            others.append(path)
    if others:
        raise in_the_way(dataset_dir, others)
    cache.save()
    return kept


def _digest(cache: FileCache[str], path: str, at: Path, file: RemoteFile) -> str | None:
    """Return the sha256 of a file on disk if it is the one on the hub."""
    known = cache.get(path)
    if known is not None and file.sha256 is not None:
        return known if known == file.sha256 else None
    digest = file.is_content_of(at)
    if digest is not None and digest != known:
        cache.put(path, digest)
    return digest


def _label_files(listed: Sequence[RemoteFile]) -> dict[str, RemoteFile]:
    """Return the label files by where they go: to the top, unless several share a name."""
    by_name: dict[str, list[RemoteFile]] = {}
    for file in listed:
        name = file.path.rpartition("/")[2]
        if name in COPIED and not file.path.startswith("."):
            by_name.setdefault(name, []).append(file)
    found = {}
    for name, files in by_name.items():
        files.sort(key=lambda file: (file.path.count("/"), file.path))
        alone = len(files) == 1 or files[0].path == name
        found |= {name: files[0]} if alone else {file.path: file for file in files}
    return found


def _is_clip(path: str) -> bool:
    pure = PurePosixPath(path)
    return pure.suffix.lower() in VIDEO_SUFFIXES and not any(part.startswith(".") for part in pure.parts)


def _came(provenance: Provenance, repo: str) -> dict[str, Arrived]:
    return {path: file for one in provenance.downloads if one.repo == repo for path, file in one.files.items()}


def _partial(store: Path, path: str, file: RemoteFile) -> Path:
    """Return where a file is kept on its way: another content, another place."""
    content = f"{file.sha256 or file.git_id} {file.size} {path}"
    return store / hashlib.sha256(content.encode()).hexdigest()[:32]


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _nothing(repo: str, clips: Collection[str], selection: Selection) -> str:
    if not clips:
        return f"dataset {repo}: has no clips ({', '.join(sorted(VIDEO_SUFFIXES)[:4])}, ...); is it the right one?"
    return (
        f"dataset {repo}: {selection.unclassed} of {len(clips)} clips lie in no class's folder and have no label that "
        "names the exercise, and none is left; is it the right one?"
    )
