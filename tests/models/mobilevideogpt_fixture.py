"""The recorded small Mobile-VideoGPT: its weights follow a rule, its outputs are the original implementation's."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

FOLDER = Path(__file__).parents[1] / "fixtures/mobilevideogpt_tiny"
PLACEHOLDER = -200  # in the recorded ids; a run of them stands for all visual tokens


@dataclass(frozen=True)
class Recorded:
    """What was recorded, and what it was recorded of."""

    config: dict
    shapes: dict[str, list[int]]
    expected: dict[str, Tensor]
    video_frames: Tensor
    context_frames: Tensor
    seed: int

    def weights(self) -> dict[str, Tensor]:
        """Return the weights by their original names."""
        return {name: weight(name, shape, self.seed) for name, shape in self.shapes.items()}

    def ids(self, visual: int, placeholder: int) -> tuple[Tensor, Tensor]:
        """Return `input_ids` and `labels`, (1, L), with `visual` placeholders in place of the recorded run."""
        ids, labels = self.expected["input_ids"][0], self.expected["labels"][0]
        first, *_, last = (ids == PLACEHOLDER).nonzero().flatten().tolist()
        parts = [(ids, visual, placeholder), (labels, visual, -100)]
        wide = [
            torch.cat([one[:first], torch.full((count,), value), one[last + 1 :]])[None] for one, count, value in parts
        ]
        return wide[0], wide[1]


def read_recorded() -> Recorded:
    """Read the fixture."""
    fixture = json.loads((FOLDER / "fixture.json").read_text())
    towers = {"vision_tower_config": fixture["videomamba"], "image_vision_tower_config": fixture["clip"]}
    generator = torch.Generator().manual_seed(fixture["seed"])
    base = torch.randn(1, 3, 224, 224, generator=generator)
    strength = torch.rand(16, 1, 1, 1, generator=generator)
    frames = base + strength * torch.randn(16, 3, 224, 224, generator=generator)
    return Recorded(
        fixture["config"] | towers,
        fixture["parameters"],
        load_file(FOLDER / "expected.safetensors"),
        frames[None],
        (0.9 * frames + 0.1)[None],
        fixture["seed"],
    )


def weight(name: str, shape: list[int], seed: int) -> Tensor:
    """Return a parameter by the rule that the recorded model's follow."""
    generator = torch.Generator().manual_seed((zlib.crc32(name.encode()) ^ seed) & 0x7FFFFFFF)
    noise = torch.randn(shape, generator=generator)
    owner, _, last = name.rpartition(".")
    if last in ("A_log", "A_b_log"):
        return torch.log(torch.arange(1, shape[1] + 1).float()) + 0.05 * noise
    if last in ("D", "D_b"):
        return 1 + 0.1 * noise
    if last == "bias" and ".dt_proj" in owner:
        return -3 + 0.5 * noise
    if last == "weight" and len(shape) == 1:
        return 1 + 0.1 * noise
    return 0.05 * noise


def write_original(folder: Path, recorded: Recorded) -> Path:
    """Write the recorded model as a checkpoint in the original layout, and return its folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(recorded.config))
    save_file(recorded.weights(), folder / "model.safetensors", {"format": "pt"})
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Write a tokenizer whose tokens are bytes, and three special ones."""
    vocabulary = {byte: number for number, byte in enumerate(sorted(bytes_to_unicode().values()))}
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Qwen2Tokenizer(vocab=vocabulary | {"<|endoftext|>": 256}, merges=[])
    tokenizer.add_special_tokens({"extra_special_tokens": special[1:]})
    tokenizer.save_pretrained(folder)
