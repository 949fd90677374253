"""Checkpoints in the original layout with random weights, of any size: for benchmarks and tests without a download."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import save_file
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
from formcoach.models.weights import INDEX

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
STD = 0.02
SHARD_BYTES = 2 * 2**30


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
        shards = list(_shards(shapes, shard_bytes // dtype.itemsize))
        seeds = count(seed * len(shapes))
        index: dict[str, str] = {}
        for number, names in enumerate(shards, start=1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
            with ThreadPoolExecutor() as pool:
                drawn = pool.map(lambda name, own: _draw(name, shapes[name], dtype, own), names, seeds)
                tensors = dict(zip(names, drawn, strict=True))
            save_file(tensors, temporary / file, metadata={"format": "pt"})
            index |= dict.fromkeys(names, file)
        total = sum(torch.Size(shape).numel() for shape in shapes.values()) * dtype.itemsize
        write_json(temporary / INDEX, {"metadata": {"total_size": total}, "weight_map": index})


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


def _shards(shapes: Mapping[str, tuple[int, ...]], most: int) -> Iterator[list[str]]:
    """Yield the names of each shard's tensors, at most `most` numbers together unless one alone has more."""
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        numbers = torch.Size(shape).numel()
        if names and size + numbers > most:
            yield names
            names, size = [], 0
        names.append(name)
        size += numbers
    yield names


def _draw(name: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    if name.endswith(("bias", "class_embedding")):
        return torch.zeros(shape, dtype=dtype)
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype)  # norms and layer scales
    return torch.empty(shape, dtype=dtype).normal_(std=STD, generator=torch.Generator().manual_seed(seed))
