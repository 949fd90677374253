"""The Mobile-VideoGPT family."""

from typing import TYPE_CHECKING

from formcoach.config import Recipe
from formcoach.models.family import Family, RunLayout
from formcoach.models.mobilevideogpt.original import PUBLISHED_05B, PUBLISHED_15B
from formcoach.models.mobilevideogpt.sizes import read_sizes, sizes_of

if TYPE_CHECKING:
    from formcoach.models.opening import Checkpoints


def _checkpoints() -> "Checkpoints":
    from formcoach.models.mobilevideogpt.checkpoint import CHECKPOINTS  # torch and transformers take seconds

    return CHECKPOINTS


MOBILEVIDEOGPT = Family(
    key="mobilevideogpt",
    name="Mobile-VideoGPT",
    large="Amshaker/Mobile-VideoGPT-0.5B",
    tiny="tiny-mobile",
    gpu_gb=8,
    disk_gb=5,
    script="scripts/finetune_mobilevideogpt.sh",
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
        max_length=2048,
        max_length_of="text",
        pack_max_length=10_240,  # a micro batch of clips
        checkpoint_interval=50,
    ),
    runs=RunLayout(
        "results/qved_finetune_mobilevideogpt_0.5B",
        checkpoint="checkpoint-",
        last="checkpoint-final",
        conversations="qved_{split}.json",
    ),
    frame_group=16,
    free_frames=False,
)
