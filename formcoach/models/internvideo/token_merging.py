"""HiCo token merging: bipartite soft matching of a clip's visual tokens.

The algorithm is that of InternVideo2.5 (after Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023), written
for all groups at once. It carries sums instead of averages: the similarity is a cosine, which a token's size does not
change, so that one division at the end is enough.
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
    groups, count, _ = tokens.shape
    if count < keep:
        raise ValueError(f"{count} tokens a group cannot be merged to {keep}")
    sums = tokens.float()
    sizes = sums.new_ones(groups, count, 1)
    while count > keep:
        merged = min(count // 2, count - keep)
        sums, sizes = _merge_once(sums, sizes, merged, heads)
        count -= merged
    return (sums / sizes).to(tokens.dtype)


def _merge_once(sums: Tensor, sizes: Tensor, merged: int, heads: int) -> tuple[Tensor, Tensor]:
    """Merge `merged` even tokens of each group into odd ones; see `merge_tokens`."""
    order, partner = _match(sums.detach(), merged, heads)
    even_sums, odd_sums = sums[:, ::2], sums[:, 1::2]  # (groups, ceil(n / 2), c), (groups, n // 2, c)
    even_sizes, odd_sizes = sizes[:, ::2], sizes[:, 1::2]
    if order is None:
        return _add_at(odd_sums, partner, even_sums), _add_at(odd_sizes, partner, even_sizes)
    goes, stays = order[:, :merged], order[:, merged:]
    partner = partner.gather(1, goes)
    odd_sums = _add_at(odd_sums, partner, _take(even_sums, goes))
    odd_sizes = _add_at(odd_sizes, partner, _take(even_sizes, goes))
    return (
        torch.cat([_take(even_sums, stays), odd_sums], dim=1),
        torch.cat([_take(even_sizes, stays), odd_sizes], dim=1),
    )


@torch.no_grad()
def _match(sums: Tensor, merged: int, heads: int) -> tuple[Tensor | None, Tensor]:
    """Return the even tokens in falling order of similarity, and each even token's most similar odd one.

    The order is None where all even tokens are merged, which needs no sorting.

    Args:
        sums: (groups, n, channels) float32.
        merged: even tokens that will be merged.
        heads: see `merge_tokens`.

    Returns:
        (groups, ceil(n / 2)) positions among the even tokens or None, (groups, ceil(n / 2)) among the odd tokens.
    """
    metric = sums.unflatten(-1, (heads, -1)).mean(dim=2)  # (groups, n, channels / heads)
    metric = metric / metric.norm(dim=-1, keepdim=True)
    with torch.autocast(sums.device.type, enabled=False):
        similarity = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)  # (groups, even, odd)
    best, partner = similarity.max(dim=-1)
    if merged == best.shape[1]:
        return None, partner
    return best.argsort(dim=-1, descending=True), partner


def _take(values: Tensor, positions: Tensor) -> Tensor:
    """Pick tokens of each group: (groups, n, c) at (groups, k) -> (groups, k, c)."""
    return values.flatten(0, 1).index_select(0, _flat(positions, values.shape[1])).view(*positions.shape, -1)


def _add_at(values: Tensor, positions: Tensor, added: Tensor) -> Tensor:
    """Add (groups, k, c) to (groups, n, c) at (groups, k), repeated positions included."""
    sums = values.clone(memory_format=torch.contiguous_format)  # (groups, n, c)
    sums.view(-1, sums.shape[-1]).index_add_(0, _flat(positions, sums.shape[1]), added.flatten(0, 1))
    return sums


def _flat(positions: Tensor, tokens: int) -> Tensor:
    """Positions within groups of `tokens` tokens -> positions in all groups laid end to end."""
    offsets = torch.arange(0, len(positions) * tokens, tokens, device=positions.device)
    return (positions + offsets[:, None]).flatten()
