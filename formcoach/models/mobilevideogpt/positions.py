"""Position embeddings for another number of patches or frames than they were trained with."""

import math

import torch
from torch import Tensor
from torch.nn import functional

MOST = 1000  # patches along a side, or frames, that are resized; a file with more is damaged

Shape = tuple[int, ...]


def resize_grid(positions: Tensor, shape: Shape) -> Tensor:
    """Resize the positions of a square of patches bicubically, as VideoMamba's authors do; the class token keeps its.

    Args:
        positions: (1 + n * n, width), or the same with a leading dimension of 1; the class token comes first.
        shape: the one wanted.

    Returns:
        Positions of that shape; `positions` itself where that is not possible.
    """
    if not _differ_in_count_only(positions, shape):
        return positions
    width = shape[-1]
    rows = positions.reshape(-1, width)  # (1 + n * n, width)
    side, wanted = math.isqrt(len(rows) - 1), math.isqrt(shape[-2] - 1)
    if side * side != len(rows) - 1 or not 0 < side <= MOST:
        return positions
    grid = rows[1:].float().T.reshape(1, width, side, side)
    grid = functional.interpolate(grid, size=(wanted, wanted), mode="bicubic", align_corners=False)
    return torch.cat([rows[:1], grid.reshape(width, -1).T.to(positions.dtype)]).reshape(shape)


def resize_time(positions: Tensor, shape: Shape) -> Tensor:
    """Resize the positions of frames, (1, frames, width), linearly; likewise."""
    if not _differ_in_count_only(positions, shape) or not positions.shape[-2] <= MOST:
        return positions
    times = functional.interpolate(positions.float().mT, size=shape[-2], mode="linear", align_corners=False)
    return times.mT.to(positions.dtype).contiguous()


def _differ_in_count_only(positions: Tensor, shape: Shape) -> bool:
    """Tell whether positions are as wide as those wanted, but more or fewer."""
    found = tuple(positions.shape)
    counts = len(found) == len(shape) and found[-2] > 0 and found[-2] != shape[-2]
    return counts and (*found[:-2], found[-1]) == (*shape[:-2], shape[-1])
