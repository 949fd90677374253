"""An official QEVD download in a folder, brought into the dataset folder: clips as links, label files as copies."""

import errno
import filecmp
import glob
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from formcoach.command import progress
from formcoach.data.annotations import LONG_RANGE
from formcoach.data.arrivals import (
    COPIED,
    LOADING,
    SESSIONS_NOTICE,
    add_to_manifest,
    blocked_folders,
    check_space,
    check_target,
    in_the_way,
)
from formcoach.data.clip_index import ClipIndex, find_clips
from formcoach.data.hub_requests import is_plain
from formcoach.data.qevd import LABEL_FILES
from formcoach.data.selection import Labels, Selection, Wanted, match_labels, select
from formcoach.errors import UserError
from formcoach.files import only_one, replacing

DEPTH = 2  # folders below the release in which label files are looked for


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Args:
        selection: the clips that were chosen.
        labels: what the label file says of the release's clips; None without one.
        label_files: names of the label files that are in the dataset folder now.
        new: clips that came.
        size: their bytes.
        there: clips that were there already.
        failed: clip -> why it is not there.
        notices: what the user should know.
        seconds: it took.
    """

    selection: Selection
    labels: Labels | None
    label_files: list[str]
    new: int
    size: int
    there: int
    failed: dict[str, str]
    notices: list[str]
    seconds: float


def import_release(
    release: Path, dataset_dir: Path, wanted: Wanted, *, copy: bool, overwrite: bool, dry_run: bool
) -> Imported:
    """Bring the chosen clips and all label files of a release into the dataset folder.

    A clip keeps its path below the release. Links have absolute targets; where the disk knows no symbolic links, they
    are hard ones. Running it again adds what is missing.

    Args:
        release: the folder of the download.
        dataset_dir: where it goes.
        wanted: which clips.
        copy: copies instead of links.
        overwrite: whether other files in the way are replaced.
        dry_run: only tell.

    Raises:
        UserError: the folder has no clips of a class, another file is in the way, or the disk is too small.
    """
    began = time.monotonic()
    check_target(dataset_dir)
    if not release.is_dir():
        raise UserError(f"{release}: no such folder; --from-dir takes the folder of an official download")
    release = Path(os.path.realpath(release))
    _check_apart(release, Path(os.path.realpath(dataset_dir)))
    found = find_clips(release)
    paths = [path for path in found if is_plain(path)]
    notices = [f"{len(found) - len(paths)} clips have names that are no plain text; left out"][
        : len(found) > len(paths)
    ]
    label_files, sessions = _find_label_files(release)
    notices += [SESSIONS_NOTICE] if sessions else []
    edited = [name for name, file in label_files.items() if not overwrite and _is_edited(dataset_dir / name, file)]
    notices += [f"{dataset_dir / name} was changed here and stays; --overwrite copies it again" for name in edited]
    in_force = {name: dataset_dir / name if name in edited else file for name, file in label_files.items()}
    name = next((name for name in LABEL_FILES if name in in_force), None)
    labels = None if name is None else match_labels(in_force[name], ClipIndex(release, paths))
    selection = select(paths, labels.exercises if labels else {}, wanted)
    if not selection.clips:
        raise UserError(
            f"{release}: no clips of any class. It reads class/clip.mp4, or short_clips/clip.mp4 with "
            f"{' or '.join(LABEL_FILES)}; name the folder that holds them"
        )
    todo = _missing(release, dataset_dir, selection.clips, copy, overwrite)
    to_copy = _missing_labels(
        {name: label_files[name] for name in label_files if name not in edited}, dataset_dir, overwrite
    )
    size = sum((release / path).stat().st_size for path in todo) if copy or dry_run else 0
    check_space(dataset_dir, (size if copy else 0) + sum(file.stat().st_size for file in to_copy.values()))
    failed: dict[str, str] = {}
    if not dry_run:
        dataset_dir.mkdir(parents=True, exist_ok=True)
        with only_one(dataset_dir, LOADING):
            for name, file in to_copy.items():
                _copy(file, dataset_dir / name)
            failed = _bring(release, dataset_dir, todo, selection, copy)
    return Imported(
        selection=selection,
        labels=labels,
        label_files=sorted(label_files),
        new=len(todo) - len(failed),
        size=size,
        there=len(selection.clips) - len(todo),
        failed=failed,
        notices=notices,
        seconds=time.monotonic() - began,
    )


def _check_apart(release: Path, dataset_dir: Path) -> None:
    if release.is_relative_to(dataset_dir) or dataset_dir.is_relative_to(release):
        raise UserError(f"{release} and {dataset_dir} lie in each other; choose another --dataset-dir")


def _find_label_files(release: Path) -> tuple[dict[str, Path], bool]:
    """Return the label files at the top or a little below, and whether there is feedback on sessions.

    Raises:
        UserError: two of one name differ.
    """
    found: dict[str, Path] = {}
    sessions = False
    for file in _files(release, DEPTH):
        name = file.rpartition("/")[2]
        sessions = sessions or name == LONG_RANGE
        if name not in COPIED:
            continue
        other = found.setdefault(name, Path(file))
        if str(other) != file and other.parent != release and not filecmp.cmp(other, file, shallow=False):
            raise UserError(f"{other} and {file} differ; name the folder of one, or put a joined file above both")
    return found, sessions


def _files(folder: str | Path, depth: int) -> Iterator[str]:
    """Yield the files in a folder, then those in the folders in it."""
    with os.scandir(folder) as entries:
        below = []
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
            elif entry.name.endswith(".json") and entry.is_file():
                yield entry.path
    for path in below if depth else ():
        yield from _files(path, depth - 1)


def _is_edited(mine: Path, release: Path) -> bool:
    """Tell whether a label file is the release's, repaired or filtered: that leaves a backup beside it."""
    if not mine.is_file() or filecmp.cmp(mine, release, shallow=False):
        return False
    backups = mine.parent.glob(f"{glob.escape(mine.name)}.bak*")
    return any(filecmp.cmp(backup, release, shallow=False) for backup in backups)


