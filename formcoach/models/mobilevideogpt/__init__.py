"""The Mobile-VideoGPT family."""

from typing import TYPE_CHECKING

from formcoach.config import Recipe
from formcoach.models.family import Family
from formcoach.models.mobilevideogpt.original import PUBLISHED_05B, PUBLISHED_15B
from formcoach.models.mobilevideogpt.sizes import read_sizes, sizes_of

if TYPE_CHECKING:
    from formcoach.models.opening import Checkpoints


def _checkpoints() -> "Checkpoints":
    from formcoach.models.mobilevideogpt.checkpoint import CHECKPOINTS  # torch and transformers take seconds

    return CHECKPOINTS


MOBILEVIDEOGPT = Family(
    name="Mobile-VideoGPT",
    model_types=("MobileVideoGPT_qwen", "mobilevideogpt"),
    checkpoints=_checkpoints,
    sizes=read_sizes,
    published={
        "Amshaker/Mobile-VideoGPT-0.5B": sizes_of(PUBLISHED_05B),
        "Amshaker/Mobile-VideoGPT-1.5B": sizes_of(PUBLISHED_15B),
    },
    vision="vision_tower",
    connector="multi_modal_projector",
    language="language_model",
    lora_targets=r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
    vision_lora_targets=(r".*vision_tower\.image\.encoder\.layers\.\d+\.(self_attn\.([qkv]|out)_proj|mlp\.fc[12])"),
    recipe=Recipe(
        epochs=10,
        micro_batch_size=4,
        global_batch_size=16,
        lr=1e-4,
        connector_lr=2e-5,
        min_frames=16,
        max_frames=16,
        lora_rank=64,
        lora_alpha=128,
        checkpoint_interval=50,
    ),
)
