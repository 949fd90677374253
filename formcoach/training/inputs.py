"""Where the model's inputs come from in a training: clips that are decoded again and again, that are kept in memory, or
features of a vision tower that does not change.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from formcoach.command import usable_cores
from formcoach.data.dataset import ClipDataset, ResizedClip
from formcoach.models import family_of
from formcoach.training.callbacks import RunReport
from formcoach.training.feature_cache import FeatureCache, fill, open_cache
from formcoach.training.plan import Plan, bad_clips_line
from formcoach.training.preflight import KEEP_BYTES, Opened, decode_clips, kept_bytes

MOST_WORKERS = 8


@dataclass(frozen=True)
class Inputs:
    """The samples of a training as the model's inputs.

    Args:
        train: for training.
        val: for validation; None: there is none.
        workers: processes that read ahead.
    """

    train: ClipDataset
    val: ClipDataset | None
    workers: int


def check_clips(plan: Plan, processor: Any, report: RunReport) -> tuple[Plan, dict[Path, ResizedClip]]:
    """Decode what is kept in memory: clips that are needed more than once, if all of a set fit.

    Returns:
        The plan without samples whose clips cannot be decoded, where those are to be left out, and the clips.

    Raises:
        UserError: a clip cannot be decoded.
    """
    train_passes, val_passes = plan.passes
    budget = KEEP_BYTES // plan.place.local_count
    train, kept = _decode(plan, plan.train, processor, 0 if caches_training(plan) or train_passes <= 1 else budget)
    parts = [train]
    if plan.val is not None:
        budget -= sum(clip.frames.nbytes for clip in kept.values())
        keep = plan.config.feature_cache is None and val_passes > 1
        val, more = _decode(plan, plan.val, processor, budget if keep else 0)
        parts.append(val)
        kept |= more
    for part in parts:
        for line in bad_clips_line(part):
            report.say(line)
    return replace(plan, train=train, val=parts[1] if plan.val is not None else None), kept


def make_inputs(plan: Plan, model: Any, processor: Any, kept: Mapping[Path, ResizedClip], report: RunReport) -> Inputs:
    """Return the inputs, after what is missing in the feature cache has been computed.

    Args:
        plan: from `check_clips`.
        model: the base model.
        processor: its processor.
        kept: from `check_clips`.
        report: is told what the cache holds.

    Raises:
        UserError: a clip cannot be read, or the cache cannot be written.
    """
    config = plan.config
    train = ClipDataset(plan.train.samples, processor, kept, config.seed, variants=config.feature_variants or None)
    val = ClipDataset(plan.val.samples, processor, kept) if plan.val is not None else None
    if config.feature_cache is not None:
        cache = _fill_cache(plan, model, processor, train, val, report)
        train.features = cache if caches_training(plan) else None
        if val is not None:
            val.features = cache
    return Inputs(train, val, _workers(plan, train))


def caches_training(plan: Plan) -> bool:
    """Tell whether the features of training clips can be kept: not if each epoch shows them in another way."""
    if plan.config.feature_cache is None:
        return False
    return plan.config.feature_variants > 0 or not any(sample.augmentations for sample in plan.train.samples)


def _decode(plan: Plan, opened: Opened, processor: Any, budget: int) -> tuple[Opened, dict[Path, ResizedClip]]:
    """Decode all clips of a set if they fit in `budget` bytes, or if undecodable ones shall be left out."""
    keep = budget > 0 and kept_bytes(opened, processor) <= budget
    if not keep and not plan.config.skip_bad_clips:
        return opened, {}
    return decode_clips(opened, processor, plan.threads, keep, plan.config.skip_bad_clips)


def _fill_cache(
    plan: Plan, model: Any, processor: Any, train: ClipDataset, val: ClipDataset | None, report: RunReport
) -> FeatureCache:
    config = plan.config
    # accelerate computes half precision under autocast; DeepSpeed casts the weights instead.
    autocast = config.dtype if config.dtype != "float32" and config.deepspeed is None else None
    infos = {**plan.train.infos, **(plan.val.infos if plan.val is not None else {})}
    folder = Path(str(config.feature_cache))
    cache = open_cache(
        folder, model, family_of(config.model), processor, infos, autocast=autocast, threads=plan.threads
    )
    parts = [(train, max(config.feature_variants, 1))] if caches_training(plan) else []
    parts += [(val, 1)] if val is not None else []
    if not caches_training(plan):
        report.say(
            "feature cache: off for training clips, which each epoch shows in another way; "
            "--feature-variants N keeps N ways of each"
        )
    if parts:
        place, workers = plan.place, _reading_workers(plan, cores=1.0)  # decoding takes longest
        filled = fill(cache, parts, model, autocast=autocast, workers=workers, rank=place.rank, processes=place.count)
        report.say(f"feature cache {cache.folder}: {filled}")
    return cache


def _workers(plan: Plan, train: ClipDataset) -> int:
    """Return how many processes read ahead."""
    if plan.config.num_workers is not None:
        return plan.config.num_workers
    augmented = any(sample.augmentations for sample in train.samples)
    at_hand = train.features is not None or (train.samples[0].clip in train.kept and not augmented)
    # What is at hand takes a millisecond a sample: less than a second process costs where the CPU computes too.
    workers = _reading_workers(plan, cores=0.5)  # the rest is for computing
    return min(int(plan.cuda), workers) if at_hand else workers


def _reading_workers(plan: Plan, cores: float) -> int:
    """Return how many processes shall decode clips, on a share of the cores."""
    if plan.config.num_workers is not None:
        return plan.config.num_workers
    return min(MOST_WORKERS, max(1, int(cores * usable_cores()) // plan.place.local_count))
