"""A training from its plan to its closing report."""

import errno
import logging
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from transformers import PrinterCallback, TrainingArguments, set_seed
from transformers.utils import logging as transformers_logging

from formcoach.command import EXIT_USER_ERROR
from formcoach.errors import UserError
from formcoach.files import write_json
from formcoach.models import family_of, sizes_for
from formcoach.processes import is_lost_connection, leave_group
from formcoach.training import deepspeed_start, resumption, run_directory
from formcoach.training.batches import Batches
from formcoach.training.callbacks import Rhythm, RunReport, clock, peak_memory
from formcoach.training.inputs import Inputs, check_clips, make_inputs
from formcoach.training.length_report import length_line, length_table
from formcoach.training.out_of_memory import told_if_out_of_memory
from formcoach.training.plan import Plan, describe
from formcoach.training.planned_memory import planned_work
from formcoach.training.preflight import Lengths, check_all_lengths, long_rows, measure_samples
from formcoach.training.sample_check import check_sample
from formcoach.training.sharding import loading_device, read_deepspeed, settings_for, zero_stage
from formcoach.training.trainable import load_trainable
from formcoach.training.trainer import CoachTrainer
from formcoach.training.workload import Workload

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Prepared:
    """A training whose model is loaded and whose samples are checked; nothing is written yet.

    Args:
        plan: the training; samples whose clips cannot be decoded are left out.
        model: with its trainable weights.
        processor: the model's.
        inputs: the samples as the model's inputs.
        batches: which samples make a step.
        val_lengths: tokens of each validation sample.
        work: what the training's memory depends on.
        report: has told what was found so far.
    """

    plan: Plan
    model: Any
    processor: Any
    inputs: Inputs
    batches: Batches
    val_lengths: Sequence[int]
    work: Workload
    report: RunReport

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return max((*self.batches.lengths, *self.val_lengths))


def prepare(plan: Plan) -> Prepared:
    """Load the model and check every sample with it.

    Raises:
        UserError: a clip or a sample is bad.
    """
    report = begin(plan)
    return check(plan, *build_model(plan), report)


def begin(plan: Plan) -> RunReport:
    """Tell what the plan has to tell, and return what is told the rest; nothing is written yet."""
    report = RunReport(plan.run, plan.place.rank == 0, plan.config.report_to, plan.config.as_dict())
    quiet(plan.cuda)
    for line in (*plan.notices, *_augmentation_lines(plan)):
        report.say(line)
    return report


