"""A training run's settings: recipes, the command line and `training_config.json`."""

import argparse
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from formcoach.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]

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

ATTENTIONS = ("auto", "sdpa", "flash_attention_2", "eager")
TRACKERS = ("tensorboard", "wandb")


@dataclass(frozen=True)
class Recipe:
    """What a model is trained with where the user says nothing; the defaults are those of InternVideo2.5-8B.

    Args:
        epochs: passes over the training clips.
        micro_batch_size: clips in one forward pass of one process; where rows are packed, at most so many.
        global_batch_size: clips in one optimizer step, over all processes.
        lr: peak learning rate of the language model's adapters.
        connector_lr: peak learning rate of the connector; 0 freezes it.
        vit_lr: peak learning rate of the vision tower where it is trained.
        lr_min: learning rate at the end of the cosine.
        weight_decay: AdamW's, on matrices only.
        warmup_ratio: share of all steps in which the learning rates rise linearly.
        max_grad_norm: the gradients' norm is cut to this.
        max_length: longest sample in tokens.
        max_length_of: what they are counted of: ``all``, or ``text``: visual tokens come on top.
        pack_max_length: most tokens of a row of packed samples, visual ones included; None: `max_length`.
        min_frames: fewest frames of a clip.
        max_frames: most frames of a clip.
        lora_rank: rank of the adapters.
        lora_alpha: the adapters' output is scaled by alpha / rank.
        lora_dropout: dropout in front of the adapters.
        selective_recompute: share of the layers whose activations are computed again in the backward pass (gradient
            checkpointing) instead of being kept.
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
    max_length_of: Literal["all", "text"] = "all"
    pack_max_length: int | None = None
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
        datasets: registry of the training datasets (`data/diy_ft_data.json`), or a file of conversations.
        val_datasets: the same for validation; None: no validation.
        work_dir: the run directory.
        deepspeed: path of the DeepSpeed configuration; None: plain PyTorch.
        freeze_llm: leave the language model without trained adapters.
        freeze_vit: leave the vision tower's own weights as they are.
        dtype: ``auto``, ``bfloat16``, ``float16`` or ``float32``.
        quantization: None, ``nf4`` or ``int8``, of the frozen weights.
        attn: which attention the model computes with, see `formcoach.models.load_model`.
        liger: use Liger's kernels.
        lora_targets: which linear layers get LoRA, see `formcoach.models.adapters.target_pattern`; None: those of the
            language model that its family names.
        lora_vit: put LoRA on the vision tower, which itself stays as it is.
        no_lora: train in full what is not frozen, instead of LoRA on the language model.
        max_steps: stop after so many optimizer steps; None: after the epochs.
        dset_pack: put several samples into one row instead of padding them.
        pack_max_length: most tokens of such a row; a longer sample has a row of its own.
        concat_before_pack: let a row hold samples of several data sets.
        group_by_length: let samples of similar length share an optimizer step.
        dset_cache_dir: folder that keeps what the samples' lengths are from run to run; None: nothing is kept.
        feature_cache: folder that keeps the frozen vision tower's results; None: they are computed in each step.
        feature_variants: augmented variants of each clip that are kept there.
        num_workers: processes that read clips ahead; None: as many as help.
        num_proc: threads that look at the clips before the start; None: one a core.
        eval_interval: see `interval_steps`.
        checkpoint_drop_optimizer: save what inference needs and not what resumption needs.
        max_keep_ckpts: most checkpoints to keep, the best always among them; -1: all.
        log_interval: optimizer steps between two lines of `metrics.jsonl`.
        seed: of everything that is drawn.
        nan: what happens at a loss that is not finite: ``stop`` or ``skip``.
        report_to: what draws curves: ``tensorboard``, ``wandb``, both or nothing.
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
    attn: str
    liger: bool
    lora_targets: str | None
    lora_vit: bool
    no_lora: bool
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
    max_length_of: str
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
    dset_pack: bool
    pack_max_length: int
    concat_before_pack: bool
    group_by_length: bool
    dset_cache_dir: str | None
    feature_cache: str | None
    feature_variants: int
    num_workers: int | None
    num_proc: int | None
    seed: int
    nan: str
    report_to: tuple[str, ...]
    skip_bad_clips: bool
    cpu_dtype: str

    def accumulation(self, processes: int) -> int:
        """Return how many micro batches make one optimizer step on each of `processes`, where nothing is packed.

        Raises:
            UserError: the global batch is not a multiple of micro batch times processes.
        """
        micro = 1 if self.dset_pack else self.micro_batch_size  # how much a row holds depends on the lengths
        together = micro * processes
        if self.global_batch_size % together:
            sizes = f"{processes} process{'es' if processes > 1 else ''}"
            if not self.dset_pack:
                sizes = f"--mirco-batch-size {micro} x {sizes}"
            raise UserError(
                f"--global-batch-size {self.global_batch_size} is not a multiple of {sizes}; use "
                f"{math.ceil(self.global_batch_size / together) * together}"
            )
        return self.global_batch_size // together

    @property
    def trains_language(self) -> bool:
        """Whether the language model learns, in full or through LoRA."""
        return self.lr > 0 and not self.freeze_llm

    @property
    def trains_vit(self) -> bool:
        """Whether the vision tower learns, in full or through LoRA."""
        return self.vit_lr > 0 and (self.lora_vit or not self.freeze_vit)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as they are written to `training_config.json`."""
        return asdict(self)


