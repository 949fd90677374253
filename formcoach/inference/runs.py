"""Which run a command means when the user names none."""

import re
from pathlib import Path

from formcoach.config import DEFAULT_WORK_DIR
from formcoach.errors import UserError
from formcoach.models.location import ADAPTER_CONFIG, RUN_SETTINGS


def newest_run(default: Path = Path(DEFAULT_WORK_DIR)) -> Path:
    """Return the newest run with a checkpoint: the default run or one of its repetitions (`_2`, `_3`, ...).

    Raises:
        UserError: nothing was trained there yet.
    """
    runs = [path for path in repetitions(default) if is_run(path)]
    if not runs:
        raise UserError(
            f"{default}: no trained model yet. Run scripts/finetune_qved.sh first, or name one with --model_path"
        )
    return max(runs, key=lambda path: (path / RUN_SETTINGS).stat().st_mtime_ns)


def is_run(path: Path) -> bool:
    """Tell whether a folder is a run directory with at least one complete checkpoint."""
    return (path / RUN_SETTINGS).is_file() and any(path.glob(f"*/{ADAPTER_CONFIG}"))


def repetitions(default: Path) -> list[Path]:
    """Return what there is of a run and its repetitions (`_2`, `_3`, ...), in no order."""
    number = re.compile(re.escape(default.name) + r"(_\d+)?")
    return [path for path in default.parent.glob("*") if number.fullmatch(path.name)]
