"""What identifies that which an answer depends on: a checkpoint, and a record with its clip."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from formcoach.data.annotations import Conversation
from formcoach.files import inside
from formcoach.inference.frames import SWAPPED

_LENGTH = 16  # hexadecimal digits
_HASHED_WHOLE = 64 * 2**20  # bytes


def checkpoint_fingerprint(folders: Iterable[Path]) -> str:
    """Return a short hash of a checkpoint's configuration and weights: adapter folder first, then its base.

    Files up to 64 MB are hashed whole, larger ones (the shards of a published model) by name, size and time.
    """
    digest = hashlib.sha256()
    for folder in folders:
        files = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors", ".model")]
        for file in files:
            stat = file.stat()
            digest.update(f"{file.name} {stat.st_size}\n".encode())
            digest.update(file.read_bytes() if stat.st_size <= _HASHED_WHOLE else str(stat.st_mtime_ns).encode())
    return digest.hexdigest()[:_LENGTH]


def clip_sources(records: Sequence[Conversation], root: Path, frames: str) -> dict[str, str]:
    """Return, by id, a short hash of each record and of its clip's size and time.

    Args:
        records: a test file's.
        root: the folder of their clips.
        frames: a kind of `formcoach.inference.frames`; a swapped clip's frames depend on the whole test file.
    """
    own = {record.id: _source(record, root) for record in records}
    if frames != SWAPPED:
        return own
    together = "".join(own.values())
    return {clip: _short(f"{source} {together}".encode()) for clip, source in own.items()}


def _source(record: Conversation, root: Path) -> str:
    clip = inside(root, record.video)
    try:
        stat = clip.stat()
    except OSError:  # told when it is to be read
        return _short(msgspec.json.encode(record))
    return _short(msgspec.json.encode(record) + f" {stat.st_size} {stat.st_mtime_ns}".encode())


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_LENGTH]
