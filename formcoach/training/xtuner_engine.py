"""The training as xtuner runs it: what `scripts/xtuner_qved.py` names, and the command behind `--engine xtuner`.

With ``framework = "huggingface"`` xtuner 0.2.0 calls what a config names, in this order: training arguments, model
(with weight initialisation switched off), data set; then the trainer, with all three, and `train`, `save_state` and
`save_model` of what that returns. Here each of them is a part of `formcoach.training.run`, so that the run is the same.
"""

import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from formcoach import command, processes
from formcoach.config import PROJECT
from formcoach.errors import UserError
from formcoach.training.launch import parse_flags, plan_training

if TYPE_CHECKING:
    from formcoach.data.dataset import ClipDataset
    from formcoach.training.callbacks import RunReport
    from formcoach.training.plan import Plan
    from formcoach.training.run import Prepared

CONFIG = PROJECT / "scripts" / "xtuner_qved.py"
XTUNER = "xtuner.tools.train"  # what `xtuner train` runs; by name, since it is in .venv-xtuner only
SET_UP = "bash scripts/setup_env.sh --xtuner"


@dataclass
class Run:
    """A training, as far as xtuner has built it.

    Args:
        plan: what will be done.
        report: is told what happens.
        initialisers: see the function of that name.
        model: with its trainable weights.
        processor: the model's.
        forwards: see `forwards_of`.
        prepared: all of it.
    """

    plan: "Plan"
    report: "RunReport"
    initialisers: dict[str, Any]
    model: Any = None
    processor: Any = None
    forwards: dict[Any, Any] = field(default_factory=dict)
    prepared: "Prepared | None" = None

    @property
    def output_dir(self) -> str:
        """The run directory: all that xtuner asks training arguments."""
        return str(self.plan.run)


# xtuner hands nothing from one builder to the next, and what it hands to the trainer comes too late.
_RUN: ContextVar[Run] = ContextVar("run")


def main(argv: Sequence[str] | None = None) -> int:
    """Train as `xtuner train scripts/xtuner_qved.py` does, with the flags of `unify_internvl2_train_r16.py`.

    Raises:
        UserError: xtuner is not installed, or anything else that the user can put right.
    """
    flags = list(sys.argv[1:] if argv is None else argv)
    parse_flags(flags)  # so that a mistake is told before xtuner is loaded, which takes a while
    if importlib.util.find_spec("xtuner") is None:
        raise UserError(f"xtuner is not installed in this environment; run: {SET_UP}, then use --engine xtuner")
    wanted = processes.wanted_processes()
    if wanted is not None:
        return processes.run_processes(wanted, "-m", [__spec__.name, *flags])
    with command.importing():
        import torch

        importlib.import_module("formcoach.models")  # before transformers: keeps bitsandbytes from a warning
        from formcoach.training.run import quiet

        quiet(torch.cuda.is_available())
        xtuner = importlib.import_module(XTUNER)
    sys.argv = [XTUNER, str(CONFIG), "--cfg-options", f"training_args.command_line={_packed(flags)}"]
    xtuner.main()
    return 0


def run_arguments(
    *,
    output_dir: str | None = None,
    deepspeed: str | None = None,
    seed: int | None = None,
    command_line: str | None = None,
    **settings: Any,
) -> Run:
    """Return a planned run: xtuner's training arguments.

    Those of transformers follow from it when all samples are measured, see `formcoach.training.run`.

    Args:
        output_dir: xtuner's --work-dir.
        deepspeed: xtuner's --deepspeed; None: the default of --deepspeed, or ``none``.
        seed: xtuner's --seed.
        command_line: the flags of a command, from `main`; all else is then left aside.
        settings: flags of `unify_internvl2_train_r16.py` by their names, without dashes in front: ``freeze_vit=True``.
    """
    began = time.monotonic()
    processes.interrupt_on_terminate()
    typed = {"work_dir": output_dir, "deepspeed": deepspeed, "seed": seed, "resume_from": _resume_from()}
    flags = as_flags({**settings, **typed}) if command_line is None else _unpacked(command_line)
    with _told(processes.PATIENCE):
        args = parse_flags(flags)
        if args.debug:
            sys.argv.append("--debug")  # xtuner has no such flag and has read its own by now
        plan = plan_training(args, processes.place(), began)
        if plan is None:
            sys.exit(0)
        from formcoach.training.run import begin

        run = Run(plan, begin(plan), initialisers())
    _RUN.set(run)
    return run


