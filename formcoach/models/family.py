"""A model family: all that the rest of the project needs to know about one kind of model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formcoach.config import Recipe
from formcoach.models.precision import Precision
from formcoach.models.sizes import ModelSizes

if TYPE_CHECKING:
    from formcoach.models.layout import Layout


@dataclass(frozen=True)
class Family:
    """One kind of model.

    Args:
        name: what it is called in messages.
        model_types: `model_type` in the `config.json` of its checkpoints.
        load: reads a checkpoint folder: (folder, precision) -> (model, processor).
        open: reads all but its weights.
        outline: builds model, on torch's meta device, and processor of a folder that need not have weights.
        sizes: reads its sizes from a `config.json`.
        published: sizes of the checkpoints that their authors publish, by hub id.
        vision: name of the vision tower's module; all its parameters have it in theirs.
        connector: name of the connector's module, likewise.
        language: name of the language model's module, likewise.
        lora_targets: regular expression for the full names of the language model's linear layers.
        vision_lora_targets: the same for the vision tower.
        recipe: what it is trained with where the user says nothing.
    """

    name: str
    model_types: tuple[str, ...]
    load: Callable[[Path, Precision], tuple[Any, Any]]
    open: Callable[[Path], "Layout"]
    outline: Callable[[Path], tuple[Any, Any]]
    sizes: Callable[[Path], ModelSizes]
    published: Mapping[str, ModelSizes]
    vision: str
    connector: str
    language: str
    lora_targets: str
    vision_lora_targets: str
    recipe: Recipe
