"""A checkpoint folder seen without loading it: which of its tensors become which of the model's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers.core_model_loading import ConversionOps


@dataclass(frozen=True)
class Counterpart:
    """A tensor of a checkpoint, and the one or more of the model's that hold the same numbers.

    Args:
        name: in the checkpoint.
        parts: the model's, in the order in which they lie in it.
        split: the operation that separates them; None where there is one only.
    """

    name: str
    parts: tuple[str, ...]
    split: ConversionOps | None = None

    def to_ours(self, tensor: Tensor, config: Any) -> dict[str, Tensor]:
        """Return the model's tensors by name; `config` is the model's."""
        if self.split is None:
            return {self.parts[0]: tensor}
        return self.split.convert({self.name: tensor}, [self.name], list(self.parts), config=config)

    def to_original(self, tensors: Mapping[str, Tensor], config: Any) -> Tensor:
        """Put the model's tensors, found by name in `tensors`, together; `config` is the model's."""
        if self.split is None:
            return tensors[self.parts[0]]
        parts = {name: tensors[name] for name in self.parts}
        return self.split.reverse_op.convert(parts, list(self.parts), [self.name], config=config)[self.name]


@dataclass(frozen=True)
class Borrowed:
    """Weights that a checkpoint lacks and takes from elsewhere.

    Args:
        what: part of the model they are, for messages.
        source: where they are from, as the checkpoint names it.
        tensors: by the names that they would have in the checkpoint; they stay on the disk until they are used.
    """

    what: str
    source: str
    tensors: Mapping[str, Tensor]

    @property
    def bytes(self) -> int:
        """Their size."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True)
class Layout:
    """A checkpoint whose configuration and tensor names are known, its weights still on the disk.

    Args:
        folder: where it lies.
        original: whether it is in its authors' layout rather than in this project's.
        model: without weights, on torch's meta device.
        processor: the model's.
        shards: its weight files.
        dtype: torch's name for the type of its weights, that of the first.
        counterparts: tensor name in the checkpoint -> what it holds; others are not used by the model.
        borrowed: what it takes from elsewhere.
    """

    folder: Path
    original: bool
    model: Any
    processor: Any
    shards: tuple[Path, ...]
    dtype: str
    counterparts: Mapping[str, Counterpart]
    borrowed: tuple[Borrowed, ...] = ()
