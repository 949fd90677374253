"""Small models of both families with random weights, by which tests of trainer, inference and reports are parametrised.

A test that takes the fixture `small`, or one that is made from it, runs once for each family; the second is in the slow
tier unless the test asks for `EVERY`. `ONE` is for what would only repeat the same code at great cost.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from formcoach.files import write_json
from formcoach.models.family import Family
from formcoach.models.internvideo import INTERNVIDEO
from formcoach.models.mobilevideogpt import MOBILEVIDEOGPT

INTERNVIDEO_FOLDER = Path(__file__).parent / "fixtures/internvideo2_5_tiny"
SMALL = (INTERNVIDEO.key, pytest.param(MOBILEVIDEOGPT.key, marks=pytest.mark.slow))

EVERY = pytest.mark.parametrize("small", [INTERNVIDEO.key, MOBILEVIDEOGPT.key], indirect=True)
ONE = pytest.mark.parametrize("small", [INTERNVIDEO.key], indirect=True)


@dataclass(frozen=True)
class SmallModel:
    """A checkpoint of a family.

    Args:
        family: the family.
        folder: the checkpoint.
        frames: fewest frames of a clip that it takes.
        more_frames: another number of them that it takes, if there is one.
    """

    family: Family
    folder: Path
    frames: int
    more_frames: int | None

    def checkpoint(self, step: int | str) -> str:
        """Return the name of a checkpoint's folder."""
        return f"{self.family.runs.checkpoint}{step}"

    def steps(self, run: Path) -> list[int]:
        """Return the steps of a run's checkpoints; the last one's second name, if it has one, is left out."""
        names = [path.name for path in run.glob(self.checkpoint("*")) if path.name != self.family.runs.last]
        return sorted(int(name.removeprefix(self.checkpoint(""))) for name in names)


def checkpoint(run: Path, step: int) -> Path:
    """Return the folder of a run's checkpoint, whatever its family calls it."""
    (found,) = run.glob(f"*[_-]{step}")
    return found


def small_model(key: str, folder: Path) -> SmallModel:
    """Return the small model of the family `key`; one that has to be made first is written to `folder`."""
    if key == INTERNVIDEO.key:
        return SmallModel(INTERNVIDEO, INTERNVIDEO_FOLDER, 4, 8)
    return SmallModel(MOBILEVIDEOGPT, write_small_mobilevideogpt(folder), 16, None)


def write_small_mobilevideogpt(folder: Path) -> Path:
    """Write a Mobile-VideoGPT of 0.2 million parameters that makes 72 tokens of a clip's frames of 32 pixels."""
    import torch
    from models.mobilevideogpt_fixture import weight, write_tokenizer

    from formcoach.models.mobilevideogpt.checkpoint import load_tokenizer, settings_from
    from formcoach.models.mobilevideogpt.configuration import MobileVideoGPTConfig
    from formcoach.models.mobilevideogpt.modeling import MobileVideoGPTForConditionalGeneration
    from formcoach.models.mobilevideogpt.processor import IMAGE_TOKEN, MobileVideoGPTProcessor

    write_tokenizer(folder)
    tokenizer = load_tokenizer(folder)
    text = {"vocab_size": 288, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32_768}
    image = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = MobileVideoGPTConfig(
        text_config=text,
        image_config=image | {"image_size": 32, "patch_size": 16},
        video_depth=1,
        video_width=32,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        pooled=2,
        video_side=2,
        image_side=2,
    )
    model = MobileVideoGPTForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weight(name, list(parameter.shape), 3))
    model.save_pretrained(folder)
    MobileVideoGPTProcessor(tokenizer, settings_from(config)).save_pretrained(folder)
    # The published recipe's steps are for a large model: the trainer's tests are about the same numbers for all.
    recipe = {"epochs": 3, "micro_batch_size": 1, "global_batch_size": 8, "connector_lr": 1e-5, "lora_rank": 16}
    write_json(folder / "recipe.json", recipe | {"lora_alpha": 32, "checkpoint_interval": 0.25})
    return folder


def change_vision_tower(small: SmallModel, folder: Path) -> None:
    """Change a weight of the vision tower in a copy of a small model, whose layout may be its authors'."""
    name = "vision_model" if small.family is INTERNVIDEO else small.family.vision
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        for tensor in tensors:
            if f"{name}." in tensor and tensor.endswith("layers.0.mlp.fc1.bias"):
                tensors[tensor][0] += 1e-3
        save_file(tensors, path, {"format": "pt"})


def change_vision_setting(small: SmallModel, folder: Path) -> None:
    """Change a setting of the vision tower in a copy of a small model; the weights stay as they are."""
    config = json.loads((folder / "config.json").read_text())
    tower = "vision_config" if small.family is INTERNVIDEO else "image_config"
    config[tower]["layer_norm_eps"] = 1e-3
    write_json(folder / "config.json", config)