def _missing_labels(label_files: Mapping[str, Path], dataset_dir: Path, overwrite: bool) -> dict[str, Path]:
    """Return the label files that have to be copied; raises a `UserError` if another one is in the way."""
    missing = {}
    for name, file in label_files.items():
        at = dataset_dir / name
        if at.exists():
            if at.is_file() and filecmp.cmp(at, file, shallow=False):
                continue
            if at.is_dir() or not overwrite:
                raise in_the_way(dataset_dir, [name])
        missing[name] = file
    return missing


def _missing(release: Path, dataset_dir: Path, clips: Iterable[str], copy: bool, overwrite: bool) -> list[str]:
    """Return the clips that have to come; raises a `UserError` if other files are in the way."""
    missing, others = [], blocked_folders(dataset_dir, clips)
    for path in clips if not others else ():
        state = _state(f"{release}/{path}", f"{dataset_dir}/{path}", copy)
        if state == "missing" or (state == "other" and overwrite):
            missing.append(path)
        elif state != "there":
            others.append(path)
    if others:
        raise in_the_way(dataset_dir, others)
    return missing


def _state(source: str, target: str, copy: bool) -> Literal["there", "missing", "other", "folder"]:
    """Return what is at a clip's place: the clip, nothing, another file, or a folder."""
    try:  # strings: a release has 300,000 clips
        there, wanted = os.stat(target), os.stat(source)  # noqa: PTH116
    except OSError:
        return "missing"  # a link that leads nowhere is missing as well: the release was elsewhere before
    if stat.S_ISDIR(there.st_mode):
        return "folder"
    if os.path.samestat(there, wanted):
        return "missing" if copy and Path(target).is_symlink() else "there"
    return "there" if filecmp.cmp(source, target, shallow=False) else "other"


def _bring(release: Path, dataset_dir: Path, todo: Sequence[str], selection: Selection, copy: bool) -> dict[str, str]:
    """Link or copy clips and write `manifest.json`, also when interrupted; return what failed and why."""
    failed: dict[str, str] = {}
    todo_set, came, folders = set(todo), set(), set()
    bring = _copy if copy else _link
    try:
        for path in progress(todo, len(todo), "clips"):
            target, folder = dataset_dir / path, path.rpartition("/")[0]
            if folder not in folders:
                target.parent.mkdir(parents=True, exist_ok=True)
                folders.add(folder)
            try:
                bring(release / path, target)
            except FileNotFoundError:
                failed[path] = "it is not in the release any more"
            else:
                came.add(path)
    finally:
        there = {path for path in selection.clips if path in came or path not in todo_set}
        add_to_manifest(dataset_dir, selection.clips, there, came)
    return failed


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
        status = source.stat()
        os.utime(temporary, ns=(status.st_atime_ns, status.st_mtime_ns))


def _link(source: Path, target: Path) -> None:
    """Make `target` a link to `source`; what is at `target` is replaced at once."""
    try:
        target.symlink_to(source)
    except FileExistsError:
        with tempfile.TemporaryDirectory(prefix=".link.", dir=target.parent) as folder:
            link = Path(folder) / "link"
            link.symlink_to(source)
            link.replace(target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        _hard_link(source, target)


def _hard_link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError as error:
        raise UserError(
            f"{target}: the disk takes no link to {source} ({error.strerror}); copy the clips with --copy"
        ) from None
