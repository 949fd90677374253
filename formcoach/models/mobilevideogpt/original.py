"""What the `config.json` of an original Mobile-VideoGPT checkpoint says, and what the published ones say."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from formcoach.errors import UserError
from formcoach.models.sizes import Channels, Layers, Pixels, Tokens
from formcoach.models.weights import REMEDY

ORIGINAL_TYPE = "MobileVideoGPT_qwen"
PROJECTOR = "etp"
VIDEO_TOWER, IMAGE_TOWER = "OpenGVLab/VideoMamba", "openai/clip-vit-base-patch16"

Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"]
TokenId = Annotated[int, msgspec.Meta(ge=0)]
Place = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]  # a hub id, or a path


class OriginalVideoTower(msgspec.Struct, frozen=True):
    """`vision_tower_config`: a VideoMamba; the default is VideoMamba-M."""

    depth: Layers = 32
    embed_dim: Channels = 576


class OriginalImageTower(msgspec.Struct, frozen=True):
    """`image_vision_tower_config`: a CLIP vision tower; the default is ViT-B/16."""

    hidden_size: Channels = 768
    intermediate_size: Channels = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: Channels = 12
    image_size: Pixels = 224
    patch_size: Pixels = 16
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: float = 1e-5


class OriginalConfig(msgspec.Struct, frozen=True):
    """`config.json` of an original checkpoint. What it says of projector widths (`mm_hidden_size`) is unreliable."""

    vocab_size: Tokens
    hidden_size: Channels
    intermediate_size: Channels
    num_hidden_layers: Layers
    num_attention_heads: Channels
    num_key_value_heads: Channels
    mm_vision_tower: Place = VIDEO_TOWER
    image_mm_vision_tower: Place = IMAGE_TOWER
    mm_projector_type: str = PROJECTOR
    image_mm_projector_type: str = PROJECTOR
    mm_vision_select_layer: int = -2
    mm_vision_select_feature: str = "patch"
    mm_use_im_start_end: bool = False
    use_sliding_window: bool = False
    max_position_embeddings: Tokens = 32768
    rope_theta: float = 1_000_000.0
    rms_norm_eps: float = 1e-6
    hidden_act: Activation = "silu"
    tie_word_embeddings: bool = False
    bos_token_id: TokenId | None = None
    eos_token_id: TokenId | list[TokenId] | None = None
    vision_tower_config: OriginalVideoTower = OriginalVideoTower()
    image_vision_tower_config: OriginalImageTower = OriginalImageTower()


def published(hidden_size: int, intermediate_size: int, layers: int, heads: tuple[int, int]) -> OriginalConfig:
    """Return the configuration of a published model, which differ in their Qwen2.

    Args:
        hidden_size: of the language model.
        intermediate_size: of the language model.
        layers: of the language model.
        heads: of the language model, for queries and for keys and values.
    """
    return OriginalConfig(
        vocab_size=151_936,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
    )


PUBLISHED_05B = published(896, 4864, 24, (14, 2))
PUBLISHED_15B = published(1536, 8960, 28, (12, 2))


def parse_original(path: Path, raw: dict[str, Any]) -> OriginalConfig:
    """Check and return the content of an original `config.json`.

    Raises:
        UserError: if it is not that of a Mobile-VideoGPT model, or names parts that this project does not have.
    """
    try:
        config = msgspec.convert(raw, OriginalConfig)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}. {REMEDY}") from None
    known = {
        "mm_projector_type": PROJECTOR,
        "image_mm_projector_type": PROJECTOR,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "use_sliding_window": False,
    }
    for name, value in known.items():
        found = getattr(config, name)
        if found != value:
            raise UserError(f"{path}: {name} {found!r} is not supported, only {value!r}. Name another model")
    return config
