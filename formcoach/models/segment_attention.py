"""PyTorch's fused attention sample by sample: rows that are padded or hold several samples need no mask.

A mask of L x L costs memory, rules out the quickest kernels, and most of what it covers in a packed row is computed in
vain: 8 samples in a row of length L need an eighth of the products.
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
        (B, L, heads, channels), 0 where there is no sample, and None for the weights.
    """
    if not isinstance(attention_mask, Segments):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    batch, heads, length, channels = query.shape
    kind = query.dtype
    spans = _spans(attention_mask, length, batch * length)
    # CPUs compute in float32 anyway, and convert slowly in the backward pass.
    wide = torch.float32 if query.device.type == "cpu" else kind
    parts = [
        states.transpose(1, 2).to(wide).flatten(0, 1).split([size for size, _ in spans])  # of (B L, heads, channels)
        for states in (query, key, value)
    ]
    pieces = []
    for (size, is_sample), *rows in zip(spans, *parts, strict=True):
        if not is_sample:
            pieces.append(query.new_zeros(size, heads, channels, dtype=wide))
            continue
        states = (row.transpose(0, 1)[None] for row in rows)  # (1, heads, n, channels)
        output, _ = sdpa_attention_forward(module, *states, None, is_causal=True, **kwargs)  # (1, n, heads, channels)
        pieces.append(output[0])
    return torch.cat(pieces).view(batch, length, heads, channels).to(kind), None


def _spans(where: Segments, length: int, total: int) -> list[tuple[int, bool]]:
    """Return how many tokens follow one another in rows of `length` that are a sample, or between samples."""
    spans, end = [], 0
    for row, start, stop in where:
        first = row * length + start
        spans += [(first - end, False), (stop - start, True)]
        end = row * length + stop
    return [(size, is_sample) for size, is_sample in (*spans, (total - end, False)) if size]
