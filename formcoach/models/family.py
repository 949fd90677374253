"""A model family: all that the rest of the project needs to know about one kind of model.

What its checkpoints load is a transformers model that can generate and that takes, beside a language model's arguments,
the visual inputs of its processor, a `ClipProcessor`. Training also asks the model for

- `frozen_features`: of visual inputs, what `forward` takes in their place once the vision tower has seen them;
- `gathered_whole`: see `formcoach.models.video_model.VideoModel`, which has it;
- `config.image_token_id` and `config.visual_tokens(frames)`: the placeholder of a visual token, and how many there are.

Tensors of visual inputs and of features have the frames, or the clip, as their first dimension, along which those of
several clips follow one another. A family is known once `formcoach.models.FAMILIES` has it; `tests/patchwork.py` is a
complete one in 200 lines.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.config import Recipe
from formcoach.models.sizes import ModelSizes

if TYPE_CHECKING:
    from formcoach.models.opening import Checkpoints


@dataclass(frozen=True)
class RunLayout:
    """How a family's runs lie on the disk.

    Args:
        work_dir: the run directory where the user names none.
        checkpoint: how the name of a checkpoint's folder begins; the number of its step follows.
        last: a second name of the last checkpoint of a run that came to its end; None: it has none.
        conversations: files in the dataset folder, with ``{split}`` in their name, that are trained and tested on where
            the user names no data and they are there; None: there are no such files.
    """

    work_dir: str
    checkpoint: str = "step_"
    last: str | None = None
    conversations: str | None = None


@dataclass(frozen=True)
class Family:
    """One kind of model.

    Args:
        key: what users call it.
        name: what it is called in messages.
        large: the hub id that is meant on a GPU where the user names no model.
        tiny: the packaged model that is meant without one.
        gpu_gb: memory of the GPU that training the large one needs, in 10^9 bytes, in bf16 with its recipe.
        disk_gb: room for its weights, checkpoints and a temporary copy.
        script: what trains it.
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
        runs: how its runs lie on the disk.
        frame_group: the number of frames of a clip is a multiple of this.
        free_frames: whether that number is the user's choice; a model may take one number only.
    """

    key: str
    name: str
    large: str
    tiny: str
    gpu_gb: int
    disk_gb: int
    script: str
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
    runs: RunLayout
    frame_group: int
    free_frames: bool