# Settings that may differ when a run is resumed: they do not change what is learned.
RESUMABLE = frozenset(
    {
        "work_dir",
        "num_workers",
        "num_proc",
        "log_interval",
        "max_keep_ckpts",
        "checkpoint_drop_optimizer",
        "deepspeed",
        "dset_cache_dir",
        "feature_cache",
        "nan",
        "report_to",
    }
)


@dataclass(frozen=True)
class Defaults:
    """What a run takes where the user names nothing.

    Args:
        model: the model.
        recipe: the model's.
        datasets: what is trained on.
        work_dir: the run directory.
    """

    model: str
    recipe: Recipe
    datasets: str
    work_dir: str


def resolve(args: argparse.Namespace, defaults: Defaults, deepspeed: str | None) -> TrainingConfig:
    """Return the settings of a run: what the user gave, else what the model's recipe says.

    Args:
        args: the parsed command line.
        defaults: what is taken in place of what it does not say.
        deepspeed: path of the DeepSpeed configuration or None, see `formcoach.training.sharding`.

    Raises:
        UserError: settings that contradict each other.
    """
    given = {field.name: vars(args).get(field.name) for field in fields(TrainingConfig)}
    given |= {name: value for name, value in asdict(defaults.recipe).items() if given[name] is None}
    given["datasets"] = args.datasets or defaults.datasets
    if given["eval_interval"] is None:
        given["eval_interval"] = given["checkpoint_interval"]
    if given["pack_max_length"] is None:
        given["pack_max_length"] = given["max_length"]
    if args.dset_pack and args.micro_batch_size is None:
        given["micro_batch_size"] = given["global_batch_size"]  # the length alone decides what a row holds
    if args.pack_max_length is not None and not args.dset_pack:
        raise UserError("--pack-max-length needs --dset-pack; add it")
    given["val_datasets"] = args.val_datasets or _validation_beside(given["datasets"])
    given.update(model=args.model or defaults.model, deepspeed=deepspeed, dtype=DTYPES[args.dtype])
    given["work_dir"] = args.work_dir or _run_of(args.resume_from) or defaults.work_dir
    config = TrainingConfig(**given)
    _check(config)
    return config


def _check(config: TrainingConfig) -> None:
    rates = {"--lr": config.lr if config.trains_language else 0.0, "--connector_lr": config.connector_lr}
    rates["--vit_lr"] = config.vit_lr if config.trains_vit else 0.0
    used = {flag: rate for flag, rate in rates.items() if rate > 0}
    if not used:
        raise UserError("nothing to train: --lr, --connector_lr and --vit_lr are all 0 or frozen; raise one of them")
    for flag, rate in used.items():
        if config.lr_min > rate:
            raise UserError(f"--lr-min {config.lr_min:g} is above {flag} {rate:g}; lower it")
    if config.quantization and config.dtype == "float16":
        raise UserError(f"--quantization {config.quantization} computes in bf16 or fp32: leave --dtype fp16 out")
    _check_lora(config)
    _check_data_flags(config)


def _check_lora(config: TrainingConfig) -> None:
    if config.no_lora and config.lora_targets:
        raise UserError("--lora-targets contradicts --no-lora; leave one of them out")
    if config.no_lora and config.quantization and not config.freeze_llm:
        raise UserError(
            f"--no-lora would train the language model's weights, and --quantization {config.quantization} freezes "
            "them; leave one of them out, or add --freeze-llm"
        )


def _check_data_flags(config: TrainingConfig) -> None:
    if config.concat_before_pack and not config.dset_pack:
        raise UserError("--concat-before-pack needs --dset-pack; add it")
    if config.feature_variants and not config.feature_cache:
        raise UserError("--feature-variants needs --feature-cache DIR; add it")
    if config.feature_cache and config.trains_vit:
        raise UserError("--feature-cache needs a vision tower that does not change: add --freeze-vit, drop --lora-vit")


def interval_steps(interval: float, total: int) -> int:
    """Return every how many steps something happens.

    Args:
        interval: below 1 a share of all steps, rounded up so that the last time is the end; from 1 up a number of
            steps; -1 only at the end.
        total: all steps of the run.
    """
    if interval < 0:
        return total
    return max(1, math.ceil(interval * total - 1e-6)) if interval < 1 else min(round(interval), total)


def _validation_beside(datasets: str) -> str | None:
    path = Path(datasets)
    stem = path.stem.removesuffix("_train")  # as of conversations; a list of data sets has none
    beside = path.with_name(f"{stem}_val{path.suffix}")
    return str(beside) if beside.is_file() else None


def _run_of(checkpoint: str | None) -> str | None:
    """Return the run directory of a checkpoint's folder, which holds an adapter; a run directory is its own."""
    if checkpoint is None:
        return None
    path = Path(checkpoint)
    return str(path.parent if (path / "adapter_config.json").is_file() else path)
