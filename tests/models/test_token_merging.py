"""Token merging against the algorithm as it is written down, one group and one token at a time."""

import pytest
import torch

from formcoach.models.internvideo.token_merging import merge_tokens


def merge_literally(tokens, keep, heads):
    merged = []
    for group in tokens:
        values, sizes = group, torch.ones(len(group), dtype=group.dtype)
        while len(values) > keep:
            remove = min(len(values) // 2, len(values) - keep)
            metric = values.reshape(len(values), heads, -1).mean(1)
            metric = metric / metric.norm(dim=-1, keepdim=True)
            even, odd = metric[::2], metric[1::2]
            best, partner = (even @ odd.T).max(-1)
            order = best.argsort(descending=True)
            sums, counts = values[1::2] * sizes[1::2, None], sizes[1::2].clone()
            for place in order[:remove].tolist():
                to = partner[place]
                sums = sums.index_add(0, to[None], values[::2][place : place + 1] * sizes[::2][place])
                counts[to] += sizes[::2][place]
            stays = order[remove:]
            values = torch.cat([values[::2][stays], sums / counts[:, None]])
            sizes = torch.cat([sizes[::2][stays], counts])
        merged.append(values)
    return torch.stack(merged)


@pytest.mark.parametrize("count", [1024, 196, 144, 129, 101, 100, 65, 64])
def test_equals_the_literal_algorithm(count):
    tokens = torch.randn(3, count, 24, generator=torch.Generator().manual_seed(count), dtype=torch.float64).float()
    torch.testing.assert_close(merge_tokens(tokens, 64, 4), merge_literally(tokens, 64, 4), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [256, 100])
def test_gradient_flows_through_the_averages(count):
    tokens = torch.randn(2, count, 16, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(2, 64, 16, generator=torch.Generator().manual_seed(1))
    gradients = []
    for merge in (merge_tokens, merge_literally):
        leaf = tokens.clone().requires_grad_()
        (merge(leaf, 64, 4) * weights).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_equal_tokens_stay_as_they_are():
    torch.testing.assert_close(merge_tokens(torch.ones(1, 128, 8), 64, 2), torch.ones(1, 64, 8))


@pytest.mark.parametrize("count", [256, 100])
def test_groups_do_not_see_each_other(count):
    tokens = torch.randn(3, count, 16, generator=torch.Generator().manual_seed(2))
    alone = [merge_tokens(group[None], 64, 4) for group in tokens]
    torch.testing.assert_close(merge_tokens(tokens, 64, 4), torch.cat(alone))


def test_as_many_tokens_as_are_kept_stay_as_they_are():
    tokens = torch.randn(2, 64, 8)
    assert torch.equal(merge_tokens(tokens, 64, 2), tokens)


@pytest.mark.parametrize("count", [256, 100])
def test_half_precision_is_averaged_in_float32(count):
    tokens = torch.randn(2, count, 16, generator=torch.Generator().manual_seed(3)).bfloat16()
    torch.testing.assert_close(
        merge_tokens(tokens, 64, 4), merge_tokens(tokens.float(), 64, 4).bfloat16(), atol=0, rtol=0
    )


def test_too_few_tokens_are_refused():
    with pytest.raises(ValueError, match="36 tokens"):
        merge_tokens(torch.randn(1, 36, 8), 64, 2)
