"""The files that hold a checkpoint's weights, and what their headers say; nothing is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from formcoach.errors import UserError
from formcoach.files import inside, read_json

if TYPE_CHECKING:
    from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = "has pickled weights (*.bin) only, which can run code when read; use a safetensors version"
REMEDY = "Download the checkpoint again, all of its files."
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}  # safetensors' names -> torch's


class ShardIndex(msgspec.Struct, frozen=True):
    """`model.safetensors.index.json`: which file holds which tensor."""

    weight_map: dict[str, str]


@dataclass(frozen=True)
class Header:
    """What a weight file says about a tensor.

    Args:
        shape: of the tensor.
        dtype: as safetensors names it, see `DTYPES`.
    """

    shape: tuple[int, ...]
    dtype: str


def header_of(tensor: "Tensor") -> Header:
    """Return what a weight file would say about a tensor."""
    name = str(tensor.dtype).removeprefix("torch.")
    return Header(tuple(tensor.shape), next(ours for ours, known in DTYPES.items() if known == name))


def weight_files(folder: Path) -> tuple[Path, ...]:
    """Return the weight files of a checkpoint: the only one, or those that its index names.

    Raises:
        UserError: if it has none, or only such that can run code when they are read, or the index is damaged.
    """
    index = folder / INDEX
    if (folder / SINGLE).is_file():
        return (folder / SINGLE,)
    if index.is_file():
        try:
            names = msgspec.convert(read_json(index, REMEDY), ShardIndex).weight_map.values()
        except msgspec.ValidationError as error:
            raise UserError(f"{index}: {error}. {REMEDY}") from None
        return tuple(inside(folder, name) for name in sorted(set(names)))
    if any(folder.glob("*.bin")):
        raise UserError(f"{folder}: {PICKLED}")
    raise UserError(f"{folder}: has no {SINGLE} or {INDEX}. {REMEDY}")


def read_headers(files: Sequence[Path]) -> dict[str, Header]:
    """Return what weight files say about their tensors, by name.

    Raises:
        UserError: if a file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    headers: dict[str, Header] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    tensor = tensors.get_slice(name)
                    headers[name] = Header(tuple(tensor.get_shape()), tensor.get_dtype())
        except FileNotFoundError:
            raise UserError(f"{file}: no such file, though the index names it. {REMEDY}") from None
        except SafetensorError as error:
            raise UserError(f"{file}: is damaged ({error}). {REMEDY}") from None
    return headers
