"""A model family: all that the rest of the project needs to know about one kind of model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.config import Recipe
from formcoach.models.sizes import ModelSizes

if TYPE_CHECKING:
    from formcoach.models.opening import Checkpoints


@dataclass(frozen=True)
class Family:
    """One kind of model.

    Args:
        name: what it is called in messages.
        model_types: `model_type` in the `config.json` of its checkpoints.
        checkpoints: returns what reads its checkpoints.
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
    checkpoints: Callable[[], "Checkpoints"]
    sizes: Callable[[Path], ModelSizes]
    published: Mapping[str, ModelSizes]
    vision: str
    connector: str
    language: str
    lora_targets: str
    vision_lora_targets: str
    recipe: Recipe
