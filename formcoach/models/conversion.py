"""Tensor names of an original layout and ours: tables that transformers applies while it streams tensors from shards.

A table's renamings run in order, then at most one converter; saving runs all of it backwards.
"""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor
from transformers.core_model_loading import (
    ConversionOps,
    WeightConverter,
    WeightRenaming,
    apply_converters,
    apply_renamings,
)

from formcoach.models.layout import Counterpart

Conversion = WeightRenaming | WeightConverter


def renaming(original: str, ours: str) -> WeightRenaming:
    """Map names that start with `original` to names that start with `ours`, and back."""
    return WeightRenaming("^" + original.replace(".", r"\."), "^" + ours.replace(".", r"\."))


def renaming_inside(original: str, ours: str) -> WeightRenaming:
    """Map `original` inside of names to `ours`, and back."""
    return WeightRenaming(original.replace(".", r"\."), ours.replace(".", r"\."))


def counterparts(ours: Iterable[str], conversions: Sequence[Conversion]) -> list[Counterpart]:
    """Return the tensors of the original layout that hold the model's tensors `ours`.

    Args:
        ours: their names.
        conversions: of the model's class.
    """
    backwards = [conversion.reverse_transform() for conversion in reversed(conversions)]
    renamings = [entry for entry in backwards if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in backwards if isinstance(entry, WeightConverter)]
    parts: dict[str, list[str]] = {}
    splits: dict[str, ConversionOps | None] = {}
    for name in ours:
        fused, pattern = apply_converters(name, converters)
        original = apply_renamings(fused, renamings)
        parts.setdefault(original, []).append(name)
        splits[original] = next(
            (one.operations[0].reverse_op for one in converters if pattern in one.source_patterns), None
        )
    return [Counterpart(name, tuple(parts[name]), splits[name]) for name in parts]


def expected_shapes(tensors: Iterable[Counterpart], ours: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a checkpoint's tensors, in which q, k and v lie one behind the other.

    Args:
        tensors: of the checkpoint.
        ours: the model's; only their shapes count.
    """
    return {one.name: (sum(len(ours[part]) for part in one.parts), *ours[one.parts[0]].shape[1:]) for one in tensors}
