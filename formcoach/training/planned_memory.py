"""A planned training as the memory's estimate sees it."""

from collections.abc import Mapping

from formcoach.data.dataset import Sample
from formcoach.models.precision import attention_used
from formcoach.models.sizes import ModelSizes
from formcoach.training.inputs import caches_training
from formcoach.training.lengths import Length
from formcoach.training.plan import Plan
from formcoach.training.sharding import read_deepspeed, zero_stage
from formcoach.training.workload import FP32, FROZEN, FULL, HALF, LORA, Workload


def planned_work(plan: Plan, sizes: ModelSizes, lengths: Mapping[Sample, Length] | None) -> Workload:
    """Return what the memory of a training depends on.

    Args:
        plan: the training.
        sizes: of its model.
        lengths: of its training samples; None: not known yet.
    """
    config = plan.config
    path = config.deepspeed
    deepspeed = read_deepspeed(path) if path is not None else {}
    zero = deepspeed.get("zero_optimization", {})
    return Workload(
        quantization=config.quantization,
        min_frames=config.min_frames,
        micro_batch_size=config.micro_batch_size,
        pack_length=config.pack_max_length if config.dset_pack else None,
        language=_mode(config.trains_language, config.no_lora),
        vision=_mode(config.trains_vit, not config.lora_vit),
        lora_rank=config.lora_rank,
        train_connector=config.connector_lr > 0,
        recompute=config.selective_recompute,
        feature_cache=caches_training(plan),
        attention=attention_used(config.attn, config.dtype, cuda=plan.cuda),
        number_bytes=FP32 if config.dtype == "float32" else HALF,
        zero=zero_stage(deepspeed, path) if path is not None else 0,
        processes=plan.place.count,
        offload_optimizer=_offloads(zero, "offload_optimizer"),
        offload_parameters=_offloads(zero, "offload_param"),
        cuda=plan.cuda,
        **(_longest(plan, sizes, lengths) if lengths is not None else {"frames": config.max_frames}),
    )


def _longest(plan: Plan, sizes: ModelSizes, lengths: Mapping[Sample, Length]) -> dict[str, int]:
    """Return frames, text and answer of the longest samples, and how far apart answers begin."""
    found = [lengths[sample] for sample in plan.train.samples]
    longest = max(found, key=lambda length: length.total)
    frames = sizes.frames(longest.visual)
    prompts = [length.text + length.visual for length in found]
    return {
        "frames": frames,
        "text_tokens": max(longest.total - sizes.clip_tokens(frames), 1),
        "answer_tokens": max(length.answer for length in found),
        "answer_spread": max(prompts) - min(prompts),
    }


def _mode(trains: bool, in_full: bool) -> str:
    return FROZEN if not trains else FULL if in_full else LORA


def _offloads(zero: Mapping[str, object], name: str) -> bool:
    section = zero.get(name)
    return isinstance(section, dict) and section.get("device") == "cpu"
