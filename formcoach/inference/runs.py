"""Which run a command means when the user names none."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from formcoach import models
from formcoach.errors import UserError
from formcoach.inference.options import add_flag
from formcoach.models.location import ADAPTER_CONFIG, RUN_SETTINGS


def add_run_folders(parser: argparse.ArgumentParser) -> None:
    """Add `--work_dir` and `--project_dir`, by which `run_folders` finds the runs."""
    add_flag(
        parser,
        "--work_dir",
        type=Path,
        metavar="DIR",
        help="where no run is named: the newest there or at its repetitions _2, _3, ... (default: of all families)",
    )
    add_flag(
        parser,
        "--project_dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where the families' run directories lie (default: %(default)s)",
    )


def run_folders(args: argparse.Namespace) -> list[Path]:
    """Return where runs are looked for, by the flags of `add_run_folders`."""
    return [args.work_dir] if args.work_dir is not None else default_folders(args.project_dir)


def default_folders(project: Path = Path()) -> list[Path]:
    """Return where the runs of each family go where the user names no run directory."""
    return [project / family.runs.work_dir for family in models.FAMILIES]


def newest_run(folders: Sequence[Path] | None = None) -> Path:
    """Return the newest run with a checkpoint.

    Args:
        folders: runs among which it is, and their repetitions (`_2`, `_3`, ...); None: `default_folders`.

    Raises:
        UserError: nothing was trained there yet.
    """
    folders = default_folders() if folders is None else folders
    runs = [path for folder in folders for path in repetitions(folder) if is_run(path)]
    if not runs:
        raise UserError(
            f"{folders[0]}: no trained model yet. Run scripts/finetune_qved.sh first, or name one with --model_path"
        )
    return max(runs, key=lambda path: (path / RUN_SETTINGS).stat().st_mtime_ns)


def is_run(path: Path) -> bool:
    """Tell whether a folder is a run directory with at least one complete checkpoint."""
    return (path / RUN_SETTINGS).is_file() and any(path.glob(f"*/{ADAPTER_CONFIG}"))


def repetitions(default: Path) -> list[Path]:
    """Return what there is of a run and its repetitions (`_2`, `_3`, ...), in no order."""
    number = re.compile(re.escape(default.name) + r"(_\d+)?")
    return [path for path in default.parent.glob("*") if number.fullmatch(path.name)]
