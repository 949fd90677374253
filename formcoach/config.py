"""A training run's settings: recipes, the command line and `training_config.json`."""

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from formcoach.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]
DEFAULT_DATASETS = "data/diy_ft_data.json"
DEFAULT_WORK_DIR = "work_dirs/qevd_fit_300k_internvideo2_5_r16"

# As users write it (the recipe's names and PyTorch's) -> PyTorch's name.
DTYPES = {
    "auto": "auto",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "float32": "float32",
}

# Flags of the public recipe that this trainer does not have: refused, since to ignore one would train another model.
NOT_YET = {
    "--dset-cache-dir": "leave it out: samples are measured at every start",
    "--dset-pack": "leave it out: batches are padded instead of packed",
    "--concat-before-pack": "leave it out: batches are padded instead of packed",
    "--pack-max-length": "leave it out: batches are padded instead of packed",
    "--group-by-length": "leave it out: samples are drawn in random order",
    "--group-by-modality-length": "leave it out: samples are drawn in random order",
    "--liger": "leave it out: PyTorch's own kernels are used",
}
PARALLEL = ("--sp-size", "--tp-size", "--ring-size")  # only 1 is possible: the clips, not the model, are shared out


@dataclass(frozen=True)
class Recipe:
    """What a model is trained with where the user says nothing; the defaults are those of InternVideo2.5-8B.

    Args:
        epochs: passes over the training clips.
        micro_batch_size: clips in one forward pass of one process.
        global_batch_size: clips in one optimizer step, over all processes.
        lr: peak learning rate of the language model's adapters.
        connector_lr: peak learning rate of the connector; 0 freezes it.
        vit_lr: peak learning rate of the vision tower where it is trained.
        lr_min: learning rate at the end of the cosine.
        weight_decay: AdamW's, on matrices only.
        warmup_ratio: share of all steps in which the learning rates rise linearly.
        max_grad_norm: the gradients' norm is cut to this.
        max_length: longest sample in tokens, visual ones included.
        min_frames: fewest frames of a clip.
        max_frames: most frames of a clip.
        lora_rank: rank of the adapters.
        lora_alpha: the adapters' output is scaled by alpha / rank.
        lora_dropout: dropout in front of the adapters.
        selective_recompute: 1 recomputes activations in the backward pass (gradient checkpointing), 0 keeps them.
        checkpoint_interval: see `interval_steps`.
        cpu_dtype: what ``--dtype auto`` means on a CPU: ``bfloat16``, which halves a large model's memory, ``float32``,
            or ``auto``: bfloat16 where the CPU computes in it, else float32.
    """

    epochs: float = 3
    micro_batch_size: int = 1
    global_batch_size: int = 8
    lr: float = 1e-5
    connector_lr: float = 1e-5
    vit_lr: float = 5e-6
    lr_min: float = 0.0
    weight_decay: float = 0.01
    warmup_ratio: float = 0.03
    max_grad_norm: float = 1.0
    max_length: int = 8192
    min_frames: int = 8
    max_frames: int = 8
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    selective_recompute: float = 1.0
    checkpoint_interval: float = 0.25
    cpu_dtype: str = "bfloat16"


