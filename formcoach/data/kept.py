"""Which clips cleaning keeps, which it rejects and why: written by `clean_dataset`, read when the splits are made."""

from pathlib import Path

import msgspec

from formcoach.errors import UserError
from formcoach.files import read_bytes, write_text

FILE = "kept_clips.json"  # in the output folder, beside the splits
CLEAN = "Run utils/clean_dataset.py again, or delete the file to use all clips"


class Cleaned(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The outcome of cleaning; all paths are relative to the dataset folder, as the disk spells them.

    Args:
        kept: clips that passed.
        rejected: the others, with the reasons.
        duplicates: groups of clips that show the same, rejected members included; no clip is in two of them.
    """

    kept: list[str]
    rejected: dict[str, list[str]] = {}
    duplicates: list[list[str]] = []


def write_cleaned(output_dir: Path, cleaned: Cleaned) -> Path:
    """Write the outcome to `output_dir`, atomically, and return the file."""
    path = output_dir / FILE
    write_text(path, msgspec.json.format(msgspec.json.encode(cleaned).decode(), indent=2) + "\n")
    return path


def read_cleaned(output_dir: Path) -> Cleaned | None:
    """Return the outcome that `output_dir` holds, or None if cleaning has not run.

    Raises:
        UserError: the file is damaged.
    """
    path = output_dir / FILE
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(read_bytes(path, CLEAN), type=Cleaned)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}. {CLEAN}") from None
