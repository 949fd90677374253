"""What the splits need to know about each clip's file: length, size of the picture, and whether two are the same file.

Headers only; nothing is decoded. Kept from call to call in the dataset folder, see `formcoach.data.file_cache`.
"""

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from formcoach.command import progress
from formcoach.data.file_cache import FileCache
from formcoach.data.video import VideoInfo, probe_all
from formcoach.errors import ClipError

VERSION = 1
_EDGE = 4096  # bytes at either end of a file, where the table of its frames' sizes is


class ClipFacts(msgspec.Struct, frozen=True, array_like=True):
    """A clip's file.

    Args:
        frames: that are shown.
        fps: frames a second, on average.
        width: in pixels.
        height: in pixels.
        content: tells files apart by their size and their first and last bytes; equal files have the same.
    """

    frames: int
    fps: float
    width: int
    height: int
    content: str

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.fps


def read_facts(root: Path, paths: Sequence[str]) -> tuple[dict[str, ClipFacts], dict[str, str]]:
    """Return what the files of clips say, and the clips that do not open, each with the reason.

    Args:
        root: the dataset folder.
        paths: of the clips, relative to it.
    """
    cache = FileCache(root, "clips", ClipFacts, VERSION)
    facts = {path: known for path in paths if (known := cache.get(path)) is not None}
    new = [path for path in paths if path not in facts]
    bad = {}
    results = progress(probe_all([root / path for path in new]), len(new), "clips opened")
    try:
        for path, result in zip(new, results, strict=True):
            if isinstance(result, ClipError):
                bad[path] = result.reason
                continue
            facts[path] = _facts(root / path, result)
            cache.put(path, facts[path])
    finally:
        cache.save()
    return facts, bad


def _facts(file: Path, info: VideoInfo) -> ClipFacts:
    return ClipFacts(info.frames, info.fps, info.width, info.height, _content(file))


def _content(file: Path) -> str:
    with file.open("rb", buffering=0) as opened:
        size = os.fstat(opened.fileno()).st_size
        digest = hashlib.blake2b(opened.read(_EDGE), digest_size=12)
        opened.seek(max(size - _EDGE, 0))
        digest.update(opened.read(_EDGE))
    return f"{size:x}-{digest.hexdigest()}"


def same_files(root: Path, facts: Mapping[str, ClipFacts]) -> list[list[str]]:
    """Return the groups of clips whose files are equal byte by byte, links to one file among them.

    Only files that may be equal are read.

    Args:
        root: the dataset folder.
        facts: of the clips.
    """
    suspects: dict[str, list[str]] = defaultdict(list)
    for path in sorted(facts):
        suspects[facts[path].content].append(path)
    groups = []
    for paths in suspects.values():
        if len(paths) > 1:
            equal: dict[str, list[str]] = defaultdict(list)
            digests: dict[tuple[int, int], str] = {}  # of each file that has several names
            for path in paths:
                status = (root / path).stat()
                place = (status.st_dev, status.st_ino)
                if place not in digests:
                    digests[place] = _digest(root / path)
                equal[digests[place]].append(path)
            groups += [group for group in equal.values() if len(group) > 1]
    return groups


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, hashlib.sha256).hexdigest()
