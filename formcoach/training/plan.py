"""What a training will do: settings, data and start, settled and checked before anything is written."""

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from formcoach.command import usable_cores
from formcoach.config import RESUMABLE, Defaults, Recipe, TrainingConfig, interval_steps, resolve
from formcoach.data.dataset import Sample, read_samples
from formcoach.data.sampling import round_limits
from formcoach.data.sources import read_sources
from formcoach.errors import UserError
from formcoach.files import read_json, why_unwritable
from formcoach.models import (
    check_family,
    default_model,
    family_named,
    family_of,
    recipe_for,
    resolve_checkpoint,
    sizes_for,
)
from formcoach.models.adapters import fingerprint
from formcoach.models.family import Family
from formcoach.models.location import is_adapter, locate
from formcoach.processes import Place
from formcoach.training import resumption, run_directory
from formcoach.training.batches import Batches, BatchSettings, Packing
from formcoach.training.headers import Headers
from formcoach.training.liger import check_liger
from formcoach.training.preflight import NAMED, Opened, open_clips
from formcoach.training.sharding import choose_deepspeed
from formcoach.training.trackers import check_trackers


@dataclass(frozen=True)
class Plan:
    """A training that can start.

    Args:
        config: all settings, the number format among them.
        place: this process among the others.
        cuda: whether it trains on a GPU.
        run: the run directory.
        resume: the checkpoint to continue at, or None.
        force: continue although settings or data have changed.
        train: the training samples.
        val: the validation samples; None: no validation.
        threads: clips looked at side by side.
        notices: lines to tell the user.
        began: `time.monotonic` when the command started.
    """

    config: TrainingConfig
    place: Place
    cuda: bool
    run: Path
    resume: run_directory.Checkpoint | None
    force: bool
    train: Opened
    val: Opened | None
    threads: int
    notices: tuple[str, ...]
    began: float

    @property
    def steps(self) -> int:
        """All optimizer steps of the run."""
        return self.batches([0] * len(self.train.samples)).steps

    @property
    def passes(self) -> tuple[float, float]:
        """How often each training and each validation sample is needed."""
        validations = math.ceil(self.steps / interval_steps(self.config.eval_interval, self.steps))
        return self.steps * self.config.global_batch_size / len(self.train.samples), validations

    def batches(self, lengths: Sequence[int]) -> Batches:
        """Return which samples make a step.

        Args:
            lengths: tokens of each training sample.
        """
        config = self.config
        packing = None
        if config.dset_pack:
            kinds = None if config.concat_before_pack else [sample.dataset for sample in self.train.samples]
            packing = Packing(config.pack_max_length, kinds)
        settings = BatchSettings(
            config.epochs,
            config.max_steps,
            config.global_batch_size,
            config.micro_batch_size,
            self.place.count,
            config.seed,
            config.group_by_length,
            packing,
        )
        return Batches(lengths, settings)


