"""Which DeepSpeed configuration a training uses, and whether it fits the trainer."""

import argparse
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formcoach.config import PROJECT
from formcoach.errors import UserError
from formcoach.files import read_json
from formcoach.processes import Place

SCRIPTS = PROJECT / "scripts"
DEFAULT = SCRIPTS / "zero2.json"
REMEDY = "Use scripts/zero2.json, or --deepspeed none."
STAGES = (1, 2, 3)
STRATEGY_STAGES = {"zero2": 2, "full": 3, "hybrid": 3, "no": None}  # the last is plain PyTorch
SET_BY_FLAGS = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
)
SECONDARY = "zero_hpz_partition_size"  # processes among which a second copy of the weights is shared out


@dataclass(frozen=True)
class Choice:
    """How weights, gradients and the optimizer's state are shared out.

    Args:
        path: the DeepSpeed configuration; None: plain PyTorch.
        notices: lines to tell the user.
    """

    path: str | None
    notices: tuple[str, ...] = ()


def choose_deepspeed(args: argparse.Namespace, place: Place) -> Choice:
    """Return how to share out what --deepspeed and --shard-strategy say.

    Raises:
        UserError: they contradict each other, or the file cannot be used.
    """
    chosen = _chosen(args, place)
    if chosen.path is None:
        return chosen
    stage = zero_stage(read_deepspeed(chosen.path), chosen.path)
    if stage == 3:
        _check_partitioned(args, chosen.path)
    if importlib.util.find_spec("deepspeed") is not None:
        return chosen
    if stage == 3:
        raise UserError(f"{chosen.path}: DeepSpeed is not installed here; install it, or use --shard-strategy no")
    return Choice(None, ("DeepSpeed is not installed here: training with plain PyTorch (--deepspeed none)",))


def read_deepspeed(path: str) -> dict[str, Any]:
    """Return a DeepSpeed configuration as it is written.

    Raises:
        UserError: the file is missing, not JSON, or has a setting that this trainer decides or does not have.
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
        raise UserError(f"{path}: ZeRO stage {zero_stage(config, path)} is not one of 1, 2 and 3. {REMEDY}")
    for offload in _offloads(config):
        if offload.get("device") == "nvme":
            raise UserError(f'{path}: offloading to "nvme" is not available; offload to "cpu" (zero3_offload.json)')
    return config


def settings_for(path: str, place: Place, cuda: bool) -> dict[str, Any]:
    """Return the configuration for the processes that there are.

    Args:
        path: of the configuration.
        place: this process among the others.
        cuda: whether it computes on a GPU.
    """
    config = read_deepspeed(path)
    for offload in _offloads(config):
        # Pinned memory speeds up copies to a GPU; PyTorch has none where there is no GPU.
        offload["pin_memory"] = bool(offload.get("pin_memory", False)) and cuda
    zero = config["zero_optimization"]
    if zero.get(SECONDARY) == "auto":
        zero[SECONDARY] = place.local_count
    return config


def zero_stage(config: dict[str, Any], path: str) -> int:
    """Return the ZeRO stage of a configuration; `path` names it in an error."""
    zero = config.get("zero_optimization", {})
    if not isinstance(zero, dict):
        raise UserError(f"{path}: zero_optimization is not an object. {REMEDY}")
    return zero.get("stage", 0)


def loading_device(path: str | None, place: Place, cuda: bool) -> str:
    """Return where the model is loaded: under ZeRO-3 on the CPU, since a GPU gets its part of the weights only."""
    if not cuda or (path is not None and zero_stage(read_deepspeed(path), path) == 3):
        return "cpu"
    return f"cuda:{place.local_rank}"


def _chosen(args: argparse.Namespace, place: Place) -> Choice:
    """Return what the two flags say, without looking at the model."""
    strategy, path = args.shard_strategy, args.deepspeed
    if path is None:
        return _file_of(strategy, place)
    stage = None if path == "none" else zero_stage(read_deepspeed(path), path)
    if strategy is not None and STRATEGY_STAGES[strategy] != stage:
        raise UserError(f"--shard-strategy {strategy} contradicts --deepspeed {path}; leave one of them out")
    return Choice(None if path == "none" else path)


def _file_of(strategy: str | None, place: Place) -> Choice:
    """Return the configuration of a strategy, by default ZeRO-2."""
    if strategy == "no":
        return Choice(None)
    if strategy == "full":
        return Choice(str(SCRIPTS / "zero3.json"))
    if strategy != "hybrid":
        return Choice(str(DEFAULT))
    if place.local_count == place.count:
        line = "--shard-strategy hybrid is the same as full on one machine"
        return Choice(str(SCRIPTS / "zero3.json"), (line,))
    if place.local_count == 1:
        line = "--shard-strategy hybrid leaves the weights whole with one process a machine: using scripts/zero2.json"
        return Choice(str(DEFAULT), (line,))
    return Choice(str(SCRIPTS / "zero3_hybrid.json"))


def _check_partitioned(args: argparse.Namespace, path: str) -> None:
    """Refuse what cannot be had where the weights are shared out.

    Raises:
        UserError: says why, and what to use.
    """
    if args.quantization is not None:
        raise UserError(
            f"--quantization {args.quantization} does not go with ZeRO-3 ({path}): bitsandbytes repacks and holds "
            "weights that DeepSpeed would share out; use --shard-strategy zero2, the weights are small when quantised"
        )
    if args.nan == "skip":
        raise UserError(
            f"--nan skip does not go with ZeRO-3 ({path}): all processes compute each layer together, and a sample is "
            "left out by one; use --shard-strategy zero2, or --nan stop"
        )


def _offloads(config: dict[str, Any]) -> list[dict[str, Any]]:
    zero = config["zero_optimization"]
    return [zero[name] for name in ("offload_optimizer", "offload_param") if isinstance(zero.get(name), dict)]
