"""Models: `load_model` is the one way in."""

import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from formcoach.config import Recipe
from formcoach.errors import UserError
from formcoach.files import read_json
from formcoach.models.family import Family
from formcoach.models.hub import HubName, at_revision
from formcoach.models.internvideo import INTERNVIDEO
from formcoach.models.location import RECIPE_FILE, base_of, config_file, locate, resolve_checkpoint
from formcoach.models.mobilevideogpt import MOBILEVIDEOGPT
from formcoach.models.precision import Precision
from formcoach.models.sizes import ModelSizes

if TYPE_CHECKING:
    from formcoach.models.export import Exported

__all__ = [
    "Precision",
    "base_of",
    "default_model",
    "export_model",
    "family_named",
    "family_of",
    "load_model",
    "recipe_for",
    "resolve_checkpoint",
]

# All that is known: whatever depends on the family of a model finds it here, at each call.
FAMILIES = (INTERNVIDEO, MOBILEVIDEOGPT)
EXPORTS = ("adapter", "original", "native")


def load_model(
    path_or_id: str | Path,
    dtype: str = "auto",
    quantization: str | None = None,
    device: str = "auto",
    adapter: str | Path | None = None,
    attention: str = "auto",
    revision: str | None = None,
) -> tuple[Any, Any]:
    """Load a model for inference or as the base of a training; never runs code from a checkpoint.

    Args:
        path_or_id: ``tiny`` or ``tiny-mobile`` (the packaged demo models), a folder with a checkpoint in its authors'
            layout or in this project's, an adapter's folder, a run directory (its best checkpoint by validation loss,
            else its newest), or a hub id, also as ``owner/name@revision``.
        dtype: ``auto`` (the checkpoint's own), ``bfloat16``, ``float16`` or ``float32``.
        quantization: None, ``nf4`` or ``int8``, for the language model's linear layers.
        device: ``auto`` (CUDA, else Apple's MPS, else the CPU) or a torch device.
        adapter: an adapter's folder or a run directory, to be put on the base that `path_or_id` names.
        attention: ``auto`` (FlashAttention 2 where it is installed and usable, else ``sdpa``), ``sdpa``,
            ``flash_attention_2`` or ``eager``.
        revision: branch, tag or commit of the hub id; None: what `path_or_id` says, else the default branch.

    Returns:
        The model in evaluation mode and its processor; with an adapter, the model is a `PeftModel`.

    Raises:
        UserError: it does not exist, is damaged or not of a known family, or the adapter belongs to another base.
    """
    precision = Precision(dtype, quantization, device, attention)
    plain_progress()
    location = locate(at_revision(path_or_id, revision), adapter)
    family = _family(location.base / "config.json")
    if location.adapter is None:
        return family.checkpoints().load(location.base, precision)
    from formcoach.models.adapters import check_base, load_adapter

    check_base(location)
    model, processor = family.checkpoints().load(location.base, precision)
    return load_adapter(model, location.adapter), processor.of_adapter(location.adapter)


def export_model(path_or_id: str | Path, kind: str, output: Path, base: str | Path | None = None) -> "Exported":
    """Write a model to a new folder, for others; see `formcoach.models.export.export`.

    Args:
        path_or_id: a run directory, a checkpoint or an adapter, see `load_model`.
        kind: one of `EXPORTS`.
        output: the folder.
        base: the adapter's base, where it is not the one that the adapter names.

    Raises:
        UserError: see `load_model` and `formcoach.models.export.export`.
    """
    from formcoach.models.export import export

    location = locate(path_or_id) if base is None else locate(base, path_or_id)
    return export(_family(location.base / "config.json"), location, kind, output)


def family_of(path_or_id: str | Path) -> Family:
    """Return the family of the model that `path_or_id` names, without loading its weights.

    Raises:
        UserError: it does not exist, or belongs to no known family.
    """
    return _published(path_or_id) or _family(config_file(path_or_id))


def check_family(model: str, found: Family, key: str | None) -> None:
    """Refuse a model of another family than the one that the user asks for besides.

    Args:
        model: as the user names it.
        found: its family.
        key: of the family that is asked for; None: any will do.

    Raises:
        UserError: it is of another one.
    """
    if key is not None and found is not family_named(key):
        raise UserError(f"--model {model} is not of --family {key}, but {found.name}; leave one flag out")


def recipe_for(path_or_id: str | Path) -> Recipe:
    """Return what a model is trained with where the user says nothing.

    That is its family's recipe, with the number of frames that the model takes if it takes one only, and on top the
    values of the `recipe.json` beside its `config.json`, if there is one; the published checkpoints have none.

    Raises:
        UserError: the model does not exist, or its `recipe.json` has a value that a recipe does not have.
    """
    if family := _published(path_or_id):
        return family.recipe
    config = config_file(path_or_id)
    family = _family(config)
    recipe = family.recipe
    if not family.free_frames:
        count = family.sizes(config).frame_group
        recipe = replace(recipe, min_frames=count, max_frames=count)
    path = config.with_name(RECIPE_FILE)
    if not path.is_file():
        return recipe
    remedy = "Correct or remove it."
    own = read_json(path, remedy)
    unknown = sorted(set(own) - {field.name for field in fields(Recipe)})
    if unknown:
        raise UserError(f"{path}: {unknown[0]} is not part of a recipe. {remedy}")
    try:
        return msgspec.convert(asdict(recipe) | own, Recipe)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}. {remedy}") from None


def sizes_for(path_or_id: str | Path) -> ModelSizes:
    """Return the sizes of a model; those of the published checkpoints are known without a download.

    Raises:
        UserError: it does not exist, or belongs to no known family.
    """
    if family := _published(path_or_id):
        return family.published[HubName.parse(path_or_id).id]
    config = config_file(path_or_id)
    return _family(config).sizes(config)


def default_model(family: Family = INTERNVIDEO) -> tuple[str, str]:
    """Return the model of a family to use where the user names none, and a line that says so."""
    import torch

    if torch.cuda.is_available():
        return family.large, f"no model named: using {family.large} on {torch.cuda.get_device_name(0)}"
    return family.tiny, f"no model named and no CUDA GPU: using {family.tiny}, the packaged demo model"


def family_named(key: str) -> Family:
    """Return the family that users call `key`.

    Raises:
        UserError: there is none.
    """
    for family in FAMILIES:
        if family.key == key:
            return family
    raise UserError(f"family {key!r} is unknown; known are {', '.join(family.key for family in FAMILIES)}")


def plain_progress() -> None:
    """Show transformers' progress bars on a terminal only."""
    from transformers.utils.logging import disable_progress_bar

    if not sys.stderr.isatty():
        disable_progress_bar()


def _published(path_or_id: str | Path) -> Family | None:
    """Return the family of a published checkpoint, which is known without a download; None if it is none of those."""
    wanted = HubName.parse(path_or_id)
    if wanted is None:
        return None
    return next((family for family in FAMILIES if wanted.id in family.published), None)


def _family(config: Path) -> Family:
    raw = read_json(config, "Name a folder with a checkpoint, a hub id or tiny.")
    model_type = raw.get("model_type") if isinstance(raw, dict) else None
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(kind for family in FAMILIES for kind in family.model_types)
    raise UserError(f"{config}: model_type {json.dumps(model_type)} is not supported; known are {known}")
