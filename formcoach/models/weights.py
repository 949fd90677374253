"""The files that hold a checkpoint's weights, and what their headers say; nothing is loaded."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from formcoach.errors import UserError
from formcoach.files import inside, read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = "has pickled weights (*.bin) only, which can run code when read; use a safetensors version"
REMEDY = "Download the checkpoint again, all of its files."
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}  # safetensors' names -> torch's


class ShardIndex(msgspec.Struct, frozen=True):
    """`model.safetensors.index.json`: which file holds which tensor."""

    weight_map: dict[str, str]


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


def stored_shapes(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Return name and shape of each tensor in weight files.

    Raises:
        UserError: if one is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise UserError(f"{file}: no such file, though the index names it. {REMEDY}") from None
        except SafetensorError as error:
            raise UserError(f"{file}: is damaged ({error}). {REMEDY}") from None
    return shapes


def stored_dtype(files: Sequence[Path]) -> str:
    """Return torch's name for the type of a checkpoint's weights, that of its first floating-point tensor.

    Raises:
        UserError: if it has none of a known type.
    """
    from safetensors import safe_open

    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if (dtype := tensors.get_slice(name).get_dtype()) in DTYPES:
                    return DTYPES[dtype]
    raise UserError(f"{files[0].parent}: its weights are not {', '.join(DTYPES.values())}. {REMEDY}")
