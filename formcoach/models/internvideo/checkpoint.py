"""InternVideo2.5 checkpoints on disk: as their authors publish them, and as this project saves them.

Original weights are renamed and regrouped while transformers streams them from the shards (see `conversion`); there is
no second copy in memory or on disk.
"""

from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from formcoach.errors import UserError
from formcoach.files import read_json
from formcoach.models.internvideo.configuration import InternVideoConfig
from formcoach.models.internvideo.conversion import CONVERSIONS
from formcoach.models.internvideo.modeling import UNUSED_TENSORS, InternVideoForConditionalGeneration
from formcoach.models.internvideo.original import (
    ORIGINAL_TYPE,
    OriginalConfig,
    OriginalLanguage,
    parse_original,
)
from formcoach.models.internvideo.processor import IMAGE_TOKEN, InternVideoProcessor, settings_from
from formcoach.models.internvideo.sizes import read_sizes
from formcoach.models.internvideo.tokenizer import load_tokenizer
from formcoach.models.opening import Checkpoints, Outline, check_heads, check_vocabulary, empty_model
from formcoach.models.weights import REMEDY


def outline(folder: Path) -> Outline:
    """Return a checkpoint without its weights, which need not be there.

    Raises:
        UserError: a file is missing or damaged, or the configuration is not that of an InternVideo2.5 model.
    """
    path = folder / "config.json"
    raw = read_json(path, REMEDY)
    is_original = raw.get("model_type") == ORIGINAL_TYPE
    if is_original:
        original = parse_original(path, raw)
        tokenizer = load_tokenizer(folder)
        config = config_from_original(path, original, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
        processor = InternVideoProcessor(tokenizer, settings_from(config))
    else:
        read_sizes(path)  # refuses what is out of all bounds
        config = _build_config(path, raw)
        processor = InternVideoProcessor.from_pretrained(folder)
        processor.check_fits(folder, settings_from(config), config.image_token_id)
    check_vocabulary(folder, processor, config)
    return Outline(is_original, empty_model(InternVideoForConditionalGeneration, path, config), processor)


def config_from_original(path: Path, original: OriginalConfig, image_token_id: int) -> InternVideoConfig:
    """Map an original configuration to ours.

    Args:
        path: where it was read, for messages.
        original: from `parse_original`.
        image_token_id: the tokenizer's id of ``<IMG_CONTEXT>``.

    Raises:
        UserError: if its sizes do not fit together.
    """
    vision, language = original.vision_config, original.llm_config
    values = {
        "vision_config": {
            "hidden_size": vision.hidden_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "intermediate_size": vision.intermediate_size,
            "patch_size": vision.patch_size,
            "image_size": vision.image_size,
            "num_channels": vision.num_channels,
            "attention_bias": vision.qkv_bias,
            "use_qk_norm": vision.qk_normalization,
            "norm_type": vision.norm_type,
            "layer_norm_eps": vision.layer_norm_eps,
            "hidden_act": vision.hidden_act,
            "layer_scale_init_value": vision.initializer_factor,
        },
        "text_config": _llama_config(language),
        "image_token_id": image_token_id,
        "downsample_ratio": original.downsample_ratio,
        "vision_feature_layer": original.select_layer,
        "tie_word_embeddings": language.tie_word_embeddings,
    }
    return _build_config(path, values)


def _build_config(path: Path, values: dict[str, Any]) -> InternVideoConfig:
    """Return a configuration whose sizes fit together.

    Raises:
        UserError: if a value is of the wrong type, or the visual tokens cannot be merged.
    """
    try:
        config = InternVideoConfig.from_dict(values)
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise UserError(f"{path}: {' '.join(str(error).split())[:200]}. {REMEDY}") from None
    check_heads(path, config.text_config)
    for name in ("frames_per_group", "tokens_per_group"):
        if vars(config)[name] < 1:
            raise UserError(f"{path}: {name} is {vars(config)[name]}, but has to be at least 1. {REMEDY}")
    vision = config.vision_config
    side = vision.image_size[0] / vision.patch_size[0] * config.downsample_ratio  # tokens a frame: side x side
    if side != int(side):
        raise UserError(
            f"{path}: frames of {vision.image_size[0]} pixels cannot be cut into pairs of patches. {REMEDY}"
        )
    tokens = int(side) ** 2 * config.frames_per_group
    if tokens < config.tokens_per_group or config.tokens_per_group % config.frames_per_group:
        raise UserError(f"{path}: {tokens} tokens a group cannot be merged to {config.tokens_per_group}. {REMEDY}")
    if not -vision.num_hidden_layers - 1 <= config.vision_feature_layer <= vision.num_hidden_layers:
        raise UserError(
            f"{path}: select_layer {config.vision_feature_layer} is none of the vision tower's "
            f"{vision.num_hidden_layers} layers. {REMEDY}"
        )
    channels = int(vision.hidden_size / config.downsample_ratio**2)
    if channels % config.merging_heads:
        raise UserError(f"{path}: {channels} channels cannot be averaged over {config.merging_heads} heads. {REMEDY}")
    return config


def _llama_config(language: OriginalLanguage) -> dict[str, Any]:
    """Return the Llama configuration that computes what this InternLM2 does."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": language.rope_theta}
    if language.rope_scaling is not None:
        rope |= {"rope_type": language.rope_scaling.type, "factor": language.rope_scaling.factor}
    return {
        "model_type": "llama",
        "vocab_size": language.vocab_size,
        "hidden_size": language.hidden_size,
        "num_hidden_layers": language.num_hidden_layers,
        "num_attention_heads": language.num_attention_heads,
        "num_key_value_heads": language.num_key_value_heads or language.num_attention_heads,
        "intermediate_size": language.intermediate_size,
        "max_position_embeddings": language.max_position_embeddings,
        "hidden_act": language.hidden_act,
        "rms_norm_eps": language.rms_norm_eps,
        "attention_bias": language.bias,
        "rope_parameters": rope,
        "bos_token_id": language.bos_token_id,
        "eos_token_id": language.eos_token_id,
        "pad_token_id": language.pad_token_id,
    }


CHECKPOINTS = Checkpoints("an InternVideo2.5", outline, CONVERSIONS, UNUSED_TENSORS)
