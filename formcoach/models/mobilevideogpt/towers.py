"""The vision towers of an original checkpoint that comes without one: from the repository that its `config.json` names.

Of pickled weights, which VideoMamba's authors publish only, one file name is read, and of it nothing but tensors.
"""

import re
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from formcoach.errors import UserError
from formcoach.files import read_json
from formcoach.models.hub import HubName, fetch, file_names
from formcoach.models.layout import Borrowed
from formcoach.models.mobilevideogpt.conversion import IMAGE_TOWER, VIDEO_TOWER
from formcoach.models.mobilevideogpt.original import parse_original
from formcoach.models.mobilevideogpt.positions import Shape, resize_grid, resize_time
from formcoach.models.weights import INDEX, PICKLED, REMEDY, SINGLE, read_headers, weight_files

HALF_AN_ENCODER = (
    re.compile(r".*\.mixer\.(A_b_log|D_b|(conv1d|x_proj|dt_proj)_b\..*)"),
    "it belongs to the backward direction of the video encoder; with half an encoder a model runs but answers wrongly, "
    "so it must not be used",
)
_WRAPPINGS = ("model", "module", "state_dict")  # keys under which training programs keep the weights
_FLOATS = {torch.float32, torch.float16, torch.bfloat16}


@dataclass(frozen=True)
class Tower:
    """A vision tower, and how its own repository keeps it.

    Args:
        what: it is called, for messages.
        setting: of `config.json`, which names the repository.
        prefix: of its tensors' names in an original checkpoint.
        ours: of their names in our model.
        mark: the end of a name that each such tower has once; what is before it is its prefix in the file.
        pickle: name of the only file with pickled weights that is read; None: there is none.
        resized: position embeddings, which are fitted to the model's sizes.
        ignored: matches names of tensors of earlier versions.
    """

    what: str
    setting: str
    prefix: str
    ours: str
    mark: str
    pickle: str | None
    resized: Mapping[str, Callable[[Tensor, Shape], Tensor]]
    ignored: re.Pattern


TOWERS = (
    Tower(
        what="video tower",
        setting="mm_vision_tower",
        prefix=VIDEO_TOWER,
        ours="model.vision_tower.video.",
        mark="temporal_pos_embedding",
        pickle="videomamba_m16_25M_f8_res224.pth",
        resized={"pos_embed": resize_grid, "temporal_pos_embedding": resize_time},
        ignored=re.compile(r"(?!)"),
    ),
    Tower(
        what="image tower",
        setting="image_mm_vision_tower",
        prefix=IMAGE_TOWER,
        ours="model.vision_tower.image.",
        mark="embeddings.class_embedding",
        pickle=None,
        resized={"embeddings.position_embedding.weight": resize_grid},
        ignored=re.compile(r"embeddings\.position_ids"),
    ),
)


def borrow(folder: Path, model: Any, stored: Collection[str]) -> list[Borrowed]:
    """Return the towers that an original checkpoint lacks, with position embeddings resized to the model's.

    Args:
        folder: the checkpoint's.
        model: on torch's meta device.
        stored: names of the checkpoint's tensors; a tower of which it has any is its own.

    Raises:
        UserError: a tower is not to be had, damaged, or not the one that `config.json` describes; it names file and
            tensor.
    """
    lacking = [tower for tower in TOWERS if not any(name.startswith(tower.prefix) for name in stored)]
    if not lacking:
        return []
    config = folder / "config.json"
    original = parse_original(config, read_json(config, REMEDY))
    return [_borrowed(config, tower, getattr(original, tower.setting), model.state_dict()) for tower in lacking]


def _borrowed(config: Path, tower: Tower, name: str, ours: Mapping[str, Tensor]) -> Borrowed:
    """Return a tower's weights by the names that they have in a checkpoint."""
    own = [one for one in ours if one.startswith(tower.ours)]
    wanted = {one.removeprefix(tower.ours): tuple(ours[one].shape) for one in own}
    try:
        files = _files(tower, name)
    except UserError as error:
        raise UserError(f"{config}: has no {tower.what}, and {tower.setting} {name!r} gives none: {error}") from None
    found = _own_tensors(files[0], tower, _read(files, tower))
    for part, resize in tower.resized.items():
        if part in found:
            found[part] = resize(found[part], wanted[part])
    _check(files[0], tower, found, wanted)
    return Borrowed(tower.what, name, {tower.prefix + one: found[one] for one in wanted})


