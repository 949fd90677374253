"""Writes small Mobile-VideoGPT checkpoints in the original layout, with weights that do something."""

import json
import zlib
from pathlib import Path

import torch
from resized import resized_05b
from safetensors.torch import save_file
from torch import Tensor

from formcoach.models.conversion import counterparts, expected_shapes
from formcoach.models.mobilevideogpt.checkpoint import config_from_original
from formcoach.models.mobilevideogpt.conversion import CONVERSIONS, IMAGE_TOWER, VIDEO_TOWER
from formcoach.models.mobilevideogpt.modeling import MobileVideoGPTForConditionalGeneration
from formcoach.models.mobilevideogpt.random_checkpoint import config_json, write_tokenizer

PLACEHOLDER = 259  # the first id behind the tokenizer's
VIDEO = {"depth": 2, "embed_dim": 48}
IMAGE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 64}
LANGUAGE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}
PUBLISHED_EXTRAS = {  # of no meaning here, or unreliable
    "_name_or_path": "/checkpoints/qwen",
    "attention_dropout": 0.0,
    "bos_token_id": 256,
    "eos_token_id": 258,
    "freeze_mm_mlp_adapter": False,
    "image_mm_hidden_size": 768,
    "initializer_range": 0.02,
    "max_window_layers": 21,
    "mm_hidden_size": 1408,
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "rope_scaling": None,
    "sliding_window": 32768,
    "tokenizer_model_max_length": 2048,
    "tokenizer_padding_side": "right",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.41.0",
    "tune_mm_mlp_adapter": False,
    "use_cache": True,
    "use_mm_proj": True,
    "use_sliding_window": False,
}


def write_mobile(
    folder: Path,
    video: dict | None = None,
    image: dict | None = None,
    dtype: torch.dtype = torch.float32,
    shards: int = 1,
    without: tuple[str, ...] = (),
    **top,
) -> Path:
    """Write a checkpoint and return its folder.

    Args:
        folder: does not exist.
        video: sizes of the video tower that are not the usual ones.
        image: of the image tower.
        dtype: of the weights.
        shards: how many files they are in.
        without: beginnings of the names of tensors that are left out.
        top: values of `config.json`.
    """
    folder.mkdir()
    config = resized_05b(VIDEO | (video or {}), IMAGE | (image or {}), LANGUAGE | top)
    (folder / "config.json").write_text(json.dumps(config_json(config) | PUBLISHED_EXTRAS | top))
    write_tokenizer(folder)
    with torch.device("meta"):
        model = MobileVideoGPTForConditionalGeneration(config_from_original(folder, config, PLACEHOLDER))
    ours = model.state_dict()
    stored = [name for name in ours if name not in model.all_tied_weights_keys]
    shapes = expected_shapes(counterparts(stored, CONVERSIONS), ours)
    tensors = {name: lively(name, shape).to(dtype) for name, shape in shapes.items() if not name.startswith(without)}
    write_shards(folder, tensors, shards)
    return folder


def write_shards(folder: Path, tensors: dict[str, Tensor], shards: int) -> None:
    """Write tensors to one file, or to several with an index."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return
    index = {}
    for number in range(shards):
        part = dict(list(tensors.items())[number::shards])
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file(part, folder / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def lively(name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a parameter that depends on its name only, of a size that keeps the signal."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    owner, _, last = name.rpartition(".")
    if last in ("A_log", "A_b_log"):
        return torch.arange(1, shape[1] + 1).log() + 0.05 * noise
    if last in ("D", "D_b") or (last == "weight" and len(shape) == 1):
        return 1 + 0.1 * noise
    if last == "bias":
        return (-3 if ".dt_proj" in owner else 0) + 0.1 * noise
    if "embed" in name and "patch_embed" not in name:
        return 0.5 * noise
    return noise / torch.Size(shape[1:]).numel() ** 0.5


def video_tower(side: int = 4, frames: int = 8, depth: int = 2) -> dict[str, Tensor]:
    """Return the usual video tower's tensors by the names that its authors give them."""
    tensors = _tower(VIDEO_TOWER, {"depth": depth}, {"image_size": 16 * side})
    name = "temporal_pos_embedding"
    return tensors | {name: lively(VIDEO_TOWER + name, (1, frames, VIDEO["embed_dim"]))}


def image_tower(side: int = 4, **sizes: int) -> dict[str, Tensor]:
    """Return the usual image tower's tensors likewise, without `vision_model.` in front."""
    return _tower(IMAGE_TOWER, {}, sizes | {"image_size": 16 * side})


def _tower(prefix: str, video: dict, image: dict) -> dict[str, Tensor]:
    config = resized_05b(VIDEO | video, IMAGE | image, LANGUAGE)
    with torch.device("meta"):
        model = MobileVideoGPTForConditionalGeneration(config_from_original(Path("config.json"), config, PLACEHOLDER))
    ours = model.state_dict()
    shapes = expected_shapes(counterparts(ours, CONVERSIONS), ours)
    return {name.removeprefix(prefix): lively(name, shape) for name, shape in shapes.items() if name.startswith(prefix)}
