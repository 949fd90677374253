"""Where the model that a user names lies on the disk: a hub id, a folder, a run, an adapter or a packaged model."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from formcoach.errors import UserError
from formcoach.files import read_json
from formcoach.models.family import RunLayout
from formcoach.models.hub import HubName, canonical, commit_of, fetch, file_names
from formcoach.models.weights import INDEX, PICKLED, weight_files

ASSETS = Path(__file__).resolve().parents[1] / "assets"
PACKAGED = ("tiny", "tiny-mobile")  # models that come with the package

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_FILE = "base_model.json"  # of an adapter: which base it was trained on
RUN_SETTINGS = "training_config.json"
WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5"}  # of any library
RECIPE_FILE = "recipe.json"  # beside a model's config.json: what it is trained with
BEST = "best.json"  # in a run directory: which checkpoint had the lowest validation loss

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

    @property
    def revision(self) -> str | None:
        """The base model's commit, if it is one of the hub."""
        return commit_of(self.base) if HubName.parse(self.name) else None

    @property
    def on_hub(self) -> HubName | None:
        """The base model at its commit, if it is one of the hub."""
        return HubName.parse(self.exact) if self.revision else None

    @property
    def exact(self) -> str:
        """The base model's name with its commit, if it is one of the hub."""
        return named_at(self.name, self.revision)


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
            return Location(canonical(path_or_id), found, None)
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
    return Location(canonical(path_or_id), base, found)


def resolve_checkpoint(path_or_id: str | Path) -> Path:
    """Return the folder of a checkpoint: a base model's or an adapter's.

    A run directory gives its best checkpoint by validation loss, else its newest. Of a hub id (`owner/name`, or
    `owner/name@revision` with a branch, tag or commit), what is missing in the hub's cache is downloaded.

    Raises:
        UserError: it does not exist, or the run has no complete checkpoint.
    """
    name = canonical(path_or_id)
    if name in PACKAGED:
        return ASSETS / name
    if wanted := HubName.parse(name):
        return _from_hub(wanted)
    folder = Path(name)
    if folder.is_dir():
        return _checkpoint_in(folder)
    raise UserError(
        f"model {name}: no such folder. Give a folder with a checkpoint, a hub id such as "
        f"OpenGVLab/InternVideo2_5_Chat_8B, or {' or '.join(PACKAGED)}"
    )


def config_file(path_or_id: str | Path) -> Path:
    """Return the `config.json` of a base model, fetching no weights; see `resolve_checkpoint`."""
    if wanted := HubName.parse(canonical(path_or_id)):
        return fetch(wanted, ("config.json", RECIPE_FILE), _has_config) / "config.json"
    found = resolve_checkpoint(path_or_id)
    return config_file(base_of(found)) if is_adapter(found) else found / "config.json"


def small_files(path_or_id: str | Path) -> Path:
    """Return the folder of a base model with all that it has but weights, which are not fetched."""
    if wanted := HubName.parse(canonical(path_or_id)):
        return fetch(wanted, tuple(files for files in _HUB_FILES if files != "*.safetensors"), _has_config)
    return resolve_checkpoint(path_or_id)


def step_of(checkpoint: str) -> int | None:
    """Return the step that the name of a checkpoint's folder tells in the words of its family; None: it tells none."""
    for layout in _layouts():
        number = checkpoint.removeprefix(layout.checkpoint)
        if checkpoint.startswith(layout.checkpoint) and number.isascii() and number.isdigit():
            return int(number)
    return None


def is_last(checkpoint: str) -> bool:
    """Tell whether a folder has the second name of a run's last checkpoint."""
    return any(checkpoint == layout.last for layout in _layouts())


def _layouts() -> list[RunLayout]:
    from formcoach import models  # which imports this module

    return [family.runs for family in models.FAMILIES]


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter rather than a model."""
    return (folder / ADAPTER_CONFIG).is_file()


def check_link(path: Path, folder: Path) -> None:
    """Refuse a file of a checkpoint's folder that is a link to somewhere else; the hub's cache is made of links.

    Raises:
        UserError: it leads out of the checkpoint.
    """
    root = folder.resolve()
    home = root.parents[1] if root.parent.name == "snapshots" else root
    if not path.resolve().is_relative_to(home):
        raise UserError(f"{path}: is a link to a file outside of the checkpoint; remove it or put the file there")


def base_of(adapter: Path) -> str:
    """Return the base model that an adapter was trained on, from its `adapter_config.json`, with its commit."""
    config = read_json(adapter / ADAPTER_CONFIG, "Name another adapter.")
    if not isinstance(config, dict):
        raise UserError(f"{adapter / ADAPTER_CONFIG}: is not an object, as PEFT writes it. Name another adapter.")
    name = config.get("base_model_name_or_path")
    if not name:
        raise UserError(f"{adapter / ADAPTER_CONFIG}: does not name its base model; load it as adapter= of one")
    return named_at(name, config.get("revision"))


def named_at(name: str, commit: str | None) -> str:
    """Return how a base model is named at a commit: `owner/name@commit`; a folder's name alone, for it has none."""
    wanted = HubName.parse(name)
    return name if wanted is None or commit is None else str(HubName(wanted.id, commit))


def _checkpoint_in(folder: Path) -> Path:
    """Return `folder`, or the checkpoint in it to use if it is a run directory."""
    if is_adapter(folder) or (folder / "config.json").is_file():
        return folder
    steps = {child.name: child for child in folder.iterdir() if _is_complete(child)}
    numbered = sorted((name for name in steps if step_of(name) is not None), key=step_of)
    usable = [name for name in steps if is_last(name)] + numbered
    if not usable:
        what = "has no complete checkpoint yet" if (folder / RUN_SETTINGS).is_file() else "has no config.json"
        raise UserError(f"{folder}: {what}. Train one with scripts/finetune_qved.sh, or name another folder")
    if (folder / BEST).is_file():
        best = _read_best(folder / BEST)
        if best in steps:
            return steps[best]
    return steps[usable[-1]]


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS))


def _read_best(path: Path) -> str:
    remedy = "Remove it to use the newest checkpoint."
    try:
        return msgspec.convert(read_json(path, remedy), BestCheckpoint).checkpoint
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}. {remedy}") from None


def _from_hub(wanted: HubName) -> Path:
    """Return the folder of a hub model in the hub's cache, downloading what is missing."""
    folder = fetch(wanted, _HUB_FILES, _has_weights)
    if not _has_weights(folder) and any(name.endswith(".bin") for name in file_names(wanted, folder)):
        raise UserError(f"model {wanted}: {PICKLED}")
    return folder


def _has_config(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _has_weights(folder: Path) -> bool:
    """Tell whether a folder has all files of weights: an adapter's, the only one, or each that the index names."""
    if _is_complete(folder):
        return True
    try:
        return all(path.is_file() for path in weight_files(folder))
    except UserError:
        return (folder / INDEX).is_file()  # the loader tells what is wrong with it


def fetch_other_files(base: HubName, folder: Path) -> None:
    """Download all files of a hub model that loading it does not need, its weights in other formats excepted.

    Args:
        base: the model at its commit.
        folder: of the model in the hub's cache.

    Raises:
        UserError: the hub cannot be reached.
    """
    others = [name for name in file_names(base, folder) if Path(name).suffix not in WEIGHT_SUFFIXES]
    if others and not _all_there(folder, others):
        fetch(base, tuple(others), lambda found: _all_there(found, others))


def _all_there(folder: Path, names: list[str]) -> bool:
    return all((folder / name).is_file() for name in names)