def _files(tower: Tower, name: str) -> tuple[Path, ...]:
    """Return the files that hold a tower, fetching them if need be.

    Args:
        tower: the tower.
        name: a hub id or a local folder or file, as `config.json` has it. VideoMamba is also called by hub id and file.

    Raises:
        UserError: there is no such thing.
    """
    try:
        if wanted := HubName.parse(name.removesuffix(f"/{tower.pickle}")):
            return _on_hub(tower, wanted)
        path = Path(name)
        if path.is_file():
            return (path,)
        if path.is_dir():
            return _in_folder(tower, path)
    except (OSError, ValueError) as error:  # no name of a path
        raise UserError(" ".join(str(error).split())) from None
    raise UserError("it is neither a hub id nor a folder or file here; correct it")


def _on_hub(tower: Tower, wanted: HubName) -> tuple[Path, ...]:
    patterns = (tower.pickle,) if tower.pickle else ("model*.safetensors", INDEX)
    folder = fetch(wanted, patterns, lambda found: _is_complete(tower, found))
    names = file_names(wanted, folder)
    if not tower.pickle and not {SINGLE, INDEX}.intersection(names) and any(one.endswith(".bin") for one in names):
        raise UserError(f"model {wanted}: {PICKLED}")
    return _in_folder(tower, folder)


def _is_complete(tower: Tower, folder: Path) -> bool:
    try:
        return all(path.is_file() for path in _in_folder(tower, folder))
    except UserError:
        return False


def _in_folder(tower: Tower, folder: Path) -> tuple[Path, ...]:
    """Return the files of a folder that hold a tower: safetensors where there are any."""
    if tower.pickle is None or any((folder / name).is_file() for name in (SINGLE, INDEX)):
        return weight_files(folder)
    if not (folder / tower.pickle).is_file():
        raise UserError(f"{folder}: has neither {SINGLE} nor {tower.pickle}")
    return (folder / tower.pickle,)


def _read(files: tuple[Path, ...], tower: Tower) -> dict[str, Tensor]:
    """Return all tensors of a tower's files by name; they stay on the disk until they are used.

    Raises:
        UserError: a file is damaged, or holds pickled weights other than the ones known.
    """
    if files[0].suffix != ".safetensors":
        if files[0].name != tower.pickle:
            known = f" or {tower.pickle}" if tower.pickle else ""
            raise UserError(
                f"{files[0]}: is not read, since pickled weights can run code; name .safetensors{known} for the "
                f"{tower.what}"
            )
        return _read_pickled(files[0])
    read_headers(files)  # tells what is damaged
    tensors: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as stored:
            tensors |= {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    return tensors


def _read_pickled(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a PyTorch file, unpickling nothing but tensors and plain values.

    Raises:
        UserError: it has anything else, or is damaged.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged pickle raises anything
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{file}: is damaged or holds more than weights ({reason}). Download it again") from None
    for _ in _WRAPPINGS:
        if isinstance(content, dict):
            content = next((content[key] for key in _WRAPPINGS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no weights by name. Download it again")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _own_tensors(file: Path, tower: Tower, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a tower's tensors without their prefix; a file may hold other parts of a larger model."""
    marks = [name for name in tensors if name == tower.mark or name.endswith(f".{tower.mark}")]
    if len(marks) != 1:
        raise UserError(f"{file}: has {len(marks)} tensors called {tower.mark}, so it is no {tower.what}. Name another")
    prefix = marks[0].removesuffix(tower.mark)
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _check(file: Path, tower: Tower, found: Mapping[str, Tensor], wanted: Mapping[str, Shape]) -> None:
    """Refuse another tower than the model's.

    Raises:
        UserError: naming the first missing, surplus, misshapen or mistyped tensor.
    """
    missing = [name for name in wanted if name not in found]
    half, reason = HALF_AN_ENCODER
    for name in sorted(missing, key=lambda name: half.fullmatch(name) is None):
        why = f": {reason}" if half.fullmatch(name) else ""
        raise UserError(f"{file}: tensor {name} of the {tower.what} is missing{why}. Name another in config.json")
    parts = {name.partition(".")[0] for name in wanted}
    for name in found:
        if name not in wanted and name.partition(".")[0] in parts and not tower.ignored.fullmatch(name):
            raise UserError(
                f"{file}: tensor {name} belongs to a larger {tower.what} than config.json describes. Correct either"
            )
    for name, shape in wanted.items():
        value = found[name]
        if tuple(value.shape) != shape:
            raise UserError(
                f"{file}: tensor {name} of the {tower.what} has shape {tuple(value.shape)}, but config.json asks for "
                f"{shape}. Correct either"
            )
        if value.dtype not in _FLOATS or value.layout != torch.strided or value.device.type != "cpu":
            raise UserError(f"{file}: tensor {name} of the {tower.what} holds no plain numbers ({value.dtype})")
