"""Checkpoints in the original layout with random weights, of any size: for benchmarks and tests without a download."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor
from transformers.utils.sentencepiece_model_pb2_new import ModelProto

from formcoach.files import replacing_folder, write_json
from formcoach.models.conversion import counterparts, expected_shapes
from formcoach.models.internvideo.checkpoint import config_from_original
from formcoach.models.internvideo.conversion import CONVERSIONS
from formcoach.models.internvideo.modeling import InternVideoForConditionalGeneration
from formcoach.models.internvideo.original import ORIGINAL_TYPE, OriginalConfig
from formcoach.models.internvideo.processor import IMAGE_TOKEN
from formcoach.models.internvideo.tokenizer import BPE_MODEL, BYTE, CONTROL, UNKNOWN
from formcoach.models.random_weights import SHARD_BYTES, normal, write_random_weights

# The tokens that InternLM2.5 and InternVL add, in the order of their ids; they are the last of the vocabulary.
ADDED_TOKENS = (
    "<|plugin|>",
    "<|interpreter|>",
    "<|action_end|>",
    "<|action_start|>",
    "<|im_end|>",
    "<|im_start|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
)
LETTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'()-%"


def write_random_checkpoint(
    folder: Path,
    config: OriginalConfig,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a checkpoint in the original layout: configuration, tokenizer and sharded random weights.

    Matrices are drawn from a normal distribution of standard deviation 0.02; norms and layer scales do nothing, biases
    are zero. The tokenizer has `vocab_size` entries; it splits any text, into pieces without meaning. One shard at a
    time is held in memory.

    Args:
        folder: is replaced if it exists.
        config: the sizes.
        dtype: of the weights.
        seed: of the weights.
        shard_bytes: most bytes of a shard.
    """
    image_token = config.llm_config.vocab_size - len(ADDED_TOKENS) + ADDED_TOKENS.index(IMAGE_TOKEN)
    with torch.device("meta"):
        ours = InternVideoForConditionalGeneration(config_from_original(folder, config, image_token)).state_dict()
    shapes = expected_shapes(counterparts(ours, CONVERSIONS), ours)
    with replacing_folder(folder) as temporary:
        write_json(temporary / "config.json", _config_json(config))
        write_tokenizer(temporary, config.llm_config.vocab_size)
        write_random_weights(temporary, shapes, _draw, dtype, seed, shard_bytes)


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """Write `tokenizer.model` and the added tokens beside it.

    Args:
        folder: exists.
        vocabulary: number of tokens; the added ones are the last.
    """
    added = {token: vocabulary - len(ADDED_TOKENS) + place for place, token in enumerate(ADDED_TOKENS)}
    model = ModelProto()
    model.trainer_spec.model_type = BPE_MODEL
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    model.normalizer_spec.escape_whitespaces = True
    model.pieces.add(piece="<unk>", type=UNKNOWN)
    for token in ("<s>", "</s>"):
        model.pieces.add(piece=token, type=CONTROL)
    for byte in range(256):
        model.pieces.add(piece=f"<0x{byte:02X}>", type=BYTE)
    for rank, piece in zip(range(vocabulary - len(model.pieces) - len(added)), _pieces(), strict=False):
        model.pieces.add(piece=piece, score=-rank)
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    write_json(folder / "added_tokens.json", added)
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    decoder = {str(number): {"content": token, "special": True} for token, number in added.items()}
    write_json(folder / "tokenizer_config.json", roles | {"added_tokens_decoder": decoder})


def _pieces() -> Iterator[str]:
    """Yield letters, then what two earlier pieces make: first the short ones."""
    pieces = list(LETTERS)
    yield from pieces
    known = set(pieces)
    for first in count():
        for pair in [(first, second) for second in range(first + 1)] + [(second, first) for second in range(first)]:
            text = pieces[pair[0]] + pieces[pair[1]]
            if text not in known:
                known.add(text)
                pieces.append(text)
                yield text


def _config_json(config: OriginalConfig) -> dict[str, Any]:
    kind = {"model_type": ORIGINAL_TYPE, "architectures": ["InternVLChatModel"]}
    return kind | msgspec.to_builtins(config)


def _draw(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    if name.endswith(("bias", "class_embedding")):
        return torch.zeros(shape, dtype=dtype)
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype)  # norms and layer scales
    return normal(shape, dtype, seed)
