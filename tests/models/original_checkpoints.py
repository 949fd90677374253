"""Writes checkpoints in the original layout."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from formcoach.models.internvideo.checkpoint import config_from_original
from formcoach.models.internvideo.modeling import InternVideoForConditionalGeneration
from formcoach.models.internvideo.original import parse_original

FIXTURE = Path(__file__).parents[1] / "fixtures" / "internvideo2_5_tiny"
TOKENIZER_FILES = ("tokenizer.model", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")


def write_original(
    folder: Path,
    image_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    top: dict | None = None,
    vision: dict | None = None,
    **language,
) -> Path:
    """Write a checkpoint in the original layout: the recorded one, or one with random weights of other sizes."""
    folder.mkdir()
    for name in (*TOKENIZER_FILES, "generation_config.json"):
        shutil.copy(FIXTURE / name, folder)
    config = json.loads((FIXTURE / "config.json").read_text())
    if image_size is not None:
        config["vision_config"]["image_size"] = config["force_image_size"] = image_size
    config["llm_config"] |= language
    config["vision_config"] |= vision or {}
    config |= top or {}
    (folder / "config.json").write_text(json.dumps(config))
    if image_size is None and not language:
        tensors = {}
        for shard in sorted(FIXTURE.glob("model-*.safetensors")):
            tensors |= load_file(shard)
        save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / "model.safetensors")
        return folder
    torch.manual_seed(0)
    path = folder / "config.json"
    model = InternVideoForConditionalGeneration(config_from_original(path, parse_original(path, config), 568))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    original_config = path.read_text()
    model.to(dtype).save_pretrained(folder, save_original_format=True)
    path.write_text(original_config)
    return folder