@dataclass(frozen=True)
class TrainingConfig:
    """Every setting of a run, resolved: the fields of `Recipe` and those below.

    Args:
        model: what was asked for: a name, a hub id or a path.
        datasets: registry of the training datasets (`data/diy_ft_data.json`).
        val_datasets: registry of the validation datasets; None: no validation.
        work_dir: the run directory.
        deepspeed: path of the DeepSpeed configuration; None: plain PyTorch.
        freeze_llm: leave the language model without trained adapters.
        freeze_vit: leave the vision tower as it is.
        dtype: ``auto``, ``bfloat16``, ``float16`` or ``float32``.
        quantization: None, ``nf4`` or ``int8``, of the frozen weights.
        max_steps: stop after so many optimizer steps; None: after the epochs.
        num_workers: processes that read clips ahead; None: as many as help.
        num_proc: threads that look at the clips before the start; None: one a core.
        eval_interval: see `interval_steps`.
        checkpoint_drop_optimizer: save what inference needs and not what resumption needs.
        max_keep_ckpts: most checkpoints to keep, the best always among them; -1: all.
        log_interval: optimizer steps between two lines of `metrics.jsonl`.
        seed: of everything that is drawn.
        skip_bad_clips: leave out clips that cannot be read instead of refusing to start.
    """

    model: str
    datasets: str
    val_datasets: str | None
    work_dir: str
    deepspeed: str | None
    freeze_llm: bool
    freeze_vit: bool
    dtype: str
    quantization: str | None
    epochs: float
    max_steps: int | None
    micro_batch_size: int
    global_batch_size: int
    lr: float
    connector_lr: float
    vit_lr: float
    lr_min: float
    weight_decay: float
    warmup_ratio: float
    max_grad_norm: float
    max_length: int
    min_frames: int
    max_frames: int
    lora_rank: int
    lora_alpha: int
    lora_dropout: float
    selective_recompute: float
    checkpoint_interval: float
    eval_interval: float
    checkpoint_drop_optimizer: bool
    max_keep_ckpts: int
    log_interval: int
    num_workers: int | None
    num_proc: int | None
    seed: int
    skip_bad_clips: bool
    cpu_dtype: str

    def accumulation(self, processes: int) -> int:
        """Return how many micro batches make one optimizer step on each of `processes`.

        Raises:
            UserError: the global batch is not a multiple of micro batch times processes.
        """
        together = self.micro_batch_size * processes
        if self.global_batch_size % together:
            raise UserError(
                f"--global-batch-size {self.global_batch_size} is not a multiple of --mirco-batch-size "
                f"{self.micro_batch_size} x {processes} process{'es' if processes > 1 else ''}; use "
                f"{math.ceil(self.global_batch_size / together) * together}"
            )
        return self.global_batch_size // together

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as they are written to `training_config.json`."""
        return asdict(self)


# Settings that may differ when a run is resumed: they do not change what is learned.
RESUMABLE = frozenset(
    {"work_dir", "num_workers", "num_proc", "log_interval", "max_keep_ckpts", "checkpoint_drop_optimizer", "deepspeed"}
)


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Add the public recipe's flags (each with dashes and with underscores) and this project's additions."""

    def add(*names: str, **options: Any) -> None:
        spellings = dict.fromkeys(names)
        for name in names:
            if name.startswith("--"):
                body = name[2:]
                spellings.update(dict.fromkeys(("--" + body.replace("-", "_"), "--" + body.replace("_", "-"))))
        parser.add_argument(*spellings, **options)

    add("--model", metavar="NAME", help="hub id[@revision], folder or `tiny` (default: the 8B on a GPU, else tiny)")
    add("--datasets", metavar="FILE", default=DEFAULT_DATASETS, help="training datasets (default: %(default)s)")
    add("--val-datasets", metavar="FILE", help="validation datasets (default: *_val.json beside --datasets, if any)")
    add("--work-dir", metavar="DIR", help=f"run directory (default: {DEFAULT_WORK_DIR})")
    add("--freeze-llm", action="store_true", help="train no adapters in the language model")
    add("--freeze-vit", action="store_true", help="leave the vision tower as it is")
    add("--use-fast-tokenizer", action="store_true", help="the tokenizer is always the fast one")
    add("--dtype", choices=list(DTYPES), default="auto", help="default: bf16 where the device has it")
    add("--quantization", choices=("nf4", "int8"), help="of the frozen weights (nf4: QLoRA)")
    add("--selective-recompute", type=_zero_or_one, metavar="{0,1}", help="1: gradient checkpointing, 0: none")
    add("--deepspeed", metavar="FILE|none", help="DeepSpeed configuration (default: scripts/zero2.json)")
    add("--shard-strategy", choices=("full", "hybrid", "no", "zero2"), help="zero2 and no choose --deepspeed")
    for name in PARALLEL:
        add(name, type=int, default=1, metavar="1", help=argparse.SUPPRESS)
    for name in NOT_YET:
        add(name, nargs="?", const=True, default=None, help=argparse.SUPPRESS)

    add("-e", "--epochs", type=_positive, metavar="N", help="passes over the training clips")
    add("--max-steps", type=_count, metavar="N", help="stop after N optimizer steps")
    add("--mirco-batch-size", "--micro-batch-size", dest="micro_batch_size", type=_count, metavar="N")
    add("--global-batch-size", type=_count, metavar="N", help="clips in one optimizer step, over all processes")
    add("--lr", type=_not_negative, metavar="RATE", help="of the language model's adapters")
    add("--connector_lr", type=_not_negative, metavar="RATE", help="of the connector; 0 freezes it")
    add("--vit_lr", type=_not_negative, metavar="RATE", help="of the vision tower, unless --freeze-vit")
    add("--lr-min", type=_not_negative, metavar="RATE", help="at the end of the cosine")
    add("--wd", dest="weight_decay", type=_not_negative, metavar="X", help="weight decay")
    add("--max-grad-norm", type=_positive, metavar="X", help="gradient clipping")
    add("--warmup-ratio", type=_share, metavar="X", help="share of the steps with rising learning rate")
    add("--lora-rank", type=_count, metavar="N")
    add("--lora-alpha", type=_count, metavar="N")
    add("--lora-dropout", type=_share, metavar="X")

    add("--max-length", type=_count, metavar="N", help="longest sample in tokens; a longer one is named and refused")
    add("--min_num_frames", dest="min_frames", type=_count, metavar="N", help="fewest frames of a clip")
    add("--max_num_frames", dest="max_frames", type=_count, metavar="N", help="most frames of a clip")
    add("--num-workers", type=_natural, metavar="N", help="processes that read clips ahead")
    add("--num-proc", type=_count, metavar="N", help="threads that look at the clips before the start")
    add("--skip-bad-clips", action="store_true", help="leave out clips that cannot be read, and say how many")

    add("--checkpoint-interval", type=_interval, metavar="X", help="below 1: of all steps; -1: only at the end")
    add("--checkpoint-drop-optimizer", action="store_true", help="smaller checkpoints that cannot be resumed")
    add("--max-keep-ckpts", type=_keep, default=-1, metavar="N", help="keep the N newest and the best (-1: all)")
    add("--eval-interval", type=_interval, metavar="X", help="as --checkpoint-interval, which is its default")
    add("--log-interval", type=_count, default=1, metavar="N", help="steps between lines of metrics.jsonl")
    add("--resume", action="store_true", help="continue the run in --work-dir at its newest checkpoint")
    add("--resume-from", metavar="DIR", help="continue at this checkpoint")
    add("--reuse", action="store_true", help="take a run of equal settings and data as it is, or continue it")
    add("--seed", type=_natural, default=42, metavar="N", help="default: %(default)s")