def quiet(cuda: bool) -> None:
    """Silence what libraries tell about themselves; errors are raised all the same.

    Args:
        cuda: whether it trains on a GPU.
    """
    deepspeed_start.name_accelerator(cuda)
    transformers_logging.set_verbosity_error()
    for name in ("DeepSpeed", "accelerate", "torch.distributed", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(torch|deepspeed|transformers|accelerate|peft|bitsandbytes)\b")


def build_model(plan: Plan) -> tuple[Any, Any]:
    """Return the model with its trainable weights, drawn from the run's seed, and its processor.

    Raises:
        UserError: the model cannot be loaded, or has no such layers as are to be trained.
    """
    set_seed(plan.config.seed)
    return load_trainable(plan.config, loading_device(plan.config.deepspeed, plan.place, plan.cuda))


def check(plan: Plan, model: Any, processor: Any, report: RunReport) -> Prepared:
    """Check every sample, and make inputs of them.

    Args:
        plan: the training.
        model: from `build_model`.
        processor: likewise.
        report: from `begin`.

    Raises:
        UserError: a clip or a sample is bad.
    """
    plan, lengths = _check_samples(plan, processor, report)
    plan, kept = check_clips(plan, processor, report)
    _check_samples_left(plan, report)
    totals, val_totals = _tell_samples(plan, lengths, report)
    inputs = make_inputs(plan, model.get_base_model(), processor, kept, report)
    for line in check_sample(inputs.train, model.get_base_model().config, plan.config.model):
        report.say(line)
    work = planned_work(plan, sizes_for(plan.config.model), lengths.train)
    return Prepared(plan, model, processor, inputs, plan.batches(totals), val_totals, work, report)


def train(prepared: Prepared) -> None:
    """Train.

    Raises:
        UserError: the training was stopped; complete checkpoints are kept.
    """
    plan, report = prepared.plan, prepared.report
    with _one_line(plan, report), told_if_out_of_memory(plan, prepared.work):
        _open_run(prepared)
        trainer = _trainer(prepared)
        output = trainer.train(str(plan.resume.folder / resumption.FOLDER) if plan.resume is not None else None)
        _close(prepared, trainer, output.metrics["train_runtime"])
    leave_group()


def _augmentation_lines(plan: Plan) -> list[str]:
    """Tell what `data_augment` does, and where it does nothing."""
    names = dict.fromkeys(name for sample in plan.train.samples for name in sample.augmentations)
    lines = [f"training clips are augmented: {', '.join(names)}"] if names else []
    if plan.val is not None and any(sample.augmentations for sample in plan.val.samples):
        lines.append(f"{plan.config.val_datasets}: data_augment is left aside, validation clips are never augmented")
    return lines


def _check_samples(plan: Plan, processor: Any, report: RunReport) -> tuple[Plan, Lengths]:
    """Measure every sample; raise if one is too long, or return the plan without those that are."""
    config = plan.config
    cache_dir = Path(config.dset_cache_dir) if config.dset_cache_dir is not None else None
    lengths = measure_samples(plan.train, plan.val, processor, plan.threads, cache_dir)
    train, val, lines = check_all_lengths(config, plan.train, plan.val, lengths)
    for line in lines:
        report.say(line)
    return replace(plan, train=train, val=val), lengths


def _tell_samples(plan: Plan, lengths: Lengths, report: RunReport) -> tuple[list[int], list[int]]:
    """Tell how long the samples are; return the tokens of each training and each validation sample."""
    train = [lengths.train[sample] for sample in plan.train.samples]
    val = [lengths.val[sample] for sample in plan.val.samples] if plan.val is not None else []
    lines = length_table(train) + ([length_line(val)] if val else [])
    if plan.config.dset_pack:
        lines += long_rows(plan.train, lengths.train, plan.config.pack_max_length)
    for line in lines:
        report.say(line)
    return [length.total for length in train], [length.total for length in val]


def _check_samples_left(plan: Plan, report: RunReport) -> None:
    """Refuse to continue with other samples, e.g. since a clip was repaired: their order would be another."""
    if plan.resume is None:
        return
    before = run_directory.read_description(plan.resume.folder.parent).resolved["training_samples"]
    now = len(plan.train.samples)
    if before != now and not plan.force:
        raise UserError(
            f"{plan.resume.folder} cannot be resumed: the run had {before} training samples that could be used and has "
            f"{now} now; undo that, start a new run, or go on all the same with --force"
        )
    if before != now:
        report.say(f"--force: the run had {before} training samples and has {now} now; their order changes")


def _open_run(prepared: Prepared) -> None:
    """Create or take up the run directory; from here on something is written."""
    plan, report = prepared.plan, prepared.report
    if plan.place.rank != 0:
        return
    resolved = {
        "steps": plan.steps,
        "accumulation": prepared.batches.passes,
        "processes": plan.place.count,
        "device": torch.cuda.get_device_name() if plan.cuda else "cpu",
        "training_samples": len(plan.train.samples),
        "validation_samples": len(plan.val.samples) if plan.val else 0,
        "longest_sample": prepared.longest,
    }
    description = describe(plan.config, resolved)
    report.open()
    run_directory.remove_leftovers(plan.run)
    run_directory.cut_metrics(plan.run, plan.resume.step if plan.resume is not None else 0)
    if plan.resume is None or plan.force or plan.resume.folder.parent != plan.run:
        write_json(plan.run / run_directory.SETTINGS, msgspec.to_builtins(description))
    validation = f", {resolved['validation_samples']} for validation" if plan.val else ""
    report.say(f"{resolved['training_samples']} samples{validation}, the longest has {prepared.longest} tokens")


def _trainer(prepared: Prepared) -> CoachTrainer:
    """Put model, data and settings together."""
    plan, report, inputs = prepared.plan, prepared.report, prepared.inputs
    model, processor = prepared.model, prepared.processor
    if plan.config.deepspeed is not None:
        deepspeed_start.prepare_deepspeed(plan.place, plan.cuda)
    trainer = CoachTrainer(
        model=model,
        args=_arguments(plan, prepared.batches, inputs.workers),
        config=plan.config,
        family=family_of(plan.config.model),
        processor=processor,
        run=plan.run,
        report=report,
        batches=prepared.batches,
        val_lengths=prepared.val_lengths,
        train_dataset=inputs.train,
        eval_dataset=inputs.val,
        callbacks=[Rhythm(plan.config, plan.val is not None)],
    )
    trainer.remove_callback(PrinterCallback)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    path = plan.config.deepspeed
    how = f"DeepSpeed ZeRO-{zero_stage(read_deepspeed(path), path)}" if path is not None else "plain PyTorch"
    numbers = plan.config.dtype + (f" on {plan.config.quantization}" if plan.config.quantization else "")
    going = f"continuing at {plan.resume.folder}" if plan.resume is not None else f"run directory {plan.run}"
    report.say(f"training {trained / 1e6:.2f} million parameters in {numbers} with {how}; {going}")
    return trainer


def _arguments(plan: Plan, batches: Batches, workers: int) -> TrainingArguments:
    """Return transformers' settings; `Rhythm` decides what happens when, `RunReport` writes what is logged."""
    config = plan.config
    return TrainingArguments(
        output_dir=str(plan.run),
        per_device_train_batch_size=config.micro_batch_size,
        per_device_eval_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=batches.passes,
        max_steps=batches.steps,
        learning_rate=config.lr,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        data_seed=config.seed,
        bf16=config.dtype == "bfloat16",
        fp16=config.dtype == "float16",
        use_cpu=not plan.cuda,
        deepspeed=settings_for(config.deepspeed, plan.place, plan.cuda) if config.deepspeed is not None else None,
        dataloader_num_workers=workers,
        dataloader_pin_memory=plan.cuda,
        ddp_find_unused_parameters=config.trains_vit,  # its last layers may be behind the one that is used
        remove_unused_columns=False,
        label_names=["labels"],
        logging_strategy="no",
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        log_level_replica="error",
    )


def _close(prepared: Prepared, trainer: CoachTrainer, loop_seconds: float) -> None:
    """Tell what was done and what comes next."""
    plan, report = prepared.plan, prepared.report
    seconds = time.monotonic() - plan.began
    began = plan.resume.step if plan.resume is not None else 0
    steps = trainer.state.global_step - began
    samples = prepared.batches.samples_until(trainer.state.global_step) - prepared.batches.samples_until(began)
    best = trainer.state.best_global_step
    layout = family_of(plan.config.model).runs
    chosen = f"{layout.checkpoint}{best or trainer.state.global_step}"
    if plan.place.rank == 0:
        run_directory.name_last(plan.run, layout.last)
    loss = f"best validation loss {trainer.state.best_metric:.4f} at step {best}, " if best is not None else ""
    report.say(
        f"done in {clock(seconds)}: {steps} steps, {samples / loop_seconds:.1f} samples/s, {loss}"
        f"waiting for data {trainer.waited / loop_seconds:.0%}, peak memory {peak_memory()}"
    )
    report.say(f"adapter: {plan.run / chosen}")
    report.say(f"next: bash scripts/run_inference.sh --model_path {plan.run}")


@contextmanager
def _one_line(plan: Plan, report: RunReport) -> Iterator[None]:
    """Turn what stops a training from outside into one line that says what is left."""
    try:
        yield
    except KeyboardInterrupt:
        if plan.place.rank != 0:
            sys.exit(EXIT_USER_ERROR)  # the first process tells it
        raise UserError(f"interrupted; {_what_is_left(plan)}") from None
    except (OSError, SafetensorError) as error:
        if not _is_disk_full(error):
            raise
        raise UserError(f"no space left on the disk of {plan.run}; {_what_is_left(plan)}") from error
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        if plan.place.rank != 0:
            sys.exit(EXIT_USER_ERROR)
        raise UserError(f"another process has ended, see what it says; {_what_is_left(plan)}") from error
    except UserError as error:
        # That of a loader's worker process arrives with its traceback as text; the last line is the error.
        reason = str(error).splitlines()[-1].removeprefix(f"{UserError.__module__}.{UserError.__qualname__}: ")
        raise UserError(f"{reason}; {_what_is_left(plan)}") from error
    finally:
        report.close()


def _what_is_left(plan: Plan) -> str:
    complete = run_directory.checkpoints(plan.run)
    if not complete:
        return "no checkpoint was complete yet"
    resumable = "" if plan.config.checkpoint_drop_optimizer else ", --resume continues there"
    return f"{complete[-1].folder} is complete{resumable}"


def _is_disk_full(error: OSError | SafetensorError) -> bool:
    """Tell a full disk from other errors; safetensors gives the system's error number in its text only."""
    if isinstance(error, OSError):
        return error.errno in DISK_FULL
    return any(f"(os error {number})" in str(error) for number in DISK_FULL)
