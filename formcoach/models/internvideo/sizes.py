"""The sizes of an InternVideo2.5 model from its `config.json`, without torch."""

from pathlib import Path

import msgspec

from formcoach.data.sampling import GROUP
from formcoach.errors import UserError
from formcoach.files import read_json
from formcoach.models.internvideo.original import (
    ORIGINAL_TYPE,
    OriginalConfig,
    OriginalLanguage,
    OriginalVision,
    parse_original,
)
from formcoach.models.sizes import Channels, Held, Layers, ModelSizes, Pixels, Tokens, Tower
from formcoach.models.weights import REMEDY

TOKENS_PER_FRAME = 16
FRAME_WORDS = 8  # tokens of `Frame12: <img>...</img>` and a line break, besides the visual ones


def sizes_of(config: OriginalConfig) -> ModelSizes:
    """Return the sizes of an original checkpoint's model."""
    vision, language = config.vision_config, config.llm_config
    head_width = language.hidden_size // language.num_attention_heads
    key_values = head_width * (language.num_key_value_heads or language.num_attention_heads)
    return _sizes(
        _vision_tower(vision),
        _language_tower(language, key_values),
        vision.image_size,
        vision.patch_size,
        vision.num_channels,
        language.vocab_size,
        biases=(vision.qkv_bias, language.bias),
        tied=language.tie_word_embeddings,
    )


class NativeVision(msgspec.Struct, frozen=True):
    """`vision_config` of this project's `config.json`."""

    num_hidden_layers: Layers
    hidden_size: Channels
    num_attention_heads: Channels
    intermediate_size: Channels
    image_size: list[Pixels]
    patch_size: list[Pixels]
    num_channels: Channels
    attention_bias: bool


class NativeLanguage(msgspec.Struct, frozen=True):
    """`text_config` of this project's `config.json`."""

    num_hidden_layers: Layers
    hidden_size: Channels
    num_attention_heads: Channels
    intermediate_size: Channels
    num_key_value_heads: Channels
    head_dim: Channels
    vocab_size: Tokens
    attention_bias: bool = False


class NativeConfig(msgspec.Struct, frozen=True):
    """`config.json` as this project writes it."""

    vision_config: NativeVision
    text_config: NativeLanguage
    tie_word_embeddings: bool = False


def read_sizes(path: Path) -> ModelSizes:
    """Return the sizes of the model that a `config.json` describes, an original's or this project's.

    Raises:
        UserError: if it cannot be read or is not that of an InternVideo2.5 model.
    """
    raw = read_json(path, REMEDY)
    if isinstance(raw, dict) and raw.get("model_type") == ORIGINAL_TYPE:
        return sizes_of(parse_original(path, raw))
    try:
        config = msgspec.convert(raw, NativeConfig)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}. {REMEDY}") from None
    vision, language = config.vision_config, config.text_config
    key_values = language.head_dim * language.num_key_value_heads
    return _sizes(
        _vision_tower(vision),
        _language_tower(language, key_values),
        vision.image_size[0],
        vision.patch_size[0],
        vision.num_channels,
        language.vocab_size,
        biases=(vision.attention_bias, language.attention_bias),
        tied=config.tie_word_embeddings,
    )


def _vision_tower(config: OriginalVision | NativeVision) -> Tower:
    width, heads = config.hidden_size, config.num_attention_heads
    return Tower(config.num_hidden_layers, width, heads, width, config.intermediate_size, gated=False)


def _language_tower(config: OriginalLanguage | NativeLanguage, key_values: int) -> Tower:
    width, heads = config.hidden_size, config.num_attention_heads
    return Tower(config.num_hidden_layers, width, heads, key_values, config.intermediate_size, gated=True)


def _sizes(
    vision: Tower,
    language: Tower,
    image_size: int,
    patch_size: int,
    channels: int,
    vocabulary: int,
    biases: tuple[bool, bool],
    tied: bool,
) -> ModelSizes:
    """Count what InternViT, the connector and InternLM2 have beside their linear layers."""
    patches = (image_size // patch_size) ** 2
    embeddings = vision.width * (channels * patch_size**2 + 1 + 1 + 1 + patches)  # kernel, its bias, class, positions
    in_layer = 8 * vision.width + vision.mlp + 3 * vision.width * biases[0]  # two norms, two scales, three biases
    merged_channels = 4 * vision.width  # pixel shuffle by 0.5
    merging = GROUP * (patches // 4) * merged_channels  # numbers of a group before they are merged
    connector = 2 * merged_channels + language.width * (merged_channels + 1 + language.width + 1)
    attention_biases = 2 * language.width + 2 * language.key_values
    language_layer = 2 * language.width + attention_biases * biases[1]
    return ModelSizes(
        vision=vision,
        vision_other=embeddings + vision.layers * in_layer,
        patch_tokens=patches + 1,
        image_size=image_size,
        views=1,
        frame_group=GROUP,
        group_tokens=GROUP * TOKENS_PER_FRAME,
        frame_words=FRAME_WORDS,
        features=GROUP * TOKENS_PER_FRAME * merged_channels,
        seeing=(
            Held(GROUP * (patches + 1) * (4 * vision.width + 2 * vision.mlp)),  # a layer
            Held(merging, merging),
        ),
        vision_kept=Held(),
        connector=connector,
        connector_kept=Held(),  # 64 tokens a group: nothing beside the language model's
        language=language,
        language_other=language.width + language.layers * language_layer,
        vocabulary=vocabulary,
        tied=tied,
    )
