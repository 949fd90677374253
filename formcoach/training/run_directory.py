"""A run directory: where it is, which of its checkpoints are complete, and which is the best."""

import filecmp
import hashlib
import importlib.metadata
import itertools
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from formcoach.errors import UserError
from formcoach.files import read_json, replacing_folder, write_json, write_text
from formcoach.models.location import ADAPTER_CONFIG, ADAPTER_WEIGHTS, is_last, named_at, step_of

SETTINGS = "training_config.json"
BEST = "best.json"
METRICS = "metrics.jsonl"
LOG = "train.log"
RESUME = "resume"  # in a checkpoint's folder: what `formcoach.training.resumption` needs
STATE = "trainer_state.json"  # in there: how far the training was
LEFT_BEHIND = re.compile(r"\.(.+)\.[^.]+\.(tmp|old)(\.jsonl?)?")  # with the name of what was to be written
VERSIONS = ("torch", "transformers", "peft", "deepspeed", "accelerate", "bitsandbytes", "numpy")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint.

    Args:
        folder: in a run directory.
        step: the optimizer steps behind it.
    """

    folder: Path
    step: int


class RunDescription(msgspec.Struct, frozen=True):
    """`training_config.json`.

    Args:
        settings: every setting of the run.
        base: fingerprint of the base model's weights.
        resolved: what follows from settings and data.
        versions: of the packages that take part.
        data: SHA-256 of each file whose content decides what is learned.
        revision: the base model's commit, if it is one of the hub.
    """

    settings: dict[str, Any]
    base: str
    resolved: dict[str, Any]
    versions: dict[str, str | None]
    data: dict[str, str]
    revision: str | None = None


def checkpoints(run: Path) -> list[Checkpoint]:
    """Return a run's checkpoints, oldest first; a folder gets its name when it is complete.

    The second name of the last one counts only where no other is left.
    """
    complete = _complete(run)
    numbered = [path for path in complete if not is_last(path.name)]
    found = [checkpoint for path in numbered or complete if (checkpoint := checkpoint_at(path)) is not None]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def _complete(run: Path) -> list[Path]:
    """Return the folders of a run's complete checkpoints, under all of their names."""
    return [path for path in run.glob("*") if _is_name(path.name) and (path / ADAPTER_CONFIG).is_file()]


def _is_name(folder: str) -> bool:
    return step_of(folder) is not None or is_last(folder)


def checkpoint_at(folder: Path) -> Checkpoint | None:
    """Return the checkpoint in a folder, or None if it has not the name of one or is not complete.

    Raises:
        UserError: its name does not tell its step, and what does is missing or damaged.
    """
    if not _is_name(folder.name) or not (folder / ADAPTER_CONFIG).is_file():
        return None
    step = step_of(folder.name)
    return Checkpoint(folder, step if step is not None else _last_step(folder))


def _last_step(folder: Path) -> int:
    """Return the step of a folder whose name does not tell it; the last of its run, where nothing else is known."""
    state = folder / RESUME / STATE
    if state.is_file():
        return read_json(state, "Remove its folder.")["global_step"]
    return read_description(folder.parent).resolved["steps"]


def directories(wanted: Path) -> Iterator[Path]:
    """Yield where the runs of a name go: `wanted`, then `wanted_2`, `wanted_3`, ... without end."""
    yield wanted
    for number in itertools.count(2):
        yield wanted.with_name(f"{wanted.name}_{number}")


def free_directory(wanted: Path) -> Path:
    """Return where a new run goes: the first of `directories` that has no checkpoints.

    Raises:
        UserError: it is a file, or nothing can be written there.
    """
    run = next(run for run in directories(wanted) if not _complete(run))
    check_writable(run)
    return run


def equal_run(wanted: Path, description: RunDescription, may_differ: frozenset[str]) -> Path | None:
    """Return the first of `directories` with checkpoints and the described settings and data, or None.

    Args:
        wanted: where a run would go.
        description: from `describe_run`.
        may_differ: names of settings that do not count.
    """
    for run in itertools.takewhile(_complete, directories(wanted)):
        with suppress(UserError):
            check_same_run(run, description, may_differ)
            return run
    return None


