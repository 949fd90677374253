"""The clips that a user names on a command line: files, and folders of files."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from formcoach.data.clip_index import find_clips
from formcoach.errors import UserError

_DIGITS = re.compile(r"(\d+)")


def named_clips(names: Sequence[Path]) -> list[Path]:
    """Return the clips that `names` stand for, in the order given, each once.

    A folder stands for all clips below it in natural order (`9.mp4` before `10.mp4`), without those whose name, or
    whose folder's, starts with a dot. Whatever is no folder is taken for a clip, whether it is there or not.

    Raises:
        UserError: a folder has no clips.
    """
    return list(dict.fromkeys(path for name in names for path in _below(name)))


def _below(name: Path) -> Iterator[Path]:
    if not name.is_dir():
        yield name
        return
    found = find_clips(name)
    if not found:
        raise UserError(f"{name}: has no clips in it or below it; name another folder, or a clip")
    yield from (name / path for path in sorted(found, key=_natural))


def _natural(path: str) -> tuple[list[list[str | int]], str]:
    """Return what sorts paths folder by folder, with numbers by their value; equal ones as they are written."""
    parts = [_DIGITS.split(part.casefold()) for part in path.split("/")]  # text and digits take turns
    return [[int(piece) if place % 2 else piece for place, piece in enumerate(part)] for part in parts], path