def trainable_model(*, device_map: dict[str, int] | None = None) -> Any:
    """Return the model with its trainable weights.

    Args:
        device_map: where xtuner would have it; the run's settings decide that, see `sharding.loading_device`.
    """
    run = _RUN.get()
    with _told(processes.PATIENCE, run.plan), initialising(run.initialisers):
        from formcoach.training.run import build_model

        run.model, run.processor = build_model(run.plan)
    run.forwards = forwards_of(run.model)
    return run.model


def training_samples() -> "ClipDataset":
    """Return the training samples as the model's inputs, after all samples have been checked."""
    run = _RUN.get()
    restore_forwards(run.forwards)
    with _told(processes.PATIENCE, run.plan):
        from formcoach.training.run import check

        run.prepared = check(run.plan, run.model, run.processor, run.report)
    return run.prepared.inputs.train


class Training:
    """What xtuner takes for the trainer: `CoachTrainer` with everything around it.

    Args:
        args: from `run_arguments`, which leads to model, samples and validation samples too.
        model: from `trainable_model`.
        train_dataset: from `training_samples`.
        data_collator: xtuner's, for rows of text; `CoachTrainer` has the one for clips.
    """

    def __init__(self, *, args: Run, model: Any, train_dataset: "ClipDataset", data_collator: Any) -> None:
        self._prepared = args.prepared

    def train(self, resume_from_checkpoint: str | None = None) -> None:
        """Train, from `resume_from_checkpoint` on where xtuner got --resume; the plan has it, see `run_arguments`."""
        from formcoach.training.run import train

        with _told(processes.SHORT_PATIENCE):
            train(self._prepared)

    def save_state(self) -> None:
        """Do nothing: each checkpoint has its state."""

    def save_model(self, output_dir: str) -> None:
        """Do nothing: the last step's checkpoint is the trained model."""


@contextmanager
def _told(patience: float, plan: "Plan | None" = None) -> Iterator[None]:
    """End the process with one line at what the user can put right; xtuner would show its traceback.

    Args:
        patience: see `processes.tell_once`.
        plan: the training, to tell what would fit if memory runs out; None: that is told elsewhere.
    """
    from formcoach.training.out_of_memory import told_if_out_of_memory

    try:
        with told_if_out_of_memory(plan) if plan is not None else nullcontext():
            yield
    except (UserError, KeyboardInterrupt) as error:
        mistake = error
    else:
        return
    command.run(lambda: processes.tell_once(mistake, processes.place(), patience))


def initialisers() -> dict[str, Any]:
    """Return PyTorch's functions that give new weights their values, by name."""
    from torch.nn import init

    return {name: value for name, value in vars(init).items() if name.endswith("_") and callable(value)}


@contextmanager
def initialising(functions: dict[str, Any]) -> Iterator[None]:
    """Let new weights get their values, which xtuner's `LoadWoInit` keeps from all of PyTorch.

    It replaces functions of `torch.nn.init` by ones that do nothing: adapters would be what happened to be in memory.

    Args:
        functions: from `initialisers`, before that.
    """
    from torch.nn import init

    switched_off = {name: vars(init)[name] for name in functions}
    vars(init).update(functions)
    try:
        yield
    finally:
        vars(init).update(switched_off)


def forwards_of(model: Any) -> dict[Any, Any]:
    """Return what each module has in place of its class's `forward`, or None."""
    return {module: vars(module).get("forward") for module in model.modules()}


def restore_forwards(forwards: dict[Any, Any]) -> None:
    """Undo what xtuner's `dispatch_modules` has done to the model.

    Where FlashAttention is installed it replaces the attention by one for transformers 4.48, which knows nothing of
    samples that share a row.

    Args:
        forwards: from `forwards_of`, before that.
    """
    for module, forward in forwards.items():
        if vars(module).get("forward") is forward:
            continue
        del module.forward
        if forward is not None:
            module.forward = forward


def _resume_from() -> str | None:
    """Return xtuner's --resume, which it tells the trainer only: too late for a plan."""
    return importlib.import_module(XTUNER).parse_args().resume


def as_flags(settings: dict[str, Any]) -> list[str]:
    """Return a command line; False and None leave a flag out."""
    given = {name: value for name, value in settings.items() if value is not None and value is not False}
    return [f"--{name}" if value is True else f"--{name}={_text(value)}" for name, value in given.items()]


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _packed(flags: list[str]) -> str:
    """Return flags as one word of letters, digits and `%`: xtuner takes commas, blanks and brackets for its own."""
    return quote(json.dumps(flags), safe="")


def _unpacked(text: str) -> list[str]:
    return json.loads(unquote(text))


if __name__ == "__main__":
    command.run(main)
