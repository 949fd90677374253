"""The InternVideo2.5 family."""

from typing import TYPE_CHECKING

from formcoach.config import Recipe
from formcoach.models.family import Family, RunLayout
from formcoach.models.internvideo.original import PUBLISHED_8B
from formcoach.models.internvideo.sizes import read_sizes, sizes_of

if TYPE_CHECKING:
    from formcoach.models.opening import Checkpoints


def _checkpoints() -> "Checkpoints":
    from formcoach.models.internvideo.checkpoint import CHECKPOINTS  # torch and transformers take seconds

    return CHECKPOINTS


INTERNVIDEO = Family(
    key="internvideo",
    name="InternVideo2.5",
    large="OpenGVLab/InternVideo2_5_Chat_8B",
    tiny="tiny",
    gpu_gb=24,
    disk_gb=25,
    script="scripts/finetune_qved.sh",
    model_types=("internvl_chat", "internvideo"),
    checkpoints=_checkpoints,
    sizes=read_sizes,
    published=dict.fromkeys(
        ("OpenGVLab/InternVideo2_5_Chat_8B", "OpenGVLab/InternVL_2_5_HiCo_R16"), sizes_of(PUBLISHED_8B)
    ),
    vision="vision_tower",
    connector="multi_modal_projector",
    language="language_model",
    lora_targets=r".*language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
    vision_lora_targets=(
        r".*vision_tower\.encoder\.layer\.\d+\.(attention\.([qkv]_proj|projection_layer)|mlp\.fc[12])"
    ),
    recipe=Recipe(),
    runs=RunLayout("work_dirs/qevd_fit_300k_internvideo2_5_r16"),
    frame_group=4,
    free_frames=True,
)
