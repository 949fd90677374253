"""What the `config.json` of an original InternVideo2.5 checkpoint says, and what the published one says."""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from formcoach.errors import UserError
from formcoach.models.sizes import Channels, Layers, Pixels, Tokens
from formcoach.models.weights import REMEDY

ORIGINAL_TYPE = "internvl_chat"
TEMPLATE = "internvl2_5"


Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"]
TokenId = Annotated[int, msgspec.Meta(ge=0)]


class OriginalVision(msgspec.Struct, frozen=True):
    """`vision_config` of an original checkpoint: an InternViT."""

    hidden_size: Channels
    num_hidden_layers: Layers
    num_attention_heads: Channels
    intermediate_size: Channels
    patch_size: Pixels
    image_size: Pixels
    num_channels: Channels = 3
    qkv_bias: bool = True
    qk_normalization: bool = False
    norm_type: Literal["layer_norm", "rms_norm"] = "layer_norm"
    layer_norm_eps: float = 1e-6
    hidden_act: Activation = "gelu"
    initializer_factor: float = 0.1


class OriginalRope(msgspec.Struct, frozen=True):
    """`rope_scaling` of an original language model."""

    type: Literal["dynamic", "linear"]
    factor: Annotated[float, msgspec.Meta(ge=1)]


class OriginalLanguage(msgspec.Struct, frozen=True):
    """`llm_config` of an original checkpoint: an InternLM2."""

    model_type: str
    vocab_size: Tokens
    hidden_size: Channels
    num_hidden_layers: Layers
    num_attention_heads: Channels
    intermediate_size: Channels
    num_key_value_heads: Channels | None = None
    max_position_embeddings: Tokens = 32768
    hidden_act: Activation = "silu"
    rms_norm_eps: float = 1e-6
    bias: bool = False
    rope_theta: float = 10000.0
    rope_scaling: OriginalRope | None = None
    tie_word_embeddings: bool = False
    bos_token_id: TokenId = 1
    eos_token_id: TokenId = 2
    pad_token_id: TokenId | None = 2


class OriginalConfig(msgspec.Struct, frozen=True):
    """`config.json` of an original checkpoint."""

    vision_config: OriginalVision
    llm_config: OriginalLanguage
    template: str
    ps_version: str = "v1"
    downsample_ratio: float = 0.5
    select_layer: int = -1
    force_image_size: int | None = None


# What `OpenGVLab/InternVideo2_5_Chat_8B` and `OpenGVLab/InternVL_2_5_HiCo_R16` say: InternViT-300M and InternLM2.5-7B.
PUBLISHED_8B = OriginalConfig(
    vision_config=OriginalVision(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        patch_size=14,
        image_size=448,
    ),
    llm_config=OriginalLanguage(
        model_type="internlm2",
        vocab_size=92553,
        hidden_size=4096,
        num_hidden_layers=32,
        num_attention_heads=32,
        intermediate_size=14336,
        num_key_value_heads=8,
        rms_norm_eps=1e-5,
        rope_theta=1e6,
        rope_scaling=OriginalRope("dynamic", 2.0),
    ),
    template=TEMPLATE,
    ps_version="v2",
    force_image_size=448,
)


def parse_original(path: Path, raw: Any) -> OriginalConfig:
    """Return the content of an original `config.json`.

    Args:
        path: where it was read, for messages.
        raw: its content.

    Raises:
        UserError: if a value is missing or of the wrong type, or describes a model that is not InternVideo2.5.
    """
    try:
        original = msgspec.convert(raw, OriginalConfig)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}. {REMEDY}") from None
    _refuse_other_models(path, original)
    return original


def _refuse_other_models(path: Path, original: OriginalConfig) -> None:
    """Raise a `UserError` for an InternVL model that is not an InternVideo2.5."""
    expected = {
        "llm_config.model_type": (original.llm_config.model_type, "internlm2"),
        "template": (original.template, TEMPLATE),
        "ps_version": (original.ps_version, "v2"),
        "downsample_ratio": (original.downsample_ratio, 0.5),
        "force_image_size": (
            original.force_image_size or original.vision_config.image_size,
            original.vision_config.image_size,
        ),
    }
    for name, (value, wanted) in expected.items():
        if value != wanted:
            raise UserError(
                f"{path}: {name} is {value!r}, but an InternVideo2.5 checkpoint has {wanted!r}; "
                "use one, e.g. OpenGVLab/InternVideo2_5_Chat_8B"
            )
