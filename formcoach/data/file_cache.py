"""What was measured on files, kept until a file changes: looked up by path, size and time of change."""

import os
import time
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import Generic, TypeVar

import msgspec

from formcoach.files import replacing

FOLDER = ".formcoach"  # in the dataset folder: what can be computed again at any time
SAVE_SECONDS = 20.0  # an interrupted command loses no more work than this

Value = TypeVar("Value")


class FileCache(Generic[Value]):
    """Values of one type, one a file, in one MessagePack file: beside the clips, or in a folder of its own.

    A cache that is damaged or was written by another version is begun anew: nothing in it is worth an error. Two
    processes may use it at once; the one that saves last wins, and both are right.

    Args:
        root: the dataset folder, which the keys are relative to; None: keys are absolute paths.
        name: of the cache.
        kind: the type of the values, one that msgspec knows.
        version: raised whenever the meaning of the values changes.
        folder: where the cache lies; None: in the dataset folder.

    Raises:
        ValueError: both `root` and `folder` are None.
    """

    def __init__(
        self, root: Path | None, name: str, kind: type[Value], version: int, folder: Path | None = None
    ) -> None:
        if folder is None:
            if root is None:
                raise ValueError("a cache needs a folder")
            folder = root / FOLDER
        self.path = folder / f"{name}.msgpack"
        self._prefix = "" if root is None else f"{root}/"
        self._version = version
        self._content = tuple[int, dict[str, tuple[int, int, kind]]]  # version, path -> size, mtime_ns, value
        self._entries: dict[str, tuple[int, int, Value]] = self._load()
        self._changed = False
        self._saved = time.monotonic()

    def _load(self) -> dict[str, tuple[int, int, Value]]:
        try:
            version, entries = msgspec.msgpack.decode(self.path.read_bytes(), type=self._content)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return {}
        return entries if version == self._version else {}

    def get(self, key: str) -> Value | None:
        """Return the value of a file that has not changed since it was put here, else None."""
        entry = self._entries.get(key)
        return entry[2] if entry is not None and entry[:2] == self._state(key) else None

    def put(self, key: str, value: Value) -> None:
        """Remember a file's value; written to disk every now and then, and by `save`."""
        state = self._state(key)
        if state is None:
            return
        self._entries[key] = (*state, value)
        self._changed = True
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write what is new to disk, atomically; where that is not possible, everything is measured again next time."""
        if not self._changed:
            return
        with suppress(OSError), replacing(self.path) as temporary:
            temporary.write_bytes(msgspec.msgpack.encode((self._version, self._entries)))
        self._changed = False
        self._saved = time.monotonic()

    def _state(self, key: str) -> tuple[int, int] | None:
        try:
            status = os.stat(self._prefix + key)  # noqa: PTH116  # six times as fast, and asked 300,000 times
        except (OSError, ValueError):
            return None
        return (status.st_size, status.st_mtime_ns) if S_ISREG(status.st_mode) else None
