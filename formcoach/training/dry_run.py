"""What a training would do, in a page: nothing is trained, written or downloaded that telling it does not need."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from formcoach.config import TrainingConfig, interval_steps
from formcoach.models import family_of, sizes_for
from formcoach.models.family import Family
from formcoach.models.hub import commit_of
from formcoach.models.location import small_files
from formcoach.models.precision import attention_used
from formcoach.training.batches import Batches
from formcoach.training.length_report import length_line, length_table
from formcoach.training.lengths import Length
from formcoach.training.memory_report import memory_report
from formcoach.training.plan import Plan
from formcoach.training.preflight import check_all_lengths, long_rows, measure_samples
from formcoach.training.schedule import CONNECTOR, LANGUAGE, PARTS, VISION, part_of
from formcoach.training.sharding import read_deepspeed, zero_stage
from formcoach.training.trainable import trainable

TITLES = {LANGUAGE: "language model", CONNECTOR: "connector", VISION: "vision tower"}
SHOWN_STEPS = 8  # of checkpoints
WIDTH = 17  # of the first column, as in `length_report`


def tell(plan: Plan) -> None:
    """Print what a training would do; of several processes, the first one does.

    Args:
        plan: the training.

    Raises:
        UserError: it could not start, e.g. since a sample is too long.
    """
    if plan.place.rank != 0:
        return
    folder = small_files(plan.config.model)
    family = family_of(plan.config.model)
    found = family.checkpoints().outline(folder)
    model, processor = found.model, found.processor
    processor.min_frames, processor.max_frames = plan.config.min_frames, plan.config.max_frames
    plan, train, val, lines = _measured(plan, processor)
    batches = plan.batches([train[sample].total for sample in plan.train.samples])
    lines = [
        *plan.notices,
        *lines,
        "",
        *_names(plan, family, commit_of(folder)),
        *_samples(plan, [train[sample] for sample in plan.train.samples], val),
        *_steps(plan, batches),
        *_rates(plan.config, batches.steps, _trained(plan.config, model, family)),
        *_numbers(plan),
        "",
        *memory_report(plan, train),
    ]
    print("\n".join(lines), flush=True)


def _measured(plan: Plan, processor: Any) -> tuple[Plan, Any, list[Length], list[str]]:
    """Return the plan without what is too long, the samples' lengths, and lines on what is left out."""
    config = plan.config
    lengths = measure_samples(plan.train, plan.val, processor, plan.threads, None)
    train, val, lines = check_all_lengths(config, plan.train, plan.val, lengths)
    if config.dset_pack:
        lines += long_rows(train, lengths.train, config.pack_max_length)
    found = [lengths.val[sample] for sample in val.samples] if val is not None else []
    return replace(plan, train=train, val=val), lengths.train, found, lines


