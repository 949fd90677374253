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
from formcoach.models.sizes import Channels, Count, Held, Layers, ModelSizes, Tokens, Tower
from formcoach.models.weights import REMEDY

VIEWS = 2  # of each frame: one for either tower
VIDEO_PATCH = 16  # pixels along a side of a patch of the video tower
STATES, KERNEL, EXPAND = 16, 4, 2  # of its scans
SCAN_BUFFERS = 2400  # numbers for a channel of a token


class ClipShape(msgspec.Struct, frozen=True, kw_only=True):
    """Which frames of a clip go where and how many tokens are made of them, see `MobileVideoGPTConfig`."""

    frames: Count = 16
    chunk: Count = 8
    selected: Count = 4
    pooled: Count = 7
    video_side: Count = 7
    image_side: Count = 12

    @property
    def chunks(self) -> int:
        """Chunks of a clip."""
        return self.frames // self.chunk

    @property
    def video_frames(self) -> int:
        """Frames that the video tower sees."""
        return self.chunks * self.selected

    @property
    def image_tokens(self) -> int:
        """Tokens that the image tower's connector makes of a clip."""
        return self.frames * self.image_side**2

    @property
    def video_tokens(self) -> int:
        """Tokens that the video tower's connector makes of a clip."""
        return self.chunks * self.video_side**2

    @property
    def pooled_tokens(self) -> int:
        """Tokens of the video tower that its connector gets of a clip."""
        return self.video_frames * self.pooled**2


class NativeLanguage(msgspec.Struct, frozen=True):
    """`text_config` of this project's `config.json`."""

    vocab_size: Tokens
    hidden_size: Channels
    intermediate_size: Channels
    num_hidden_layers: Layers
    num_attention_heads: Channels
    num_key_value_heads: Channels


class NativeConfig(ClipShape, frozen=True, kw_only=True):
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
    return _sizes(config.text_config, video, config.image_config, config, tied=config.tie_word_embeddings)


def sizes_of(config: OriginalConfig) -> ModelSizes:
    """Return the sizes of an original checkpoint's model."""
    towers = config.vision_tower_config, config.image_vision_tower_config
    return _sizes(config, *towers, ClipShape(), tied=config.tie_word_embeddings)


def _sizes(
    text: OriginalConfig | NativeLanguage,
    video: OriginalVideoTower,
    image: OriginalImageTower,
    clip: ClipShape,
    *,
    tied: bool,
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
        vision_other=_image_other(image, patches) + _video(video, image, clip),
        patch_tokens=patches + 1,
        image_size=image.image_size,
        views=VIEWS,
        frame_group=clip.frames,
        group_tokens=clip.image_tokens + clip.video_tokens,
        frame_words=0,
        features=clip.frames * patches * image.hidden_size + clip.pooled_tokens * video.embed_dim,
        seeing=_seeing(video, image, clip),
        vision_kept=_scan_kept(video, image, clip),
        connector=_projector(image.hidden_size, width) + _projector(video.embed_dim, width),
        connector_kept=_connector_kept(width, video, image, clip),
        language=language,
        language_other=width + text.num_hidden_layers * (2 * width + width + 2 * key_values),  # norms; q, k, v biases
        vocabulary=text.vocab_size,
        tied=tied,
    )


def _image_other(image: OriginalImageTower, patches: int) -> int:
    """Return the image tower's parameters beside its linear layers' matrices."""
    width = image.hidden_size
    embeddings = width * (3 * image.patch_size**2 + 1 + patches + 1)  # kernel, class token, positions
    in_layer = 4 * width + 4 * width + image.intermediate_size + width  # two norms; biases of attention and MLP
    return embeddings + 4 * width + image.num_hidden_layers * in_layer


def _video(video: OriginalVideoTower, image: OriginalImageTower, clip: ClipShape) -> int:
    """Return the video tower's parameters."""
    width, inner = video.embed_dim, EXPAND * video.embed_dim
    rank = -(-width // 16)
    # Kernel and its bias, class token, positions in the frame and in the clip.
    embeddings = width * (3 * VIDEO_PATCH**2 + 1 + 1 + 1 + _video_patches(image) + clip.video_frames)
    direction = inner * (STATES + 1 + KERNEL + 1 + rank + 2 * STATES + rank + 1)
    block = width + 2 * inner * width + inner * width + 2 * direction
    return embeddings + video.depth * block + width


def _video_patches(image: OriginalImageTower) -> int:
    """Return the patches of a frame for the video tower, which sees frames of the image tower's size."""
    return (image.image_size // VIDEO_PATCH) ** 2


def _projector(channels: int, width: int) -> int:
    """Return the parameters of a connector: two layers and a depth-wise convolution."""
    return width * (channels + 1 + width + 1 + 9 + 1)


def _seeing(video: OriginalVideoTower, image: OriginalImageTower, clip: ClipShape) -> tuple[Held, ...]:
    """Return what is held in a layer of the image tower, while frames are selected, and in a block of the video tower.

    Factors of a width were found by measuring with PyTorch's allocator; the scan's own buffers are some more tokens.
    """
    patches = (image.image_size // image.patch_size) ** 2
    layer = Held(clip.frames * (patches + 1) * (3 * image.hidden_size + 3 * image.intermediate_size))
    features = clip.frames * patches * image.hidden_size
    attention = (clip.chunk * patches) ** 2
    selection = Held(features, features, once=3 * attention)
    scanned = _scanned(image, clip) * video.embed_dim
    pixels = clip.video_frames * 3 * image.image_size**2
    block = Held(features + 7 * scanned, 29 * scanned + SCAN_BUFFERS * video.embed_dim + pixels)
    return layer, selection, block


def _scanned(image: OriginalImageTower, clip: ClipShape) -> int:
    """Return the tokens that the video tower scans."""
    return 1 + clip.video_frames * _video_patches(image)


def _scan_kept(video: OriginalVideoTower, image: OriginalImageTower, clip: ClipShape) -> Held:
    """Return what the backward pass of the video tower needs.

    That is decays and states of every token, of one block some copies, and what each block computes on the way
    (measured).
    """
    states = 2 * EXPAND * video.embed_dim * STATES  # of both directions
    return Held(wide=_scanned(image, clip) * ((2 * video.depth + 4) * states + 30 * video.depth * video.embed_dim))


def _connector_kept(width: int, video: OriginalVideoTower, image: OriginalImageTower, clip: ClipShape) -> Held:
    """Return what the connectors' backward passes need: the inputs of each of their steps."""
    patches = clip.frames * (image.image_size // image.patch_size) ** 2
    before = patches * (image.hidden_size + 3 * width) + clip.pooled_tokens * (video.embed_dim + 3 * width)
    return Held(before + (clip.image_tokens + clip.video_tokens) * width)
