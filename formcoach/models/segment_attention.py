"""PyTorch's fused attention sample by sample: rows that are padded or hold several samples need no mask.

A mask of L x L costs memory, rules out the quickest kernels, and most of what it covers in a packed row is computed in
vain: 8 samples in a row of length L need an eighth of the products. Rows padded on the right by little are computed at
once, padding included: no token of a sample attends to what comes after it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "formcoach_segments"
FULL = 0.8  # of a padded batch's products that are needed; below, samples are computed one by one


class Segment(NamedTuple):
    """Where a sample's tokens are in a batch: `row`, and columns from `start` to before `stop`."""

    row: int
    start: int
    stop: int


class Segments(tuple[Segment, ...]):
    """All samples of a batch, in order; layers get it in place of a mask."""


def located(lengths: Sequence[int], packed: bool) -> Segments:
    """Return where samples of so many tokens are: each at the left of a row of its own, or one after the other."""
    if not packed:
        return Segments(Segment(row, 0, length) for row, length in enumerate(lengths))
    ends = list(accumulate(lengths))
    return Segments(Segment(0, end - length, end) for end, length in zip(ends, lengths, strict=True))


_current: ContextVar[Segments | None] = ContextVar("segments", default=None)


def attend_by_segment(model: PreTrainedModel) -> None:
    """Let a language model that computes with ``sdpa`` do so sample by sample wherever `segments` says which."""
    AttentionInterface.register(NAME, segment_attention)
    AttentionMaskInterface.register(NAME, segment_mask)
    model.set_attn_implementation(NAME)


@contextmanager
def segments(where: Segments) -> Iterator[None]:
    """Tell the forward passes within the context where the samples are; else the mask or the positions say it.

    Backward passes, also of checkpointed layers, may come after the context.
    """
    token = _current.set(where)
    try:
        yield
    finally:
        _current.reset(token)


_asked: ContextVar[tuple[nn.Module | None, Tensor]] = ContextVar("asked", default=(None, torch.empty(0)))


@contextmanager
def queries_at(layer: nn.Module, columns: Tensor) -> Iterator[None]:
    """Tell `segment_attention` that of one layer's output only some positions are used; it may leave out the others.

    Args:
        layer: the attention layer.
        columns: positions (K), those of the rows in common.
    """
    token = _asked.set((layer, columns))
    try:
        yield
    finally:
        _asked.reset(token)


def segment_mask(*args: Any, **kwargs: Any) -> Tensor | Segments | None:
    """Return what layers get as their mask; see transformers' `AttentionMaskInterface`."""
    where = _current.get()
    return sdpa_mask(*args, **kwargs) if where is None else where


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | Segments | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute causal attention within each sample; see transformers' `AttentionInterface`.

    Args:
        module: the attention layer.
        query: (B, heads, L, channels).
        key: (B, heads of keys, L, channels).
        value: as `key`.
        attention_mask: where the samples are; else a mask, or none, as for ``sdpa``.
        kwargs: those of transformers' ``sdpa``.

    Returns:
        (B, L, heads, channels), meaning nothing where there is no sample, and None for the weights.
    """
    if not isinstance(attention_mask, Segments):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    kind = query.dtype
    # CPUs compute in float32 anyway, and convert slowly in the backward pass.
    wide = torch.float32 if query.device.type == "cpu" else kind
    states = [part.to(wide) for part in (query, key, value)]
    if _nearly_full(attention_mask, len(query), query.shape[2]):
        layer, columns = _asked.get()
        if module is layer:
            output = _at_columns(module, states, columns, **kwargs)
        else:
            output, _ = sdpa_attention_forward(module, *states, None, is_causal=True, **kwargs)
    else:
        output = _one_by_one(module, states, attention_mask, **kwargs)
    return output.to(kind), None


def _nearly_full(where: Segments, batch: int, length: int) -> bool:
    """Tell whether samples have rows of their own, and fill them well enough."""
    if len(where) != batch:
        return False
    return sum(stop**2 for _, _, stop in where) >= FULL * batch * length**2


def _at_columns(module: nn.Module, states: list[Tensor], columns: Tensor, **kwargs: Any) -> Tensor:
    """Compute causal attention for queries at `columns` (K) only, of rows without padding on the left."""
    query, key, value = states  # (B, heads, L, channels)
    seen = torch.arange(query.shape[2], device=columns.device) <= columns[:, None]  # (K, L)
    output, _ = sdpa_attention_forward(module, query[:, :, columns], key, value, seen[None, None], **kwargs)
    everywhere = output.new_zeros(len(query), query.shape[2], *output.shape[2:])
    return everywhere.index_copy(1, columns, output)  # (B, K, heads, channels) -> (B, L, heads, channels)


def _one_by_one(module: nn.Module, states: list[Tensor], where: Segments, **kwargs: Any) -> Tensor:
    """Compute attention of queries, keys and values (B, heads, L, channels) within each sample."""
    batch, heads, length, channels = states[0].shape
    spans = _spans(where, length, batch * length)
    parts = [
        part.transpose(1, 2).flatten(0, 1).split([size for size, _ in spans])  # of (B L, heads, channels)
        for part in states
    ]
    pieces = []
    for (size, is_sample), *rows in zip(spans, *parts, strict=True):
        if not is_sample:
            pieces.append(states[0].new_zeros(size, heads, channels))
            continue
        sample = (row.transpose(0, 1)[None] for row in rows)  # (1, heads, n, channels)
        output, _ = sdpa_attention_forward(module, *sample, None, is_causal=True, **kwargs)  # (1, n, heads, channels)
        pieces.append(output[0])
    return torch.cat(pieces).view(batch, length, heads, channels)


def _spans(where: Segments, length: int, total: int) -> list[tuple[int, bool]]:
    """Return how many tokens follow one another in rows of `length` that are a sample, or between samples."""
    spans, end = [], 0
    for row, start, stop in where:
        first = row * length + start
        spans += [(first - end, False), (stop - start, True)]
        end = row * length + stop
    return [(size, is_sample) for size, is_sample in (*spans, (total - end, False)) if size]
