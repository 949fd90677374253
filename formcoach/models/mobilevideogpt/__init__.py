"""The Mobile-VideoGPT family."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from formcoach.config import Recipe
from formcoach.models.family import Family
from formcoach.models.mobilevideogpt.original import PUBLISHED_05B, PUBLISHED_15B
from formcoach.models.mobilevideogpt.sizes import read_sizes, sizes_of
from formcoach.models.precision import Precision

if TYPE_CHECKING:
    from formcoach.models.layout import Layout


def _load(folder: Path, precision: Precision) -> tuple[Any, Any]:
    from formcoach.models.mobilevideogpt.checkpoint import load_checkpoint  # torch and transformers take seconds

    return load_checkpoint(folder, precision)


def _open(folder: Path) -> "Layout":
    from formcoach.models.mobilevideogpt.checkpoint import open_checkpoint

    return open_checkpoint(folder)


def _outline(folder: Path) -> tuple[Any, Any]:
    from formcoach.models.mobilevideogpt.checkpoint import outline_checkpoint

    return outline_checkpoint(folder)


MOBILEVIDEOGPT = Family(
    name="Mobile-VideoGPT",
    model_types=("MobileVideoGPT_qwen", "mobilevideogpt"),
    load=_load,
    open=_open,
    outline=_outline,
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