def check_writable(run: Path) -> None:
    """Check that a run directory can be written, without creating it.

    Raises:
        UserError: it cannot.
    """
    existing = next(path for path in (run, *run.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"--work-dir {run}: {existing} is a file; name another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"--work-dir {run}: {existing} is not writable; name another folder")


def remove_leftovers(run: Path) -> None:
    """Remove unfinished files and folders of a command that was killed; their names start with a dot."""
    for path in run.glob(".*"):
        match = LEFT_BEHIND.fullmatch(path.name)
        if match and (match[1] in (BEST, SETTINGS, METRICS) or _is_name(match[1])):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_best(run: Path, checkpoint: str, val_loss: float) -> None:
    """Record the best checkpoint by validation loss; `checkpoint` is its folder's name."""
    write_json(run / BEST, {"checkpoint": checkpoint, "val_loss": val_loss})


def name_last(run: Path, name: str | None) -> None:
    """Give the newest checkpoint a second name; its files are there once, and removing one folder leaves the other.

    Args:
        run: with a checkpoint. One that has the name already keeps it, another one loses it.
        name: of the folder; None: the newest checkpoint gets none.
    """
    if name is None:
        return
    newest = checkpoints(run)[-1].folder
    named = run / name / ADAPTER_WEIGHTS
    if named.is_file() and filecmp.cmp(named, newest / ADAPTER_WEIGHTS, shallow=False):
        return
    with replacing_folder(run / name) as folder:
        shutil.copytree(newest, folder, copy_function=_link, dirs_exist_ok=True)


def finish(run: Path, last: str | None) -> None:
    """Do what a run that was killed behind its last checkpoint has not done; see `name_last`."""
    remove_leftovers(run)
    name_last(run, last)


def _link(source: str, target: str) -> None:
    """Link a file, or copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def remove_old_checkpoints(run: Path, keep: int, best_step: int | None) -> None:
    """Remove all but the `keep` newest checkpoints and the best; -1 keeps all."""
    if keep < 0:
        return
    for checkpoint in checkpoints(run)[:-keep]:
        if checkpoint.step != best_step:
            going = checkpoint.folder.with_name(f".{checkpoint.folder.name}.going.old")
            checkpoint.folder.rename(going)  # so that a folder under its own name is always complete
            shutil.rmtree(going)


def cut_metrics(run: Path, step: int) -> None:
    """Drop the lines of `metrics.jsonl` that lie behind `step`: a resumed run writes them again."""
    path = run / METRICS
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if msgspec.json.decode(line)["step"] <= step:
                kept.append(line + "\n")
        except msgspec.DecodeError:
            break  # the last line of a killed run may be cut short
    write_text(path, "".join(kept))


def describe_run(
    settings: dict[str, Any],
    base: str,
    revision: str | None,
    resolved: dict[str, Any],
    data_files: Sequence[Path],
) -> RunDescription:
    """Return the description of a run, see `RunDescription`."""
    return RunDescription(
        settings,
        base,
        resolved,
        {name: _version(name) for name in ("formcoach", *VERSIONS)},
        {str(path.absolute()): hashlib.sha256(path.read_bytes()).hexdigest() for path in data_files},
        revision,
    )


def read_description(run: Path, remedy: str = "Only a run with this file can be resumed.") -> RunDescription:
    """Return the description in a run directory.

    Args:
        run: the run directory.
        remedy: what to do where it is missing or damaged, for messages.

    Raises:
        UserError: it is missing or damaged.
    """
    path = run / SETTINGS
    try:
        return msgspec.convert(read_json(path, remedy), RunDescription)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}. {remedy}") from None


def check_same_run(run: Path, description: RunDescription, may_differ: frozenset[str]) -> None:
    """Check that a run is resumed with the settings, the data and the base model that it was started with.

    Raises:
        UserError: lists what differs.
    """
    if changed := differences(run, description, may_differ):
        raise UserError(
            f"{run} cannot be resumed: {', '.join(changed)}; undo that, start a new run, "
            "or go on all the same with --force"
        )


def differences(run: Path, description: RunDescription, may_differ: frozenset[str]) -> list[str]:
    """Return what has changed since a run was started.

    Args:
        run: its directory.
        description: of how it would go on.
        may_differ: names of settings that do not count.

    Raises:
        UserError: its own description is missing or damaged.
    """
    before = read_description(run)
    old, new = before.settings, description.settings
    same_weights = before.base == description.base  # by another name, or at a revision that is named now
    changed = [
        f"{name} was {old.get(name)} and is {value}"
        for name, value in new.items()
        if name not in may_differ and old.get(name) != value and not (name == "model" and same_weights)
    ]
    if not same_weights:
        named = f" (it was trained on {named_at(old['model'], before.revision)})" if before.revision else ""
        changed.append(f"the weights of {new['model']} have changed{named}")
    known = set(before.data.values())
    return changed + [f"{path} has changed" for path, digest in description.data.items() if digest not in known]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
