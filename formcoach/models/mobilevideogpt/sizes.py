"""The sizes of a Mobile-VideoGPT model from its `config.json`, without torch."""

from pathlib import Path

import msgspec

from formcoach.errors import UserError
from formcoach.files import read_json
from formcoach.models.mobilevideogpt.original import (
    ORIGINAL_TYPE,
    OriginalConfig,
    OriginalImageTower,
    OriginalVideoTower,
    parse_original,
)
from formcoach.models.sizes import Channels, Layers, ModelSizes, Tokens, Tower
from formcoach.models.weights import REMEDY

FRAMES = 16  # of a clip
CLIP_TOKENS = 2402  # visual tokens of a clip
STATES, KERNEL, EXPAND = 16, 4, 2  # of the video tower's scans
VIDEO_FRAMES = 8  # that the video tower sees


class NativeLanguage(msgspec.Struct, frozen=True):
    """`text_config` of this project's `config.json`."""

    vocab_size: Tokens
    hidden_size: Channels
    intermediate_size: Channels
    num_hidden_layers: Layers
    num_attention_heads: Channels
    num_key_value_heads: Channels


class NativeConfig(msgspec.Struct, frozen=True):
    """`config.json` as this project writes it."""

    text_config: NativeLanguage
    image_config: OriginalImageTower
    video_depth: Layers
    video_width: Channels
    tie_word_embeddings: bool = False


def read_sizes(path: Path) -> ModelSizes:
    """Return the sizes of the model that a `config.json` describes, an original's or this project's.

    Raises:
        UserError: if it cannot be read or is not that of a Mobile-VideoGPT model.
    """
    raw = read_json(path, REMEDY)
    if isinstance(raw, dict) and raw.get("model_type") == ORIGINAL_TYPE:
        return sizes_of(parse_original(path, raw))
    try:
        config = msgspec.convert(raw, NativeConfig)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}. {REMEDY}") from None
    video = OriginalVideoTower(config.video_depth, config.video_width)
    return _sizes(config.text_config, video, config.image_config, tied=config.tie_word_embeddings)


def sizes_of(config: OriginalConfig) -> ModelSizes:
    """Return the sizes of an original checkpoint's model."""
    towers = config.vision_tower_config, config.image_vision_tower_config
    return _sizes(config, *towers, tied=config.tie_word_embeddings)


def _sizes(
    text: OriginalConfig | NativeLanguage, video: OriginalVideoTower, image: OriginalImageTower, *, tied: bool
) -> ModelSizes:
    """Count parameters; of the two towers, the image tower's layers are the ones that a `Tower` describes."""
    width = text.hidden_size
    key_values = width // text.num_attention_heads * text.num_key_value_heads
    layers = Tower(
        image.num_hidden_layers,
        image.hidden_size,
        image.num_attention_heads,
        image.hidden_size,
        image.intermediate_size,
        gated=False,
    )
    language = Tower(
        text.num_hidden_layers, width, text.num_attention_heads, key_values, text.intermediate_size, gated=True
    )
    patches = (image.image_size // image.patch_size) ** 2
    return ModelSizes(
        vision=layers,
        vision_other=_image_other(image, patches) + _video(video, image, patches),
        patch_tokens=patches + 1,
        image_size=image.image_size,
        merged_channels=image.hidden_size,
        merged_tokens=patches,
        connector=_projector(image.hidden_size, width) + _projector(video.embed_dim, width),
        language=language,
        language_other=width + text.num_hidden_layers * (2 * width + width + 2 * key_values),  # norms; q, k, v biases
        vocabulary=text.vocab_size,
        tied=tied,
        frame_tokens=CLIP_TOKENS / FRAMES,
    )


def _image_other(image: OriginalImageTower, patches: int) -> int:
    """Return the image tower's parameters beside its linear layers' matrices."""
    width = image.hidden_size
    embeddings = width * (3 * image.patch_size**2 + 1 + patches + 1)  # kernel, class token, positions
    in_layer = 4 * width + 4 * width + image.intermediate_size + width  # two norms; biases of attention and MLP
    return embeddings + 4 * width + image.num_hidden_layers * in_layer


def _video(video: OriginalVideoTower, image: OriginalImageTower, patches: int) -> int:
    """Return the video tower's parameters."""
    width, inner = video.embed_dim, EXPAND * video.embed_dim
    rank = -(-width // 16)
    embeddings = width * (3 * image.patch_size**2 + 1 + 1 + 1 + patches + VIDEO_FRAMES)
    direction = inner * (STATES + 1 + KERNEL + 1 + rank + 2 * STATES + rank + 1)
    block = width + 2 * inner * width + inner * width + 2 * direction
    return embeddings + video.depth * block + width


def _projector(channels: int, width: int) -> int:
    return width * (channels + 1 + width + 1 + 9 + 1)
