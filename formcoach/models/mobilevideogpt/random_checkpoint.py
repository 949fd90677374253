"""Checkpoints in the original layout with random weights, of any size: for benchmarks and tests without a download."""

from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor
from transformers import Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from formcoach.files import replacing_folder, write_json
from formcoach.models.clip_processor import TURN_END, TURN_START
from formcoach.models.conversion import counterparts, expected_shapes
from formcoach.models.mobilevideogpt.checkpoint import config_from_original
from formcoach.models.mobilevideogpt.conversion import CONVERSIONS
from formcoach.models.mobilevideogpt.modeling import MobileVideoGPTForConditionalGeneration
from formcoach.models.mobilevideogpt.original import ORIGINAL_TYPE, OriginalConfig
from formcoach.models.mobilevideogpt.processor import TEXT_END
from formcoach.models.random_weights import SHARD_BYTES, normal, write_random_weights

STEP_BIAS = -3.0  # of a scan's step sizes: softplus gives about 0.05, so that its state lives for some tokens


def write_random_checkpoint(
    folder: Path,
    config: OriginalConfig,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint in the original layout: configuration, tokenizer and sharded random weights.

    Matrices are drawn from a normal distribution of standard deviation 0.02; norms do nothing, biases are zero, and the
    scans have the decays and step sizes that Mamba starts from. The tokenizer knows bytes only, whatever the
    vocabulary, so that a text has more tokens than with Qwen2's. One shard at a time is held in memory.

    Args:
        folder: is replaced if it exists.
        config: the sizes; a vocabulary of 260 tokens at least.
        dtype: of the weights.
        seed: of the weights.
        shard_bytes: most bytes of a shard.
    """
    with torch.device("meta"):
        model = MobileVideoGPTForConditionalGeneration(config_from_original(folder, config, image_token_id=0))
    ours = model.state_dict()
    stored = [name for name in ours if name not in model.all_tied_weights_keys]
    shapes = expected_shapes(counterparts(stored, CONVERSIONS), ours)
    with replacing_folder(folder) as temporary:
        write_json(temporary / "config.json", config_json(config))
        write_tokenizer(temporary)
        write_random_weights(temporary, shapes, _draw, dtype, seed, shard_bytes)


def write_tokenizer(folder: Path) -> None:
    """Write the files of a Qwen2 tokenizer without merges: 256 bytes, and behind them the three tokens of its chat.

    Args:
        folder: exists.
    """
    vocabulary = {byte: number for number, byte in enumerate(sorted(bytes_to_unicode().values()))}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary | {TEXT_END: len(vocabulary)}, merges=[])
    tokenizer.add_special_tokens({"extra_special_tokens": [TURN_START, TURN_END]})
    tokenizer.save_pretrained(folder)


def config_json(config: OriginalConfig) -> dict[str, Any]:
    """Return the content of an original `config.json`."""
    kind = {"model_type": ORIGINAL_TYPE, "architectures": ["MobileVideoGPTQwenForCausalLM"]}
    return kind | msgspec.to_builtins(config)


def _draw(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    owner, _, last = name.rpartition(".")
    if last in ("A_log", "A_b_log"):
        return torch.arange(1, shape[1] + 1).log().expand(shape).to(dtype).contiguous()
    if last == "bias":
        return torch.full(shape, STEP_BIAS if ".dt_proj" in owner else 0.0, dtype=dtype)
    if last in ("D", "D_b") or (last == "weight" and len(shape) == 1):
        return torch.ones(shape, dtype=dtype)
    return normal(shape, dtype, seed)
