"""HiCo token merging: bipartite soft matching of a clip's visual tokens.

The algorithm is that of InternVideo2.5 (after Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023), written
for all groups at once. Two things make it cheap. The rounds of matching see only what similarity is taken on, one
head's width, and note where each token goes; the tokens themselves are added up once, at the end. And sums stand for
averages until then: averaging over heads is linear, and a cosine does not change with a token's size.
"""

import torch
from torch import Tensor


def merge_tokens(tokens: Tensor, keep: int, heads: int) -> Tensor:
    """Merge similar tokens of each group until `keep` are left.

    In each round the even tokens look for their most similar odd token; those with the highest similarity are merged
    into it, weighted by how many original tokens each stands for. Unmerged even tokens come first in the result, by
    falling similarity, then all odd tokens. The matching carries no gradient, the averages do.

    Args:
        tokens: (groups, n, channels).
        keep: tokens to keep of each group.
        heads: the similarity is taken on channels averaged over this many heads; divides `channels`.

    Returns:
        (groups, keep, channels) in the type of `tokens`; averages are taken in float32.

    Raises:
        ValueError: if a group has fewer than `keep` tokens.
    """
    groups, count, channels = tokens.shape
    if count < keep:
        raise ValueError(f"{count} tokens a group cannot be merged to {keep}")
    values = tokens.float()
    places = _match(values, keep, heads)  # (groups, n)
    sizes = values.new_zeros(groups, keep).scatter_add_(1, places, values.new_ones(groups, count))
    # At full width index_add_, which adds whole rows, takes a ninth of scatter_add_; it wants places across all groups.
    starts = torch.arange(0, groups * keep, keep, device=places.device)
    sums = values.new_zeros(groups * keep, channels)
    sums.index_add_(0, (places + starts[:, None]).flatten(), values.flatten(0, 1))
    return (sums.unflatten(0, (groups, keep)) / sizes[..., None]).to(tokens.dtype)


@torch.no_grad()
def _match(values: Tensor, keep: int, heads: int) -> Tensor:
    """Return which of the `keep` merged tokens each token becomes a part of.

    Args:
        values: (groups, n, channels) float32.
        keep: see `merge_tokens`.
        heads: see `merge_tokens`.

    Returns:
        (groups, n) places from 0 to `keep` - 1.
    """
    groups, count, _ = values.shape
    metric = values.unflatten(-1, (heads, -1)).mean(dim=2)  # (groups, n, channels / heads)
    places = torch.arange(count, device=values.device).expand(groups, -1)
    while count > keep:
        merged = min(count // 2, count - keep)
        moves = _match_once(metric, merged)
        count -= merged
        sums = metric.new_zeros(groups, count, metric.shape[-1])
        metric = sums.scatter_add_(1, moves[..., None].expand_as(metric), metric)  # (groups, count, channels / heads)
        places = moves.gather(1, places)
    return places


def _match_once(metric: Tensor, merged: int) -> Tensor:
    """Return the place of each token after one round that merges `merged` even tokens of each group into odd ones.

    Args:
        metric: (groups, n, width), what similarity is taken on.
        merged: at most the number of odd tokens.

    Returns:
        (groups, n) places from 0 to n - `merged` - 1: unmerged even tokens by falling similarity, then the odd ones.
    """
    metric = metric / metric.norm(dim=-1, keepdim=True)
    with torch.autocast(metric.device.type, enabled=False):
        similarity = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)  # (groups, even, odd)
    best, partner = similarity.max(dim=-1)  # (groups, even)
    unmerged = best.shape[1] - merged
    ahead = torch.arange(metric.shape[1] - merged, device=metric.device).expand(len(metric), -1)
    if unmerged:  # where all even tokens are merged, as in every halving, their order does not matter
        stays = best.argsort(dim=-1, descending=True)[:, merged:]
        partner = (partner + unmerged).scatter(1, stays, ahead[:, :unmerged])
    moves = partner.new_empty(metric.shape[:2])
    moves[:, ::2] = partner
    moves[:, 1::2] = ahead[:, unmerged:]
    return moves