def _trained(config: TrainingConfig, model: Any, family: Family) -> dict[str, int]:
    """Return how many weights of each part are trained; `model` is without weights and stays so."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in trainable(model, family, config).named_parameters():
        if parameter.requires_grad:
            counts[part_of(name, family)] += parameter.numel()
    return counts


def _names(plan: Plan, family: Family, commit: str | None) -> list[str]:
    size = sizes_for(plan.config.model).parameters
    revision = f" at {commit[:12]}" if commit is not None else ""
    count = f"{size / 1e9:.2f} billion" if size >= 1e9 else f"{size / 1e6:.1f} million"
    lines = [_row("model", f"{plan.config.model}{revision}, {family.name}, {count} parameters")]
    lines.append(_row("run directory", str(plan.run)))
    return lines + ([_row("continues at", str(plan.resume.folder))] if plan.resume is not None else [])


def _samples(plan: Plan, train: Sequence[Length], val: Sequence[Length]) -> list[str]:
    """Tell where the samples come from and how long they are."""
    counts = Counter(sample.dataset for sample in plan.train.samples)
    lines = [_row("training data", ", ".join(f"{name} {count:,}" for name, count in counts.items()) + " samples")]
    lines += length_table(train)
    return [*lines, length_line(val) if val else "validation: none", ""]


def _steps(plan: Plan, batches: Batches) -> list[str]:
    """Tell how many steps there are, of how many clips, and what happens at which."""
    config, steps = plan.config, batches.steps
    an_epoch = len(batches.lengths) / config.global_batch_size
    tokens = sum(batches.lengths) / len(batches.lengths) * batches.samples
    lines = [
        _row("optimizer steps", f"{steps:,}: {batches.epoch(steps):g} epochs of {an_epoch:g} steps"),
        _row("tokens", f"{tokens:,.0f} in all, {sum(batches.lengths):,} an epoch, {max(batches.lengths):,} at most"),
        _row("global batch", _batch(plan, batches)),
    ]
    saved = _times(config.checkpoint_interval, steps)
    lines.append(_row("checkpoints at", _shown(saved)))
    if plan.val is not None:
        lines.append(_row("validation at", _shown(sorted({*saved, *_times(config.eval_interval, steps)} - {0}))))
    return lines


def _batch(plan: Plan, batches: Batches) -> str:
    config = plan.config
    processes = f"{plan.place.count} process{'es' if plan.place.count > 1 else ''}"
    if config.dset_pack:
        rows = f"rows of up to {config.pack_max_length:,} tokens, at most {batches.passes} a step"
        return f"{config.global_batch_size} clips in {rows} in each of {processes}"
    passes = f"{config.micro_batch_size} (micro batch) x {batches.passes} (accumulation) x {processes}"
    return f"{config.global_batch_size} clips = {passes}"


def _times(interval: float, steps: int) -> list[int]:
    """Return the steps at which something happens; at the end it always does."""
    every = interval_steps(interval, steps)
    return [*range(every, steps, every), steps]


def _shown(steps: Sequence[int]) -> str:
    if len(steps) <= SHOWN_STEPS:
        return ", ".join(f"{step:,}" for step in steps)
    half = SHOWN_STEPS // 2
    return f"{', '.join(f'{step:,}' for step in steps[:half])}, ..., {steps[-1]:,} ({len(steps)} times)"


def _rates(config: TrainingConfig, steps: int, trained: dict[str, int]) -> list[str]:
    """Tell what is trained and at which rate."""
    rates = {LANGUAGE: config.lr, CONNECTOR: config.connector_lr, VISION: config.vit_lr}
    in_full = {LANGUAGE: config.no_lora, CONNECTOR: True, VISION: not config.lora_vit}
    lora = f"LoRA rank {config.lora_rank}"
    lines = [
        _row(
            TITLES[part],
            f"{count:,} weights trained, {'in full' if in_full[part] else lora}, learning rate {rates[part]:g}"
            if count
            else "frozen",
        )
        for part, count in trained.items()
    ]
    warmup = math.ceil(config.warmup_ratio * steps)
    count = f"{warmup:,} step{'' if warmup == 1 else 's'}"
    return [*lines, _row("warm-up", f"{count}, then a cosine down to {config.lr_min:g}")]


def _numbers(plan: Plan) -> list[str]:
    """Tell number formats, attention and DeepSpeed."""
    config = plan.config
    path = config.deepspeed
    sharing = f"ZeRO-{zero_stage(read_deepspeed(path), path)} ({path})" if path is not None else "none: plain PyTorch"
    attention = attention_used(config.attn, config.dtype, cuda=plan.cuda)
    frozen = f" on {config.quantization}" if config.quantization is not None else ""
    return [
        _row("computes in", f"{config.dtype}{frozen}, attention {attention}"),
        _row("recomputes", f"{config.selective_recompute:.0%} of the layers in the backward pass"),
        _row("DeepSpeed", sharing),
    ]


def _row(name: str, text: str) -> str:
    return f"{name:<{WIDTH}}  {text}".rstrip()
