"""What was found out before the start of a training, kept in a file of `--dset-cache-dir` for the next start."""

import hashlib
import time
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from formcoach.files import replacing

UNUSED = 300_000  # entries that the last run did not look up and that are kept all the same
SAVE_SECONDS = 20.0  # an interrupted start loses no more work than this
_DIGEST = 16  # bytes

Value = TypeVar("Value")


class CacheFile(Generic[Value]):
    """Values of one type by keys of bytes: a digest of the rest, then MessagePack.

    A file whose digest does not fit, be it damaged, foreign or of another version, is begun anew. Two processes may use
    it at once; the one that saves last wins, and both are right. Entries that are looked up or put are kept, and of the
    others the `unused` that were needed most recently.

    Args:
        path: the file.
        kind: the type of the values, one that msgspec knows.
        version: raised whenever the meaning of keys or values changes.
        unused: see above.
    """

    def __init__(self, path: Path, kind: type[Value], version: int, unused: int = UNUSED) -> None:
        self._path = path
        self._version = version
        self._content = dict[bytes, kind]
        self._unused = unused
        self._stored: dict[bytes, Value] = self._load()
        self._used: dict[bytes, Value] = {}
        self._changed = False
        self._saved = time.monotonic()

    def get(self, key: bytes) -> Value | None:
        """Return the value of a key, or None."""
        value = self._stored.get(key)
        if value is not None:
            self._used[key] = value
        return value

    def put(self, key: bytes, value: Value) -> None:
        """Keep a value; written to disk every now and then, and by `save`."""
        self._used[key] = self._stored[key] = value
        self._changed = True
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write what is new, atomically; where that is not possible, it is found out again next time."""
        if not self._changed:
            return
        unused = [key for key in self._stored if key not in self._used]  # those needed longest ago come first
        kept = {key: self._stored[key] for key in unused[max(len(unused) - self._unused, 0) :]} | self._used
        data = msgspec.msgpack.encode(kept)
        with suppress(OSError), replacing(self._path) as temporary:
            temporary.write_bytes(self._digest(data) + data)
        self._changed = False
        self._saved = time.monotonic()

    def _load(self) -> dict[bytes, Value]:
        with suppress(OSError, msgspec.MsgspecError):
            content = self._path.read_bytes()
            digest, data = content[:_DIGEST], content[_DIGEST:]
            if digest == self._digest(data):
                return msgspec.msgpack.decode(data, type=self._content)
        return {}

    def _digest(self, data: bytes) -> bytes:
        person = f"{self._path.stem[:8]} {self._version}".encode()  # 16 bytes at most
        return hashlib.blake2b(data, digest_size=_DIGEST, person=person).digest()
