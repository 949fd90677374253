"""Clips moved out of the dataset's sight, into `.rejected/` beneath it, and back again.

A journal there names each clip before it is moved, so that whatever a killed command left behind can be undone. Nothing
is deleted or overwritten, and what lies outside the dataset folder is not touched.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec

from formcoach.errors import UserError
from formcoach.files import write_text

FOLDER = ".rejected"
JOURNAL = "journal.jsonl"


class Entry(msgspec.Struct, frozen=True):
    """A clip that is about to be moved.

    Args:
        path: relative to the dataset folder, and to `.rejected` afterwards.
        reasons: why.
    """

    path: str
    reasons: list[str] = []


@dataclass(frozen=True)
class Moves:
    """What was moved.

    Args:
        moved: clips.
        left: those that stay where they are, a sentence each.
    """

    moved: list[str]
    left: list[str]


def aside(dataset_dir: Path) -> dict[str, list[str]]:
    """Return the clips that lie in `.rejected` and not in the dataset, with the reasons.

    Raises:
        UserError: the journal cannot be trusted.
    """
    folder = dataset_dir / FOLDER
    return {
        path: reasons
        for path, reasons in _read_journal(dataset_dir).items()
        if os.path.lexists(folder / path) and not os.path.lexists(dataset_dir / path)
    }


def set_aside(dataset_dir: Path, rejects: Mapping[str, Sequence[str]]) -> Moves:
    """Move clips into `.rejected`; links are moved as links.

    Args:
        dataset_dir: the clips' folder.
        rejects: path -> reasons.
    """
    folder = dataset_dir / FOLDER
    left, entries, linked = [], [], {}
    for path, reasons in sorted(rejects.items()):
        parent = str(PurePosixPath(path).parent)
        if parent not in linked:
            linked[parent] = _is_linked(dataset_dir, parent)
        if linked[parent]:
            left.append(f"{path} stays where it is: its folder is a link to another place")
        elif os.path.lexists(folder / path):
            left.append(f"{path} stays where it is: {FOLDER} holds another clip of that name")
        else:
            entries.append(Entry(path, list(reasons)))
    _append(folder / JOURNAL, entries)
    moved = [entry.path for entry in entries if _move(dataset_dir / entry.path, folder / entry.path, entry.path, left)]
    return Moves(moved, left)


def put_back(dataset_dir: Path) -> Moves:
    """Move all clips in `.rejected` back to where they were, unless there is something now.

    Raises:
        UserError: the journal cannot be trusted.
    """
    folder = dataset_dir / FOLDER
    moved, left, remaining = [], [], []
    for path, reasons in _read_journal(dataset_dir).items():
        if not os.path.lexists(folder / path):
            continue  # never moved, or back already
        if _move(folder / path, dataset_dir / path, path, left):
            moved.append(path)
        else:
            remaining.append(Entry(path, reasons))
    if remaining:
        write_text(folder / JOURNAL, _lines(remaining))
    else:
        (folder / JOURNAL).unlink(missing_ok=True)
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # not empty
            Path(place).rmdir()
    return Moves(moved, left)


def _move(source: Path, target: Path, path: str, left: list[str]) -> bool:
    """Move one file where nothing is; say in `left` why it was not."""
    if not os.path.lexists(source):
        return False  # somebody else did
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(target):
            left.append(f"{path} stays in {FOLDER}: there is a file in its place")
            return False
        source.rename(target)
    except OSError as error:
        left.append(f"{path} cannot be moved: {error.strerror}")
        return False
    return True


def _is_linked(dataset_dir: Path, folder: str) -> bool:
    parts = PurePosixPath(folder).parts
    return any(dataset_dir.joinpath(*parts[: depth + 1]).is_symlink() for depth in range(len(parts)))


def _append(journal: Path, entries: Iterable[Entry]) -> None:
    """Add entries to the journal and wait until they are on disk."""
    text = _lines(entries)
    if not text:
        return
    journal.parent.mkdir(exist_ok=True)
    with journal.open("ab") as file:
        file.write(
            ("\n" if file.tell() else "").encode() + text.encode()
        )  # a killed command may have torn the last line
        file.flush()
        os.fsync(file.fileno())


def _lines(entries: Iterable[Entry]) -> str:
    return "".join(msgspec.json.encode(entry).decode() + "\n" for entry in entries)


def _read_journal(dataset_dir: Path) -> dict[str, list[str]]:
    """Return path -> reasons; a torn line stands for moves that never began."""
    journal = dataset_dir / FOLDER / JOURNAL
    try:
        lines = journal.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    entries = {}
    for line in lines:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            entry = msgspec.json.decode(line, type=Entry)
            if PurePosixPath(entry.path).is_absolute() or ".." in PurePosixPath(entry.path).parts:
                raise UserError(f"{journal}: {entry.path!r} is not inside {dataset_dir}. Remove that line")
            entries[entry.path] = entry.reasons
    return entries
