"""Which DeepSpeed configuration a training uses, and whether it fits the trainer."""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from formcoach.config import PROJECT
from formcoach.errors import UserError
from formcoach.files import read_json

DEFAULT = PROJECT / "scripts" / "zero2.json"
REMEDY = "Use scripts/zero2.json, or --deepspeed none."
STAGES = (1, 2)
SET_BY_FLAGS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
)


def choose_deepspeed(args: argparse.Namespace) -> tuple[str | None, str | None]:
    """Return the DeepSpeed configuration's path, or None for plain PyTorch, and a line to print or None.

    Raises:
        UserError: --deepspeed and --shard-strategy contradict each other, or the file cannot be used.
    """
    plain = args.deepspeed == "none"
    if args.shard_strategy == "zero2" and plain:
        raise UserError("--shard-strategy zero2 contradicts --deepspeed none; leave one of them out")
    if args.shard_strategy == "no" and args.deepspeed not in (None, "none"):
        raise UserError(f"--shard-strategy no contradicts --deepspeed {args.deepspeed}; leave one of them out")
    if plain or args.shard_strategy == "no":
        return None, None
    path = args.deepspeed or str(DEFAULT)
    if zero_stage(read_deepspeed(path), path) != 2 and args.shard_strategy == "zero2":
        raise UserError(f"--shard-strategy zero2 contradicts --deepspeed {path}; leave one of them out")
    if importlib.util.find_spec("deepspeed") is None:
        return None, "DeepSpeed is not installed here: training with plain PyTorch (--deepspeed none)"
    return path, None


def read_deepspeed(path: str) -> dict[str, Any]:
    """Return a DeepSpeed configuration.

    Raises:
        UserError: the file is missing, not JSON, or has a setting that this trainer decides.
    """
    config = read_json(Path(path), REMEDY)
    if not isinstance(config, dict):
        raise UserError(f"{path}: is not a DeepSpeed configuration. {REMEDY}")
    for section in ("optimizer", "scheduler"):
        if section in config:
            raise UserError(f"{path}: remove {section!r}; the trainer's own has the three learning rates")
    for name in SET_BY_FLAGS:
        if config.get(name, "auto") != "auto":
            raise UserError(f'{path}: set {name} to "auto"; the command line decides it')
    if zero_stage(config, path) not in STAGES:
        raise UserError(f"{path}: ZeRO stage {zero_stage(config, path)} is not available in this version. {REMEDY}")
    return config


def zero_stage(config: dict[str, Any], path: str) -> int:
    """Return the ZeRO stage of a configuration; `path` names it in an error."""
    zero = config.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise UserError(f"{path}: zero_optimization is not an object. {REMEDY}")
    return zero.get("stage", 0)
