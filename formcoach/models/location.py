"""Where the model that a user names lies on the disk: a hub id, a folder, a run, an adapter or `tiny`."""

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from formcoach.errors import UserError
from formcoach.files import read_json

TINY = "tiny"
TINY_FOLDER = Path(__file__).resolve().parents[1] / "assets" / TINY
ALIASES = {"OpenGVLab/InternVideo2_5-Chat-8B": "OpenGVLab/InternVideo2_5_Chat_8B"}

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
RUN_SETTINGS = "training_config.json"
RECIPE_FILE = "recipe.json"  # beside a model's config.json: what it is trained with
BEST = "best.json"  # in a run directory: which checkpoint had the lowest validation loss

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_STEP = re.compile(r"(?:step_|checkpoint-)(\d+)")
_HUB_FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")


@dataclass(frozen=True)
class Location:
    """A base model, and an adapter on top of it or none.

    Args:
        name: the base model as the user, or the adapter, names it.
        base: its folder.
        adapter: the adapter's folder.
    """

    name: str
    base: Path
    adapter: Path | None


class BestCheckpoint(msgspec.Struct, frozen=True):
    """`best.json` of a run directory."""

    checkpoint: str
    val_loss: float


def locate(path_or_id: str | Path, adapter: str | Path | None = None) -> Location:
    """Find base model and adapter.

    Args:
        path_or_id: see `formcoach.models.load_model`.
        adapter: an adapter or run folder to put on the base that `path_or_id` names.

    Raises:
        UserError: nothing of that name exists, or an adapter is given twice.
    """
    if adapter is None:
        found = resolve_checkpoint(path_or_id)
        if not is_adapter(found):
            return Location(_canonical(path_or_id), found, None)
        base = base_of(found)
        try:
            return Location(base, resolve_checkpoint(base), found)
        except UserError as error:
            raise UserError(f"{found}: its base model is not to be had: {error}") from None
    base, found = resolve_checkpoint(path_or_id), resolve_checkpoint(adapter)
    if is_adapter(base):
        raise UserError(
            f"{path_or_id} is an adapter itself; name its base model {base_of(base)} to use another adapter"
        )
    if not is_adapter(found):
        raise UserError(f"{adapter}: has no {ADAPTER_CONFIG}, so it is not an adapter")
    return Location(_canonical(path_or_id), base, found)


def resolve_checkpoint(path_or_id: str | Path) -> Path:
    """Return the folder of a checkpoint: a base model's or an adapter's.

    A run directory gives its best checkpoint by validation loss, else its newest. A hub id is downloaded, unless it
    lies in the hub's cache.

    Raises:
        UserError: it does not exist, or the run has no complete checkpoint.
    """
    name = _canonical(path_or_id)
    if name == TINY:
        return TINY_FOLDER
    folder = Path(name)
    if folder.is_dir():
        return _checkpoint_in(folder)
    if _is_hub_id(name):
        return _download(name, _HUB_FILES)
    raise UserError(
        f"model {name}: no such folder. Give a folder with a checkpoint, a hub id such as "
        f"OpenGVLab/InternVideo2_5_Chat_8B, or {TINY}"
    )


def config_file(path_or_id: str | Path) -> Path:
    """Return the `config.json` of a base model, fetching no weights; see `resolve_checkpoint`."""
    name = _canonical(path_or_id)
    if _is_hub_id(name):
        return _download(name, ("config.json",)) / "config.json"
    found = resolve_checkpoint(name)
    return config_file(base_of(found)) if is_adapter(found) else found / "config.json"


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter rather than a model."""
    return (folder / ADAPTER_CONFIG).is_file()


def base_of(adapter: Path) -> str:
    """Return the name of the base model that an adapter was trained on, from its `adapter_config.json`."""
    name = read_json(adapter / ADAPTER_CONFIG, "Name another adapter.").get("base_model_name_or_path")
    if not name:
        raise UserError(f"{adapter / ADAPTER_CONFIG}: does not name its base model; load it as adapter= of one")
    return name


def _canonical(path_or_id: str | Path) -> str:
    return ALIASES.get(str(path_or_id), str(path_or_id))


def _is_hub_id(name: str) -> bool:
    """Tell a hub id from a path: `owner/name`, neither a folder nor below one."""
    return bool(_HUB_ID.fullmatch(name)) and not Path(name).exists() and not Path(name).parent.is_dir()


def _checkpoint_in(folder: Path) -> Path:
    """Return `folder`, or the checkpoint in it to use if it is a run directory."""
    if is_adapter(folder) or (folder / "config.json").is_file():
        return folder
    steps = {child.name: child for child in folder.iterdir() if _is_complete(child)}
    numbered = sorted((int(match[1]), name) for name in steps if (match := _STEP.fullmatch(name)))
    if not numbered:
        what = "has no complete checkpoint yet" if (folder / RUN_SETTINGS).is_file() else "has no config.json"
        raise UserError(f"{folder}: {what}. Train one with scripts/finetune_qved.sh, or name another folder")
    if (folder / BEST).is_file():
        best = _read_best(folder / BEST)
        if best in steps:
            return steps[best]
    return steps[numbered[-1][1]]


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))


def _read_best(path: Path) -> str:
    remedy = "Remove it to use the newest checkpoint."
    try:
        return msgspec.convert(read_json(path, remedy), BestCheckpoint).checkpoint
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}. {remedy}") from None


def _download(name: str, files: tuple[str, ...]) -> Path:
    """Return the folder of a hub model in the hub's cache, downloading what is missing of `files`."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except GatedRepoError:
        raise UserError(f"model {name}: access is restricted; ask for it on the hub and run `hf auth login`") from None
    except RepositoryNotFoundError:
        raise UserError(f"model {name}: there is no such folder here and no such model on the hub") from None
    except (LocalEntryNotFoundError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a full disk, not the network
        raise UserError(
            f"model {name}: there is no such folder here, and the hub cannot be reached. Download it where there is a "
            f"network (`hf download {name} --local-dir FOLDER`) and give that folder, or use {TINY}"
        ) from None
