"""Attention sample by sample is attention under a mask."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaModel

from formcoach.models.segment_attention import attend_by_segment, located, queries_at, segment_attention, segments

LENGTHS = (5, 1, 9)
ALIKE = (9, 8, 9)  # padded by little


def states(rows, length, dtype):
    """Return queries of four heads, and keys and values of two."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, heads, length, 16) for heads in (4, 2, 2))
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


class Layer(torch.nn.Module):
    num_key_value_groups = 2
    is_causal = True


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("lengths", "packed"), [(LENGTHS, False), (LENGTHS, True), (ALIKE, False), (ALIKE, True)])
def test_equals_attention_under_a_mask(lengths, packed, dtype) -> None:
    where = located(lengths, packed)
    rows, length = (1, sum(lengths)) if packed else (len(lengths), max(lengths))
    mask = torch.zeros(rows, 1, length, length, dtype=torch.bool)
    for row, start, stop in where:
        mask[row, 0, start:stop, start:stop] = torch.ones(stop - start, stop - start, dtype=torch.bool).tril()
    used = mask.any(dim=-1)[:, 0]  # (rows, length)
    results = []
    for by_segment in (True, False):
        query, key, value = states(rows, length, dtype)
        if by_segment:
            output, weights = segment_attention(Layer(), query, key, value, where, scaling=0.25)
            assert weights is None and output.dtype == dtype
        else:
            keys, values = (one.float().repeat_interleave(2, dim=1) for one in (key, value))
            output = functional.scaled_dot_product_attention(query.float(), keys, values, attn_mask=mask, scale=0.25)
            output = output.transpose(1, 2).to(dtype)
        output[used].float().square().sum().backward()
        results.append([output[used].float(), *(one.grad.float() for one in (query, key, value))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2 if dtype == torch.bfloat16 else 1e-4, atol=2e-2)


def test_one_layer_attends_from_some_positions() -> None:
    where, columns = located(ALIKE, packed=False), torch.tensor([2, 6, 7])
    layer = Layer()
    results = []
    for within in (queries_at(layer, columns), nullcontext()):
        query, key, value = states(len(ALIKE), max(ALIKE), torch.float32)
        with within:
            output = segment_attention(layer, query, key, value, where, scaling=0.25)[0][:, columns]
        output.square().sum().backward()
        results.append([output, *(one.grad for one in (query, key, value))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def small_model():
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    return LlamaModel(config).eval()


def test_no_mask_is_made_where_samples_are_known(monkeypatch) -> None:
    model = small_model()
    ids = torch.arange(15)[None]
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    with torch.no_grad():
        expected = model(ids, position_ids=positions, use_cache=False).last_hidden_state
        attend_by_segment(model)
        masked = model(ids, position_ids=positions, use_cache=False).last_hidden_state
        monkeypatch.setattr("formcoach.models.segment_attention.sdpa_mask", None)
        with segments(located(LENGTHS, packed=True)):
            found = model(ids, position_ids=positions, use_cache=False).last_hidden_state
    torch.testing.assert_close(masked, expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_generation_is_as_before() -> None:
    model = small_model()
    ids = torch.arange(6).repeat(2, 1)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        expected = model(ids, attention_mask=mask).last_hidden_state
        attend_by_segment(model)
        torch.testing.assert_close(model(ids, attention_mask=mask).last_hidden_state, expected)
