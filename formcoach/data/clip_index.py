"""The clips below a folder, and which of them a label file means."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from formcoach.errors import UserError
from formcoach.files import inside

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp"})
NOT_A_CLASS = frozenset({"short_clips", "videos", "clips"})  # folders of the releases that mix all exercises


@dataclass
class ClipIndex:
    """The clips below a folder, found again however a label file spells them.

    Args:
        root: the dataset folder.
        paths: of all its clips, relative, with forward slashes.
    """

    root: Path
    paths: list[str]
    _exact: set[str] = field(init=False, repr=False)
    _by_path: dict[str, list[str]] = field(init=False, repr=False)
    _by_name: dict[str, list[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._exact = set(self.paths)
        self._by_path, self._by_name = defaultdict(list), defaultdict(list)
        for path in self.paths:
            same = _same(path)
            self._by_path[same].append(path)
            self._by_name[_name(same)].append(path)

    def find(self, written: str) -> str | None:
        """Return the path on disk of what a label file calls `written`, or None.

        `x.mp4`, `./x.mp4`, `class/x.mp4` and `dataset/class/x.mp4` are understood, with accents composed or not. What
        is not there under its full path may lie deeper (`class/x.mp4` in `part_1/class/x.mp4`), but never in another
        class: only a bare name, or one in a folder that is no class (`short_clips/x.mp4`), is looked for everywhere.

        Raises:
            UserError: `written` is absolute, climbs out of the folder, or could be several clips.
        """
        if written.removeprefix("./") in self._exact:
            return written.removeprefix("./")
        parts = inside(self.root, written).parts[len(self.root.parts) :]
        spellings = ["/".join(parts)]
        if len(parts) > 1 and parts[0] in ("dataset", self.root.name):
            parts = parts[1:]
            spellings.append("/".join(parts))
        for spelling in spellings:
            found = [spelling] if spelling in self._exact else self._by_path.get(_same(spelling), [])
            if found:
                return _only_one(written, found)
        if len(parts) > 1 and NOT_A_CLASS.issuperset(parts[:-1]):
            parts = parts[-1:]
        wanted = _same("/".join(parts))
        deeper = [path for path in self._by_name.get(_name(wanted), []) if _ends_with(_same(path), wanted)]
        if deeper:
            return _only_one(written, deeper)
        return spellings[-1] if (self.root / spellings[-1]).is_file() else None  # not named like a video, but there


def _same(path: str) -> str:
    """Return a spelling that does not depend on how accents are composed (macOS writes them apart)."""
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _ends_with(path: str, wanted: str) -> bool:
    return path == wanted or path.endswith("/" + wanted)


def _only_one(written: str, found: Sequence[str]) -> str:
    if len(found) > 1:
        raise UserError(
            f"{written} could be {' or '.join(sorted(found)[:3])}; write the folder before the name in the label file"
        )
    return found[0]


def find_clips(root: Path) -> list[str]:
    """Return the paths of all clips below a folder, sorted; links are followed, each folder once.

    Names that start with a dot are left out: what this project keeps there for itself is no part of the dataset.

    Raises:
        UserError: a clip's name is not UTF-8, so that no label file could say it.
    """
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    links = [(str(root), "")]
    while links:  # a folder's own place goes before links to it
        later: list[tuple[str, str]] = []
        for folder, prefix in links:
            found += _walk(folder, prefix, seen, later)
        links = later
    for path in found:
        try:
            path.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            raise UserError(f"{root / shown}: its name is not UTF-8 text; rename it") from None
    return sorted(found)


def _walk(folder: str, prefix: str, seen: set[tuple[int, int]], links: list[tuple[str, str]]) -> Iterator[str]:
    """Yield the clips of a folder and of those in it; linked folders go to `links`."""
    status = os.stat(folder)  # noqa: PTH116  # strings: a release has 300,000 clips
    if (status.st_dev, status.st_ino) in seen:
        return  # a link that leads back
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if _is(entry.is_dir):
                if entry.is_symlink():
                    links.append((entry.path, f"{prefix}{entry.name}/"))
                else:
                    yield from _walk(entry.path, f"{prefix}{entry.name}/", seen, links)
            elif "." + entry.name.rpartition(".")[2].lower() in VIDEO_SUFFIXES and _is(entry.is_file):
                yield prefix + entry.name


def _is(question: Callable[[], bool]) -> bool:
    """Ask a folder's entry what it is; a link that leads to itself is nothing."""
    try:
        return question()
    except OSError:
        return False
