"""Mobile-VideoGPT checkpoints on disk: as their authors publish them, and as this project saves them."""

import math
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from formcoach.errors import UserError
from formcoach.files import read_json
from formcoach.models.mobilevideogpt.configuration import MobileVideoGPTConfig
from formcoach.models.mobilevideogpt.conversion import CONVERSIONS
from formcoach.models.mobilevideogpt.modeling import UNUSED_TENSORS, MobileVideoGPTForConditionalGeneration
from formcoach.models.mobilevideogpt.original import ORIGINAL_TYPE, OriginalConfig, parse_original
from formcoach.models.mobilevideogpt.processor import (
    IMAGE_TOKEN,
    SYSTEM_MESSAGE,
    MobileVideoGPTProcessor,
    ProcessorSettings,
)
from formcoach.models.mobilevideogpt.sizes import read_sizes
from formcoach.models.mobilevideogpt.towers import HALF_AN_ENCODER, borrow
from formcoach.models.opening import Checkpoints, Outline, check_heads, check_vocabulary, empty_model
from formcoach.models.weights import REMEDY


def outline(folder: Path) -> Outline:
    """Return a checkpoint without its weights, which need not be there.

    Raises:
        UserError: a file is missing or damaged, or the configuration is not that of a Mobile-VideoGPT model.
    """
    path = folder / "config.json"
    raw = read_json(path, REMEDY)
    is_original = raw.get("model_type") == ORIGINAL_TYPE
    if is_original:
        original = parse_original(path, raw)
        tokenizer = load_tokenizer(folder)
        config = config_from_original(path, original, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
        processor = MobileVideoGPTProcessor(tokenizer, settings_from(config))
    else:
        read_sizes(path)  # refuses what is out of all bounds
        config = _build_config(path, raw)
        processor = MobileVideoGPTProcessor.from_pretrained(folder)
        processor.check_fits(folder, settings_from(config), config.image_token_id)
    check_vocabulary(folder, processor, config)
    return Outline(is_original, empty_model(MobileVideoGPTForConditionalGeneration, path, config), processor)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Return a checkpoint's Qwen2 tokenizer with the placeholder of a visual token.

    The original has no token for it and cuts the text there itself; here it gets the first free id, of which the
    embeddings have some to spare.

    Raises:
        UserError: it is missing or damaged.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise UserError(f"{folder}: no tokenizer.json and no vocab.json. {REMEDY}")
    try:
        tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises no narrower type
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: its tokenizer cannot be read ({reason}). {REMEDY}") from None
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def config_from_original(path: Path, original: OriginalConfig, image_token_id: int) -> MobileVideoGPTConfig:
    """Map an original configuration to ours.

    Args:
        path: where it was read, for messages.
        original: from `parse_original`.
        image_token_id: the tokenizer's id of ``<image>``.

    Raises:
        UserError: if its sizes do not fit together.
    """
    video, image = original.vision_tower_config, original.image_vision_tower_config
    text = {
        name: getattr(original, name)
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "max_position_embeddings",
            "rms_norm_eps",
            "hidden_act",
            "bos_token_id",
            "eos_token_id",
            "tie_word_embeddings",
        )
    }
    values = {
        "text_config": text | {"rope_parameters": {"rope_type": "default", "rope_theta": original.rope_theta}},
        "image_config": {name: getattr(image, name) for name in image.__struct_fields__},
        "video_depth": video.depth,
        "video_width": video.embed_dim,
        "image_token_id": image_token_id,
        "image_layer": original.mm_vision_select_layer,
        "tie_word_embeddings": original.tie_word_embeddings,
    }
    return _build_config(path, values)


def settings_from(config: MobileVideoGPTConfig, system_message: str = SYSTEM_MESSAGE) -> ProcessorSettings:
    """Return the settings that fit a model."""
    return ProcessorSettings(
        image_size=config.image_config.image_size,
        visual_tokens=config.visual_tokens(config.frames),
        min_frames=config.frames,
        max_frames=config.frames,
        system_message=system_message,
    )


def _build_config(path: Path, values: dict[str, Any]) -> MobileVideoGPTConfig:
    """Return a configuration whose sizes fit together.

    Raises:
        UserError: if a value is of the wrong type, or frames cannot be cut into chunks and patches.
    """
    try:
        config = MobileVideoGPTConfig.from_dict(values)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())[:200]}. {REMEDY}") from None
    check_heads(path, config.text_config)
    tokens = config.selected * config.pooled**2  # of a chunk, which the projector sees as one square
    if math.isqrt(tokens) ** 2 != tokens:
        raise UserError(f"{path}: selected {config.selected} times pooled {config.pooled} is no square. {REMEDY}")
    image = config.image_config
    whole = {
        "frames and chunk": (config.frames, config.chunk),
        "image_size and patch_size": (image.image_size, image.patch_size),
        "chunk and selected": (config.chunk, config.selected),
    }
    for names, (total, part) in whole.items():
        if part < 1 or total < part or (total % part and names != "chunk and selected"):
            raise UserError(f"{path}: {names} are {total} and {part}, which do not go together. {REMEDY}")
    if not -image.num_hidden_layers - 1 <= config.image_layer <= image.num_hidden_layers:
        raise UserError(
            f"{path}: mm_vision_select_layer {config.image_layer} is none of the image tower's "
            f"{image.num_hidden_layers} layers. {REMEDY}"
        )
    return config


CHECKPOINTS = Checkpoints(
    "a Mobile-VideoGPT", outline, CONVERSIONS, UNUSED_TENSORS, essential=HALF_AN_ENCODER, borrow=borrow
)
