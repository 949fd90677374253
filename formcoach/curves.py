"""What a run's `metrics.jsonl` holds, as curves over the optimizer step."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from formcoach.errors import UserError
from formcoach.files import read_json
from formcoach.inference.runs import repetitions
from formcoach.models.location import BestCheckpoint, step_of
from formcoach.training.run_directory import BEST, METRICS, SETTINGS

REMEDY = "Name a run directory, or make one with scripts/finetune_qved.sh"


class Record(msgspec.Struct, frozen=True, gc=False):
    """A line of `metrics.jsonl`, as far as it is drawn; other keys are passed over.

    Args:
        step: optimizer steps so far.
        loss: of the training samples since the last record.
        val_loss: of the validation samples.
        lr: learning rate of the language model.
        connector_lr: of the connector.
        vit_lr: of the vision tower.
        grad_norm: of the gradients before they are cut.
        tokens_per_second: speed.
        samples_per_second: speed.
        seconds: of an optimizer step.
        data_wait: share of them in which nothing was computed for want of data, 0 to 1.
        memory_gb: most that was held so far, in 10^9 bytes.
    """

    step: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    loss: float | None = None
    val_loss: float | None = None
    lr: float | None = None
    connector_lr: float | None = None
    vit_lr: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    samples_per_second: float | None = None
    seconds: float | None = None
    data_wait: float | None = None
    memory_gb: float | None = None


@dataclass(frozen=True)
class Curve:
    """One value of a run over its steps.

    Args:
        steps: optimizer steps, rising: (points,).
        values: may be NaN or infinite: (points,).
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class RunCurves:
    """What is known about how a run went.

    Args:
        folder: the run directory.
        curves: by the names of `Record`; there is at least one.
        best: step and validation loss of the best checkpoint, if there is one.
        settings: those of `training_config.json`; empty where that is missing.
        notes: what the user should know about the file.
    """

    folder: Path
    curves: dict[str, Curve]
    best: tuple[int, float] | None
    settings: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.absolute().name

    @property
    def last_step(self) -> int:
        """The last recorded step."""
        return int(max(curve.steps[-1] for curve in self.curves.values()))


class _Settings(msgspec.Struct, frozen=True):
    """What is read of `training_config.json`."""

    settings: dict[str, Any]


def newest_recorded_run(folders: Sequence[Path]) -> Path:
    """Return the newest run that has logged something, of some runs and their repetitions (`_2`, `_3`, ...).

    Raises:
        UserError: there is none.
    """
    found = (path for folder in folders for path in repetitions(folder))
    runs = [path for path in found if all((path / name).is_file() for name in (METRICS, SETTINGS))]
    if not runs:
        raise UserError(f"{folders[0]}: no run yet. {REMEDY}")
    return max(runs, key=lambda path: (path / SETTINGS).stat().st_mtime_ns)


def read_curves(run: Path) -> RunCurves:
    """Return the curves of a run, finished, running or killed.

    Raises:
        UserError: it is no run directory, has no logged step, or a file of it is damaged.
    """
    path = run / METRICS
    if not run.is_dir():
        raise UserError(f"{run}: no such folder. {REMEDY}")
    if not path.is_file():
        raise UserError(f"{run}: is no run directory: it has no {METRICS}. {REMEDY}")
    bad: list[int] = []
    curves = _curves(_without_repeats(_records(path, bad)))
    if not curves:
        raise UserError(f"{path}: has no logged step yet. Try again after the first step, or name another run")
    notes = ()
    if bad:
        what = "1 line is no record and is" if len(bad) == 1 else f"{len(bad)} lines are no records and are"
        notes = (f"{path}: {what} left out, the first is line {bad[0]}",)
    return RunCurves(run, curves, _read_best(run / BEST), _read_settings(run / SETTINGS), notes)


def _records(path: Path, bad: list[int]) -> Iterator[Record]:
    """Yield the records; add the numbers of lines that are none to `bad`, but for a last line that was cut short."""
    decoder = msgspec.json.Decoder(Record)
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                record = _unusual_record(line)
                if record is not None:
                    yield record
                elif line.endswith(b"\n"):
                    bad.append(number)


def _unusual_record(line: bytes) -> Record | None:
    """Return a record with NaN or Infinity in it, which Python's JSON has and msgspec's has not."""
    try:
        return msgspec.convert(json.loads(line), Record)
    except (ValueError, RecursionError, msgspec.ValidationError):
        return None


def _without_repeats(records: Iterable[Record]) -> list[Record]:
    """Return the records in the order of their steps, at most one training and one validation record a step.

    Where a run was killed and resumed, the steps behind the checkpoint may be there twice: the later ones count.
    """
    kept: list[Record] = []
    for record in records:
        beside = []
        while kept and kept[-1].step >= record.step:
            last = kept.pop()
            if last.step == record.step and (last.val_loss is None) != (record.val_loss is None):
                beside.append(last)
        kept.extend(beside)
        kept.append(record)
    return kept


def _curves(records: Sequence[Record]) -> dict[str, Curve]:
    """Return a curve for each name that has values."""
    curves = {}
    for name in Record.__struct_fields__[1:]:
        found = [record for record in records if getattr(record, name) is not None]
        if found:
            steps, values = ([getattr(record, key) for record in found] for key in ("step", name))
            curves[name] = Curve(np.array(steps), np.array(values))
    return curves


def _read_best(path: Path) -> tuple[int, float] | None:
    if not path.is_file():
        return None
    remedy = "Remove it to draw the curves without the best checkpoint."
    try:
        best = msgspec.convert(read_json(path, remedy), BestCheckpoint)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}. {remedy}") from None
    step = step_of(best.checkpoint)
    return (step, best.val_loss) if step is not None else None


def _read_settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    remedy = "Remove it to draw the curves without the settings."
    try:
        return msgspec.convert(read_json(path, remedy), _Settings).settings
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}. {remedy}") from None
