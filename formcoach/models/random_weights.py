"""Random weights, written shard by shard: for checkpoints of any size without a download."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from formcoach.files import write_json
from formcoach.models.weights import INDEX

STD = 0.02
SHARD_BYTES = 2 * 2**30

Shapes = Mapping[str, tuple[int, ...]]


def write_random_weights(
    folder: Path,
    shapes: Shapes,
    draw: Callable[[str, tuple[int, ...], torch.dtype, int], Tensor],
    dtype: torch.dtype,
    seed: int,
    shard_bytes: int,
) -> None:
    """Write shards and their index; one shard at a time is held in memory.

    Args:
        folder: exists.
        shapes: tensor name -> shape.
        draw: returns a tensor for its name, shape, type and a seed of its own.
        dtype: of the weights.
        seed: of the weights.
        shard_bytes: most bytes of a shard.
    """
    shards = list(_shards(shapes, shard_bytes // dtype.itemsize))
    seeds = count(seed * len(shapes))
    index: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        with ThreadPoolExecutor() as pool:
            drawn = pool.map(lambda name, own: draw(name, shapes[name], dtype, own), names, seeds)
            tensors = dict(zip(names, drawn, strict=True))
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    total = sum(torch.Size(shape).numel() for shape in shapes.values()) * dtype.itemsize
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": index})


def normal(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Return numbers from a normal distribution of standard deviation 0.02."""
    return torch.empty(shape, dtype=dtype).normal_(std=STD, generator=torch.Generator().manual_seed(seed))


def _shards(shapes: Shapes, most: int) -> Iterator[list[str]]:
    """Yield the names of each shard's tensors, at most `most` numbers together unless one alone has more."""
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        numbers = torch.Size(shape).numel()
        if names and size + numbers > most:
            yield names
            names, size = [], 0
        names.append(name)
        size += numbers
    yield names
