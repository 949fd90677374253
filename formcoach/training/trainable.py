"""The model that is trained: the base as its authors or a run before left it, with trainable weights beside its own."""

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer

from formcoach.config import TrainingConfig
from formcoach.models import family_of, load_model
from formcoach.models.adapters import add_lora
from formcoach.models.family import Family
from formcoach.models.segment_attention import attend_by_segment
from formcoach.training.liger import apply_liger
from formcoach.training.lora_products import scale_inside
from formcoach.training.recompute import recompute


def load_trainable(config: TrainingConfig, device: str) -> tuple[Any, Any]:
    """Load the base model and put the trained weights beside its own.

    Args:
        config: which model, and what of it is trained how.
        device: torch's name.

    Returns:
        The model and its processor.

    Raises:
        UserError: the model cannot be loaded, or has no such layers as are to be trained.
    """
    base, processor = load_model(config.model, config.dtype, config.quantization, device, attention=config.attn)
    processor.min_frames, processor.max_frames = config.min_frames, config.max_frames
    family = family_of(config.model)
    attend_by_sample(base, family)
    if config.liger:
        apply_liger(base, family)
    model = trainable(base, family, config)
    scale_inside(model)
    recompute(model, family, config.selective_recompute)
    if config.deepspeed is None and config.dtype != "float32":  # DeepSpeed casts the weights instead
        leave_casts_to_autocast(model)
    return model, processor


def trainable(base: Any, family: Family, config: TrainingConfig) -> Any:
    """Put the trained weights beside those of a base model, which may be on torch's meta device.

    Raises:
        UserError: it has no such layers as are to be trained.
    """
    return add_lora(
        base,
        family,
        config.model,
        rank=config.lora_rank,
        alpha=config.lora_alpha,
        dropout=config.lora_dropout,
        targets=config.lora_targets,
        train_language=config.trains_language,
        train_connector=config.connector_lr > 0,
        train_vit=config.trains_vit,
        language_in_full=config.trains_language and config.no_lora,
        vit_in_full=config.trains_vit and not config.lora_vit,
    )


def attend_by_sample(base: Any, family: Family) -> None:
    """Let the language model attend sample by sample, where it computes with PyTorch's fused attention."""
    for name, module in base.named_modules():
        if name.rpartition(".")[2] == family.language and module.config._attn_implementation == "sdpa":
            attend_by_segment(module)


def leave_casts_to_autocast(model: Any) -> None:
    """Keep LoRA from casting inputs to the float32 of its weights: under autocast they would be cast back at once."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False
