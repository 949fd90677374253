"""When a training logs, validates and saves, and what it tells meanwhile."""

import json
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from formcoach.config import TrainingConfig, interval_steps
from formcoach.training.run_directory import LOG, METRICS
from formcoach.training.trackers import Tracker, open_trackers

SECONDS_BETWEEN_LINES = 5  # at least, where there is no terminal; `metrics.jsonl` has every logged step


class Rhythm(TrainerCallback):
    """Decides after each step what happens; a step that is saved is also validated and logged.

    Args:
        config: has the intervals.
        validates: whether there are validation samples.
    """

    def __init__(self, config: TrainingConfig, validates: bool) -> None:
        self._config = config
        self._validates = validates

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Set what the trainer does now."""
        step, total = state.global_step, state.max_steps
        last = step >= total
        control.should_save = last or step % interval_steps(self._config.checkpoint_interval, total) == 0
        due = step % interval_steps(self._config.eval_interval, total) == 0
        control.should_evaluate = self._validates and (control.should_save or due)
        control.should_log = control.should_evaluate or control.should_save or step % self._config.log_interval == 0
        return control


class RunReport:
    """Writes `train.log` and `metrics.jsonl`, and tells the trackers and the terminal.

    Args:
        run: the run directory.
        active: False in all processes but the first, which then write and say nothing.
        trackers: names of what draws curves meanwhile.
        settings: of the run, for the trackers.
    """

    def __init__(self, run: Path, active: bool, trackers: tuple[str, ...], settings: dict[str, Any]) -> None:
        self._run = run
        self._active = active
        self._tracker_names = trackers
        self._settings = settings
        self._trackers: list[Tracker] = []
        self._complete = False  # the last step was recorded
        self._bar = None
        self._waiting: list[str] | None = []  # lines said before the run directory exists
        self._last_line = 0.0
        self._start = (time.monotonic(), 0)

    def open(self) -> None:
        """Create the run directory; from now on lines go to `train.log` too."""
        if self._active:
            self._run.mkdir(parents=True, exist_ok=True)
            waiting, self._waiting = self._waiting or [], None
            for line in waiting:
                self._write_log(line)

    def begin(self, step: int, total: int) -> None:
        """Start the clock at `step` of `total`."""
        self._start = (time.monotonic(), step)
        if not self._active:
            return
        self._trackers = open_trackers(self._tracker_names, self._run, self._settings, step, self.say)
        if sys.stdout.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=total, initial=step, unit="step", file=sys.stdout)

    def say(self, text: str) -> None:
        """Print a line and add it to `train.log`."""
        if not self._active:
            return
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text)
        self._write_log(text)

    def step(self, record: dict[str, float], total: int) -> None:
        """Record a logged step.

        Args:
            record: ``step``, ``epoch``, ``loss``, the learning rates, ``grad_norm`` and the speeds.
            total: all steps.
        """
        if not self._active:
            return
        self._write_metrics(record)
        self._complete = record["step"] >= total
        line = self._progress_line(record, total)
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {record['loss']:.4f}, {record['tokens_per_second']:.0f} tokens/s")
            self._bar.update(int(record["step"]) - self._bar.n)
            self._write_log(line)
        elif record["step"] == total or time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            self.say(line)
        else:
            self._write_log(line)

    def validation(self, step: int, epoch: float, loss: float) -> None:
        """Record a validation loss."""
        if self._active:
            self._write_metrics({"step": step, "epoch": epoch, "val_loss": loss})
            self.say(f"step {step}  validation loss {loss:.4f}")

    def close(self) -> None:
        """Finish bar and trackers."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        trackers, self._trackers = self._trackers, []
        for tracker in trackers:
            tracker.close(self._complete)

    def _progress_line(self, record: dict[str, float], total: int) -> str:
        began, first = self._start
        done = record["step"] - first
        left = (time.monotonic() - began) / max(done, 1) * (total - record["step"])
        return (
            f"step {record['step']}/{total}  epoch {record['epoch']:.2f}  loss {record['loss']:.4f}  "
            f"lr {record['lr']:.2e}  {record['tokens_per_second']:.0f} tokens/s  {clock(left)} left"
        )

    def _write_metrics(self, record: dict[str, float]) -> None:
        with (self._run / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        for tracker in self._trackers:
            tracker.record(record)

    def _write_log(self, text: str) -> None:
        if self._waiting is not None:
            self._waiting.append(text)
            return
        with (self._run / LOG).open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")


def clock(seconds: float) -> str:
    """Return a duration as ``h:mm:ss``."""
    return str(timedelta(seconds=round(seconds)))


def peak_memory() -> str:
    """Return the most memory that this process has held: the GPU's where there is one, and its own."""
    import torch

    own = f"{_peak_resident() / 2**30:.2f} GiB"
    return f"{peak_bytes() / 2**30:.2f} GiB of the GPU, {own} of the computer" if torch.cuda.is_available() else own


def peak_bytes() -> int:
    """Return the most bytes that this process has held: of the GPU where there is one, else of the computer."""
    import torch

    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _peak_resident()


def _peak_resident() -> int:
    """Return bytes."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts in bytes, Linux in KiB