def refuse_missing_features(args: argparse.Namespace) -> None:
    """Refuse what the recipe's other flags ask for.

    Raises:
        UserError: a flag that this trainer does not have, with what to do instead.
    """
    for flag, instead in NOT_YET.items():
        if _value(args, flag) is not None:
            raise UserError(f"{flag} is not available in this version; {instead}")
    for flag in PARALLEL:
        if _value(args, flag) != 1:
            raise UserError(f"{flag} above 1 is not available; share the clips out with NPROC_PER_NODE instead")
    if args.shard_strategy in ("full", "hybrid"):
        raise UserError(f"--shard-strategy {args.shard_strategy} is not available in this version; use zero2 or no")


def resolve(args: argparse.Namespace, model: str, recipe: Recipe, deepspeed: str | None) -> TrainingConfig:
    """Return the settings of a run: what the user gave, else what the model's recipe says.

    Args:
        args: the parsed command line.
        model: what the user named, or the default model.
        recipe: of that model.
        deepspeed: path of the DeepSpeed configuration or None, see `formcoach.training.sharding`.

    Raises:
        UserError: settings that contradict each other.
    """
    given = {field.name: vars(args).get(field.name) for field in fields(TrainingConfig)}
    for name, value in asdict(recipe).items():
        if given[name] is None:
            given[name] = value
    if given["eval_interval"] is None:
        given["eval_interval"] = given["checkpoint_interval"]
    given["val_datasets"] = args.val_datasets or _validation_beside(args.datasets)
    given.update(model=model, deepspeed=deepspeed, dtype=DTYPES[args.dtype])
    given["work_dir"] = args.work_dir or _run_of(args.resume_from) or DEFAULT_WORK_DIR
    config = TrainingConfig(**given)
    _check(config)
    return config


def _check(config: TrainingConfig) -> None:
    rates = {"--lr": 0.0 if config.freeze_llm else config.lr, "--connector_lr": config.connector_lr}
    rates["--vit_lr"] = 0.0 if config.freeze_vit else config.vit_lr
    used = {flag: rate for flag, rate in rates.items() if rate > 0}
    if not used:
        raise UserError("nothing to train: --lr, --connector_lr and --vit_lr are all 0 or frozen; raise one of them")
    for flag, rate in used.items():
        if config.lr_min > rate:
            raise UserError(f"--lr-min {config.lr_min:g} is above {flag} {rate:g}; lower it")
    if config.quantization and config.dtype == "float16":
        raise UserError(f"--quantization {config.quantization} computes in bf16 or fp32: leave --dtype fp16 out")


def interval_steps(interval: float, total: int) -> int:
    """Return every how many steps something happens.

    Args:
        interval: below 1 a share of all steps, from 1 up a number of steps, -1 only at the end.
        total: all steps of the run.
    """
    if interval < 0:
        return total
    return max(1, round(interval * total)) if interval < 1 else min(round(interval), total)


def _validation_beside(datasets: str) -> str | None:
    path = Path(datasets)
    beside = path.with_name(f"{path.stem}_val{path.suffix}")
    return str(beside) if beside.is_file() else None


def _run_of(checkpoint: str | None) -> str | None:
    """Return the run directory of a `step_N` folder; a run directory is its own."""
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    return str(path.parent if path.name.startswith("step_") else path)


def _value(args: argparse.Namespace, flag: str) -> Any:
    return vars(args)[flag.lstrip("-").replace("-", "_")]


def _number(kind: Callable[[str], float], accepts: Callable[[float], bool], what: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}") from None
        if not math.isfinite(value) or not accepts(value):
            raise argparse.ArgumentTypeError(f"{text} is not {what}")
        return value

    return parse


_count = _number(int, lambda value: value >= 1, "a whole number from 1 up")
_natural = _number(int, lambda value: value >= 0, "a whole number from 0 up")
_keep = _number(int, lambda value: value == -1 or value >= 1, "a whole number from 1 up, or -1")
_positive = _number(float, lambda value: value > 0, "a number above 0")
_not_negative = _number(float, lambda value: value >= 0, "a number from 0 up")
_share = _number(float, lambda value: 0 <= value < 1, "a number from 0 to below 1")
_zero_or_one = _number(float, lambda value: value in (0, 1), "0 or 1 (a share of the layers is not available)")
_interval = _number(
    float,
    lambda value: value == -1 or 0 < value < 1 or (value >= 1 and value == int(value)),
    "a share below 1, a whole number of steps, or -1",
)