def make_plan(args: argparse.Namespace, place: Place, began: float) -> Plan:
    """Settle everything that can be settled without the model's weights.

    Args:
        args: the parsed command line.
        place: this process.
        began: `time.monotonic` when the command started.

    Raises:
        UserError: a flag, a file or a clip is wrong.
    """
    import torch

    if args.force and not (args.resume or args.resume_from):
        raise UserError("--force needs --resume or --resume-from; a new run needs no force")
    check_trackers(args.report_to)
    cuda = torch.cuda.is_available()
    model, notices = _model(args)
    family = family_of(model)
    recipe = recipe_for(model)
    datasets, lines = _datasets(args, family)
    sharing = choose_deepspeed(args, place)
    notices += [*lines, *sharing.notices]
    defaults = Defaults(model, recipe, datasets, str(Path(args.project_dir) / family.runs.work_dir))
    config = resolve(args, defaults, sharing.path)
    config, lines = _round_frames(replace(config, dtype=_dtype(config, recipe, cuda)), family)
    notices += lines
    config.accumulation(place.count)  # raises where the batch sizes do not fit
    if config.liger:
        check_liger(cuda)
    run, resume = _reused(config) if args.reuse else (None, None)
    if run is None:
        run, resume = _start(args, Path(config.work_dir))
    notices += [f"{config.work_dir} has checkpoints: this run goes to {run}"] if run != Path(config.work_dir) else []
    if resume is not None:
        notices += _check_resumed(config, resume, args.force)
    threads = config.num_proc or max(1, usable_cores() // place.local_count)
    train, val, lines = _open_data(config, threads)
    return Plan(config, place, cuda, run, resume, args.force, train, val, threads, (*notices, *lines), began)


def _model(args: argparse.Namespace) -> tuple[str, list[str]]:
    """Return what is trained, and lines to tell the user.

    Raises:
        UserError: it is an adapter, or of another family than the one that is asked for.
    """
    if args.model is None:
        model, line = default_model() if args.family is None else default_model(family_named(args.family))
        return model, [line]
    if Path(args.model).is_dir() and is_adapter(resolve_checkpoint(args.model)):
        raise UserError(
            f"--model {args.model}: is an adapter; name its base model, or continue its run with --resume-from"
        )
    check_family(args.model, family_of(args.model), args.family)
    return args.model, []


def _datasets(args: argparse.Namespace, family: Family) -> tuple[str, list[str]]:
    """Return what is trained on where the user names nothing, and lines to tell of it."""
    prepared = str(Path(args.output_dir).parent / "diy_ft_data.json")
    if family.runs.conversations is None or args.datasets is not None:
        return prepared, []
    own = Path(args.dataset_dir) / family.runs.conversations.format(split="train")
    return (str(own), [f"training data: {own}"]) if own.is_file() else (prepared, [])


def _dtype(config: TrainingConfig, recipe: Recipe, cuda: bool) -> str:
    """Return the number format that ``auto`` stands for: bf16 on GPUs that have it, the recipe's choice on a CPU."""
    import torch

    if config.dtype == "float16" and not cuda:
        raise UserError("--dtype fp16 needs a CUDA GPU; use bf16 or fp32")
    if config.dtype != "auto":
        return config.dtype
    if not cuda and recipe.cpu_dtype != "auto":
        return recipe.cpu_dtype
    if not cuda:
        capable = torch.cpu.get_capabilities()
        return "bfloat16" if capable.get("amx_bf16") or capable.get("avx512_bf16") else "float32"
    return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


def _round_frames(config: TrainingConfig, family: Family) -> tuple[TrainingConfig, list[str]]:
    """Round the limits to whole groups of frames, and say so.

    Raises:
        UserError: the model takes one number of frames only, and it is not that.
    """
    group = family.frame_group if family.free_frames else sizes_for(config.model).frame_group
    if not family.free_frames and (config.min_frames, config.max_frames) != (group, group):
        raise UserError(
            f"--min_num_frames {config.min_frames} and --max_num_frames {config.max_frames}: {family.name} looks at "
            f"{group} frames of each clip, no more and no fewer; leave both flags out"
        )
    low, high = round_limits(config.min_frames, config.max_frames, group)
    if (low, high) == (config.min_frames, config.max_frames):
        return config, []
    line = f"frames come in groups of {group}: {config.min_frames} to {config.max_frames} becomes {low} to {high}"
    return replace(config, min_frames=low, max_frames=high), [line]


def _reused(config: TrainingConfig) -> tuple[Path | None, run_directory.Checkpoint | None]:
    """Return the run of equal settings and data and its newest checkpoint, if it is finished or can be continued."""
    run = run_directory.equal_run(Path(config.work_dir), describe(config, {}), RESUMABLE)
    if run is None:
        return None, None
    newest = run_directory.checkpoints(run)[-1]
    if not (_is_last(newest) or (newest.folder / resumption.FOLDER).is_dir()):
        return None, None
    os.utime(run / run_directory.SETTINGS)  # it is the newest run again, which evaluation takes
    return run, newest


def _start(args: argparse.Namespace, wanted: Path) -> tuple[Path, run_directory.Checkpoint | None]:
    """Return the run directory and the checkpoint to continue at.

    Raises:
        UserError: there is nothing to continue, or nothing can be written.
    """
    if not (args.resume or args.resume_from):
        return run_directory.free_directory(wanted), None
    folder = Path(args.resume_from or wanted)
    if not folder.is_dir():
        flag = "--resume-from" if args.resume_from else "--resume: --work-dir"
        raise UserError(f"{flag} {folder}: no such folder; name a run or one of its checkpoints")
    run_directory.check_writable(wanted)
    inside = run_directory.checkpoints(folder)
    if inside:
        found = inside[-1]
    elif args.resume_from:
        found = run_directory.checkpoint_at(folder)
    else:
        return wanted, None  # it was stopped before its first checkpoint: from the beginning
    if found is None:
        raise UserError(f"--resume-from {folder}: is no complete checkpoint; name a run or one of its checkpoints")
    if not (found.folder / resumption.FOLDER).is_dir():
        raise UserError(f"{found.folder} cannot be resumed: it was saved with --checkpoint-drop-optimizer")
    return wanted, found


def describe(config: TrainingConfig, resolved: dict[str, Any]) -> run_directory.RunDescription:
    """Return the content of `training_config.json`; `resolved` is what follows from settings and data."""
    registries = [Path(path) for path in (config.datasets, config.val_datasets) if path is not None]
    annotations = [source.annotation for registry in registries for source in read_sources(registry)]
    base = locate(config.model)
    return run_directory.describe_run(
        config.as_dict(), fingerprint(base.base), base.revision, resolved, registries + annotations
    )


def _check_resumed(config: TrainingConfig, resume: run_directory.Checkpoint, force: bool) -> list[str]:
    """Return lines on what has changed since a run was started.

    Raises:
        UserError: something has, and `force` is off.
    """
    run, now = resume.folder.parent, describe(config, {})
    if not force:
        run_directory.check_same_run(run, now, RESUMABLE)
        return []
    return [f"--force: {line}" for line in run_directory.differences(run, now, RESUMABLE)]


def _open_data(config: TrainingConfig, threads: int) -> tuple[Opened, Opened | None, list[str]]:
    """Read and open training and validation data."""
    train = read_samples(Path(config.datasets), config.seed)
    val = read_samples(Path(config.val_datasets), config.seed) if config.val_datasets else []
    cache_dir = Path(config.dset_cache_dir) if config.dset_cache_dir is not None else None
    lines = _no_cache(cache_dir) if cache_dir is not None else []
    registries = [Path(path) for path in (config.datasets, config.val_datasets) if path is not None]
    roots = [source.root for registry in registries for source in read_sources(registry)]
    opened = open_clips(train + val, threads, config.skip_bad_clips, Headers(roots, cache_dir))
    lines += bad_clips_line(opened)
    if not val:
        lines.append("no validation data: the newest checkpoint counts as the best")
    return _part(opened, train, "--datasets"), _part(opened, val, "--val-datasets") if val else None, lines


def _no_cache(folder: Path) -> list[str]:
    """Return a line if nothing can be kept there; none if all is well."""
    why = why_unwritable(folder)
    return [f"--dset-cache-dir {folder}: cannot be written ({why}); nothing is kept for the next start"] if why else []


def bad_clips_line(opened: Opened) -> list[str]:
    """Return a line that counts and names the clips that are left out; none if there are none."""
    if not opened.bad:
        return []
    named = "; ".join(str(error) for error in opened.bad[:NAMED]) + ("; ..." if len(opened.bad) > NAMED else "")
    return [f"left out {len(opened.bad)} clip{'s' if len(opened.bad) > 1 else ''} that cannot be read: {named}"]


def _part(opened: Opened, samples: list[Sample], flag: str) -> Opened:
    left = [sample for sample in samples if sample.clip in opened.infos]
    if not left:
        raise UserError(f"{flag}: none of its clips can be read; run scripts/verify_qved_setup.sh")
    return Opened(left, {sample.clip: opened.infos[sample.clip] for sample in left}, [])


def is_finished(plan: Plan) -> bool:
    """Tell whether the checkpoint to continue at is the run's last."""
    if plan.resume is None:
        return False
    return plan.resume.step >= plan.steps if plan.force else _is_last(plan.resume)


def _is_last(checkpoint: run_directory.Checkpoint) -> bool:
    state = checkpoint.folder / resumption.FOLDER / run_directory.STATE
    if state.is_file():
        return checkpoint.step >= read_json(state, resumption.DAMAGED)["max_steps"]
    return checkpoint.step >= run_directory.read_description(checkpoint.folder.parent).resolved["steps"]
