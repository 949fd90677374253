"""What draws a run's curves while it trains: TensorBoard and Weights & Biases (`--report-to`)."""

import importlib.util
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from formcoach.config import TRACKERS
from formcoach.errors import UserError
from formcoach.files import read_json, remove_stale, write_json

if TYPE_CHECKING:
    from wandb import Run

TENSORBOARD, WANDB = TRACKERS
WANDB_PROJECT = "formcoach"
WANDB_RUN = "wandb_run.json"  # in the run directory: which W&B run it is, so that a resumed one goes on there
WAIT = 60.0  # seconds for W&B's server, or for a key to be typed, before the run is recorded on the disk alone
LAST_WAIT = 120.0  # seconds at the end for what is not uploaded yet


class Tracker(Protocol):
    """Draws curves."""

    def record(self, record: dict[str, float]) -> None:
        """Take the values of one step; ``step`` and ``epoch`` are among them."""

    def close(self, complete: bool) -> None:
        """Finish; `complete` tells whether the training got to its last step."""


class WandbRun(msgspec.Struct, frozen=True):
    """`wandb_run.json`.

    Args:
        id: of the run at W&B.
    """

    id: str


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker whose package is missing.

    Raises:
        UserError: it is.
    """
    if WANDB not in names:
        return
    found = importlib.util.find_spec("wandb")
    if found is None or found.origin is None:  # the folder wandb/ that its runs leave behind counts as a package too
        raise UserError(f"--report-to {WANDB} needs a package that is not installed: pip install wandb")


def open_trackers(
    names: Sequence[str], run: Path, settings: dict[str, Any], step: int, say: Callable[[str], None]
) -> list[Tracker]:
    """Return trackers that take what comes after `step`.

    Args:
        names: of the trackers, from `formcoach.config.TRACKERS`.
        run: the run directory; it exists.
        settings: of the run.
        step: it starts behind this one; above 0 it was resumed.
        say: tells the user a line.

    Raises:
        UserError: `wandb_run.json` is damaged.
    """
    trackers: list[Tracker] = []
    if TENSORBOARD in names:
        trackers.append(TensorBoard(run, step))
    if WANDB in names:
        trackers.append(WeightsAndBiases(run, settings, step, say))
    return trackers


def scalars(record: dict[str, float]) -> dict[str, float]:
    """Return the values to draw under the names of their curves."""
    return {
        f"{'validation' if name == 'val_loss' else 'train'}/{name}": value
        for name, value in record.items()
        if name not in ("step", "epoch")
    }


class TensorBoard:
    """Event files in the run directory.

    Args:
        run: the run directory.
        step: what an earlier start of the run wrote behind it is not shown any more.
    """

    def __init__(self, run: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._events = SummaryWriter(str(run), purge_step=step + 1)

    def record(self, record: dict[str, float]) -> None:
        """Write the values of one step."""
        for name, value in scalars(record).items():
            self._events.add_scalar(name, value, record["step"])

    def close(self, complete: bool) -> None:
        """Finish the event file; what a full disk has no room for is lost."""
        with suppress(OSError):
            self._events.close()


class WeightsAndBiases:
    """A run of the project `formcoach` at W&B, or in the run directory alone with ``WANDB_MODE=offline``.

    A resumed run goes on as the same W&B run. W&B does not take back what was drawn behind the checkpoint; the curves
    are drawn over ``step``, so that the repeated steps lie on the first ones.

    Nothing that W&B raises stops the training.

    Args:
        run: the run directory.
        settings: of the run.
        step: above 0 the run was resumed.
        say: tells the user a line.
    """

    def __init__(self, run: Path, settings: dict[str, Any], step: int, say: Callable[[str], None]) -> None:
        self._say = say
        run_id = _run_id(run, resumed=step > 0)
        self._run: Run | None = None
        try:
            self._run = _start(run, run_id, settings, say)
            for names in ("train/*", "validation/*"):
                self._run.define_metric(names, step_metric="step")
        except Exception as error:  # whatever it is: the training is worth more than its curves
            self._give_up(error)

    def record(self, record: dict[str, float]) -> None:
        """Hand over the values of one step; they are uploaded by a process of W&B's own."""
        if self._run is None:
            return
        try:
            self._run.log({"step": record["step"], "epoch": record["epoch"], **scalars(record)})
        except Exception as error:
            self._give_up(error)

    def close(self, complete: bool) -> None:
        """Finish the W&B run, as failed where the training was stopped."""
        if self._run is None:
            return
        try:
            self._run.finish(exit_code=0 if complete else 1)
        except Exception as error:
            self._give_up(error)
        self._run = None

    def _give_up(self, error: Exception) -> None:
        self._run = None
        self._say(f"Weights & Biases: {_first_line(error)}; the training goes on without it")


def _run_id(run: Path, resumed: bool) -> str:
    """Return the id of the run at W&B: the one noted in the run directory, or a new one, which is noted."""
    path = run / WANDB_RUN
    if resumed and path.is_file():
        remedy = "Remove it to go on as a new W&B run."
        try:
            return msgspec.convert(read_json(path, remedy), WandbRun).id
        except msgspec.ValidationError as error:
            raise UserError(f"{path}: {error}. {remedy}") from None
    new = WandbRun(secrets.token_hex(4))
    remove_stale(path)
    write_json(path, msgspec.to_builtins(new))
    return new.id


def _start(run: Path, run_id: str, settings: dict[str, Any], say: Callable[[str], None]) -> "Run":
    """Start the W&B run; without a key or a network it is recorded on the disk alone."""
    import wandb

    options = {
        "project": WANDB_PROJECT,
        "name": run.absolute().name,
        "id": run_id,
        "dir": str(run),
        "config": settings,
        "allow_val_change": True,  # some settings may change when a run is resumed
        "resume": "allow",
        "settings": wandb.Settings(silent=True, login_timeout=WAIT, init_timeout=WAIT, finish_timeout=LAST_WAIT),
    }
    try:
        started = wandb.init(**options)
    except Exception as error:
        say(f"Weights & Biases: {_first_line(error)}")
        started = wandb.init(**options, mode="offline")
    if started.offline:
        say(f"Weights & Biases: recorded on the disk; `wandb sync {run / 'wandb'}` uploads it")
    elif started.url:
        say(f"Weights & Biases: {started.url}")
    return started


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
