"""The trainer's flags: those of the public recipe, each with dashes and with underscores, and this project's own."""

import argparse
import math
from collections.abc import Callable
from typing import Any

from formcoach import models
from formcoach.command import positive
from formcoach.config import ATTENTIONS, DTYPES, TRACKERS
from formcoach.errors import UserError

PARALLEL = ("--sp-size", "--tp-size", "--ring-size")  # only 1 is possible: the clips, not the model, are shared out

Add = Callable[..., None]


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Add all flags; `formcoach.config.resolve` makes settings of them."""
    _add_model_flags(_adder(parser, "model"))
    _add_optimisation_flags(_adder(parser, "optimisation"))
    _add_data_flags(_adder(parser, "data"))
    _add_run_flags(_adder(parser, "run"))


def refuse_model_parallelism(args: argparse.Namespace) -> None:
    """Refuse to spread one sample over several processes.

    Raises:
        UserError: a flag of the recipe asks for it; says what to do instead.
    """
    for flag in PARALLEL:
        if vars(args)[flag.lstrip("-").replace("-", "_")] != 1:
            raise UserError(
                f"{flag} above 1 is not available: share out the clips with NPROC_PER_NODE, and the weights with "
                "--shard-strategy full"
            )


def _adder(parser: argparse.ArgumentParser, title: str) -> Add:
    """Return a function that adds a flag to a new section of the help, with the other spelling of its name."""
    group = parser.add_argument_group(title)

    def add(*names: str, **options: Any) -> None:
        spellings = dict.fromkeys(names)
        for name in names:
            if name.startswith("--"):
                body = name[2:]
                spellings.update(dict.fromkeys(("--" + body.replace("-", "_"), "--" + body.replace("_", "-"))))
        group.add_argument(*spellings, **options)

    return add


def _add_model_flags(add: Add) -> None:
    add("--model", metavar="NAME", help="hub id[@revision], folder or `tiny` (default: by --family and GPU)")
    add(
        "--family",
        choices=[one.key for one in models.FAMILIES],
        help="whose model to train without --model (default: the first)",
    )
    add("--freeze-llm", action="store_true", help="train no adapters in the language model")
    add("--freeze-vit", action="store_true", help="leave the vision tower as it is (it is trained in full otherwise)")
    add("--lora-rank", type=positive, metavar="N")
    add("--lora-alpha", type=positive, metavar="N")
    add("--lora-dropout", type=_share, metavar="X")
    add("--lora-targets", metavar="NAMES", help="linear layers, as q_proj,v_proj, all-linear or a regular expression")
    add("--lora-vit", action="store_true", help="LoRA on the vision tower, at --vit_lr")
    add("--no-lora", action="store_true", help="train in full what is not frozen")
    add("--dtype", choices=list(DTYPES), default="auto", help="default: bf16 where the device has it")
    add("--quantization", choices=("nf4", "int8"), help="of the frozen weights (nf4: QLoRA)")
    add("--attn", choices=ATTENTIONS, default="auto", help="default: FlashAttention 2 where it is installed, else sdpa")
    add("--liger", action="store_true", help="Liger's kernels for the language model (pip install liger-kernel)")
    add("--use-fast-tokenizer", action="store_true", help="the tokenizer is always the fast one")


def _add_optimisation_flags(add: Add) -> None:
    add("-e", "--epochs", type=_positive, metavar="N", help="passes over the training clips")
    add("--max-steps", type=positive, metavar="N", help="stop after N optimizer steps")
    add("--mirco-batch-size", "--micro-batch-size", dest="micro_batch_size", type=positive, metavar="N")
    add("--global-batch-size", type=positive, metavar="N", help="clips in one optimizer step, over all processes")
    add("--lr", type=_not_negative, metavar="RATE", help="of the language model's adapters")
    add("--connector_lr", type=_not_negative, metavar="RATE", help="of the connector; 0 freezes it")
    add("--vit_lr", type=_not_negative, metavar="RATE", help="of the vision tower, or of its LoRA")
    add("--lr-min", type=_not_negative, metavar="RATE", help="at the end of the cosine")
    add("--wd", dest="weight_decay", type=_not_negative, metavar="X", help="weight decay")
    add("--warmup-ratio", type=_share, metavar="X", help="share of the steps with rising learning rate")
    add("--max-grad-norm", type=_positive, metavar="X", help="gradient clipping")
    add("--nan", choices=("stop", "skip"), default="stop", help="at a loss that is not finite (default: %(default)s)")
    add("--selective-recompute", type=_part, metavar="SHARE", help="of the layers with gradient checkpointing, 0 to 1")
    add("--deepspeed", metavar="FILE|none", help="DeepSpeed configuration (default: scripts/zero2.json)")
    add("--shard-strategy", choices=("full", "hybrid", "no", "zero2"), help="full: zero3.json, zero2, no: none")
    for name in PARALLEL:
        add(name, type=int, default=1, metavar="1", help="only 1: share out the clips with NPROC_PER_NODE")


def _add_data_flags(add: Add) -> None:
    add("--datasets", metavar="FILE", help="list of training datasets, or conversations (default: as prepared)")
    add("--val-datasets", metavar="FILE", help="the same for validation (default: *_val.json beside --datasets)")
    add("--dataset-dir", metavar="DIR", default="dataset", help="where prepared clips lie (default: %(default)s)")
    add("--output-dir", metavar="DIR", default="data/annotaions", help="where their splits lie (default: %(default)s)")
    add("--max-length", type=positive, metavar="N", help="longest sample in tokens; a longer one is named and refused")
    add("--min_num_frames", dest="min_frames", type=positive, metavar="N", help="fewest frames of a clip")
    add("--max_num_frames", dest="max_frames", type=positive, metavar="N", help="most frames of a clip")
    add("--dset-pack", action="store_true", help="put several samples into one row instead of padding them")
    add("--pack-max-length", type=positive, metavar="N", help="most tokens of such a row (default: --max-length)")
    add("--concat-before-pack", action="store_true", help="let a row hold samples of several data sets")
    add("--group-by-length", action="store_true", help="let samples of similar length share an optimizer step")
    add("--group-by-modality-length", dest="group_by_length", action="store_true", help="the same: all are clips")
    add("--dset-cache-dir", metavar="DIR", help="keeps clips' headers and samples' lengths for the next run")
    add("--feature-cache", metavar="DIR", help="keeps the frozen vision tower's results: no decoding, no ViT")
    add("--feature-variants", type=_natural, default=0, metavar="N", help="augmented variants of each clip kept there")
    add("--num-workers", type=_natural, metavar="N", help="processes that read clips ahead")
    add("--num-proc", type=positive, metavar="N", help="threads that look at the clips before the start")
    add("--skip-bad-clips", action="store_true", help="leave out clips that cannot be read, samples that are too long")


def _add_run_flags(add: Add) -> None:
    add("--work-dir", metavar="DIR", help="run directory (default: the family's, in --project-dir)")
    add("--project-dir", metavar="DIR", default=".", help="where default run directories lie (default: %(default)s)")
    add("--checkpoint-interval", type=_interval, metavar="X", help="below 1: of all steps; -1: only at the end")
    add("--checkpoint-drop-optimizer", action="store_true", help="smaller checkpoints that cannot be resumed")
    add("--max-keep-ckpts", type=_keep, default=-1, metavar="N", help="keep the N newest and the best (-1: all)")
    add("--eval-interval", type=_interval, metavar="X", help="as --checkpoint-interval, which is its default")
    add("--log-interval", type=positive, default=1, metavar="N", help="steps between lines of metrics.jsonl")
    add("--report-to", type=_trackers, default=("tensorboard",), metavar="NAMES", help="tensorboard,wandb or none")
    add("--resume", action="store_true", help="continue the run in --work-dir at its newest checkpoint")
    add("--resume-from", metavar="DIR", help="continue at this checkpoint")
    add("--force", action="store_true", help="resume although settings or data have changed")
    add("--reuse", action="store_true", help="take a run of equal settings and data as it is, or continue it")
    add("--dry-run", action="store_true", help="tell what would be trained and what memory it takes, no more")
    add("--seed", type=_natural, default=42, metavar="N", help="default: %(default)s")


def _trackers(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if names == ("none",):
        return ()
    unknown = [name for name in names if name not in TRACKERS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is unknown; use {', '.join(TRACKERS)} or none")
    return names


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


_natural = _number(int, lambda value: value >= 0, "a whole number from 0 up")
_keep = _number(int, lambda value: value == -1 or value >= 1, "a whole number from 1 up, or -1")
_positive = _number(float, lambda value: value > 0, "a number above 0")
_not_negative = _number(float, lambda value: value >= 0, "a number from 0 up")
_share = _number(float, lambda value: 0 <= value < 1, "a number from 0 to below 1")
_part = _number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")
_interval = _number(
    float,
    lambda value: value == -1 or 0 < value < 1 or (value >= 1 and value == int(value)),
    "a share below 1, a whole number of steps, or -1",
)
