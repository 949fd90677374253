"""Samples' lengths, kept from one start of a training to the next."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from formcoach.training.cache_file import CacheFile

VERSION = 1  # raised where the same sample is measured in another way
NAME = "lengths.cache"
Counts = tuple[int, int, int]  # tokens of the text, visual ones, tokens of the answer


class LengthCache:
    """Looks lengths up by a digest of all that they depend on.

    Args:
        folder: holds the cache's file.
        processor: the model's. Its tokenizer's content, its settings, its limits and its prompt are part of each key.
    """

    def __init__(self, folder: Path, processor: Any) -> None:
        self._file = CacheFile(folder / NAME, Counts, VERSION)
        self._setup = _setup(processor)

    def find(self, samples: Iterable[msgspec.Struct]) -> dict[msgspec.Struct, Counts]:
        """Return the lengths that are known; `samples` are all that they depend on besides the processor."""
        return {one: counts for one in samples if (counts := self._file.get(self._key(one))) is not None}

    def keep(self, sample: msgspec.Struct, counts: Counts) -> None:
        """Remember a length."""
        self._file.put(self._key(sample), counts)

    def save(self) -> None:
        """Write what is new."""
        self._file.save()

    def _key(self, sample: msgspec.Struct) -> bytes:
        return hashlib.blake2b(msgspec.msgpack.encode(sample), key=self._setup, digest_size=16).digest()


def _setup(processor: Any) -> bytes:
    """Return a digest of what a processor makes of any sample."""
    frames = len(processor.select_frames(300, 30.0))
    ids, labels = processor.text_inputs("What is wrong?", frames, 10.0, "Nothing.")  # the prompt's wording
    limits = (processor.min_frames, processor.max_frames)
    parts = (type(processor).__name__, repr(processor.settings), limits, ids.tolist(), labels.tolist())
    digest = hashlib.blake2b(processor.tokenizer.backend_tokenizer.to_str().encode())
    digest.update(repr((tokenizers.__version__, *parts)).encode())
    return digest.digest()
