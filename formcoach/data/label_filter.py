"""A label file with only the records that are wanted: clips on disk, some exercises, visible, clean."""

import filecmp
import os
import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from formcoach.data.annotations import LONG_RANGE, LONG_RANGE_MESSAGE, LabelRecord
from formcoach.data.clip_index import NOT_A_CLASS, ClipIndex, find_clips
from formcoach.data.kept import FILE as KEPT
from formcoach.data.kept import read_cleaned
from formcoach.data.qevd import find_label_file, manifest_entries
from formcoach.data.selection import exercise_of, pick_names, same_name
from formcoach.errors import UserError
from formcoach.files import read_json, write_json

NOT_VISIBLE = "not visible"
REMEDY = "Check it: python utils/fix_manifest_format.py {}"


@dataclass(frozen=True)
class Criteria:
    """Which records are kept; each must fit all of it, and its clip must be on disk.

    Args:
        exercises: only these; none named: all.
        exclude: not these.
        splits: only these; none named: all.
        drop_not_visible: labels that end in "not visible" go, and records that have none left.
        min_clips: exercises with fewer clips, after all else, go.
        cleaned: folder with cleaning's outcome: only clips that it kept.
    """

    exercises: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    drop_not_visible: bool = False
    min_clips: int = 1
    cleaned: Path | None = None


@dataclass(frozen=True)
class Filtered:
    """What a filter left.

    Args:
        label_file: that was read.
        output: that was written.
        backup: of the label file, where it was filtered in place.
        before: records that were read.
        records: records that are left.
        clips: clips that they name.
        dropped: reason -> records dropped for it, in the order of the checks.
        labels_dropped: labels dropped from records that are left.
    """

    label_file: Path
    output: Path
    backup: Path | None
    before: int
    records: int
    clips: int
    dropped: dict[str, int]
    labels_dropped: int


@dataclass
class _Record:
    """A record on its way: as it is in the file, its clip and its exercise."""

    raw: dict[str, Any]
    clip: str
    exercise: str
    split: str | None


def filter_labels(dataset_dir: Path, labels: Path | None, output: Path | None, criteria: Criteria) -> Filtered:
    """Write the records that are wanted; they keep their order and all their fields.

    Args:
        dataset_dir: holds the clips.
        labels: the label file; None: the one that is read from that folder by default.
        output: gets the records; None: the label file itself, which is kept as `.bak`.
        criteria: what is wanted.

    Raises:
        UserError: the label file is malformed, a name is unknown, nothing is left, or `output` is the label file.
    """
    label_file = find_label_file(dataset_dir) if labels is None else labels
    if output is not None and output.exists() and (output.is_dir() or output.samefile(label_file)):
        raise UserError(f"{output}: is the label file or a folder; name another file, or pass --in-place")
    raw = _read(label_file)
    index = ClipIndex(dataset_dir, find_clips(dataset_dir))
    records = _on_disk(label_file, raw, index, _classes(dataset_dir, index))
    dropped = {"clip not on disk": len(raw) - len(records)}
    records = _of_split(label_file, records, criteria.splits, dropped)
    records = _of_exercise(records, criteria, dropped)
    if criteria.cleaned is not None:
        kept = _kept(criteria.cleaned)
        records = _only(records, [record.clip in kept for record in records], "not kept by cleaning", dropped)
    labels_dropped = 0
    if criteria.drop_not_visible:
        records, labels_dropped = _visible(records, dropped)
    records = _frequent(records, criteria.min_clips, dropped)
    if not records:
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count)
        raise UserError(f"{label_file}: no record would be left ({why}); nothing was written")
    backup = keep_backup(label_file) if output is None else None
    written = output or Path(os.path.realpath(label_file))
    write_json(written, [record.raw for record in records])
    return Filtered(
        label_file=label_file,
        output=written,
        backup=backup,
        before=len(raw),
        records=len(records),
        clips=len({record.clip for record in records}),
        dropped=dropped,
        labels_dropped=labels_dropped,
    )


def keep_backup(path: Path) -> Path:
    """Keep a file as `.bak`, `.bak2` and so on, the first name that is free, and return that; equal ones are reused."""
    path = Path(os.path.realpath(path))
    number = 1
    while True:
        backup = path.with_name(f"{path.name}.bak{'' if number == 1 else number}")
        try:
            backup.hardlink_to(path)  # it is renamed over, not written to: the backup is the old file
        except FileExistsError:
            if backup.is_file() and filecmp.cmp(backup, path, shallow=False):
                return backup
            number += 1
        except OSError:  # the disk knows no links
            with backup.open("xb") as copy, path.open("rb") as original:
                shutil.copyfileobj(original, copy)
            return backup
        else:
            return backup


def _read(label_file: Path) -> list[dict[str, Any]]:
    if label_file.name == LONG_RANGE:
        raise UserError(LONG_RANGE_MESSAGE.format(path=label_file))
    remedy = REMEDY.format(label_file)
    records = read_json(label_file, remedy)
    if not isinstance(records, list):
        raise UserError(f"{label_file}: holds no list of records. {remedy}")
    for number, record in enumerate(records, start=1):
        try:
            msgspec.convert(record, LabelRecord)
        except msgspec.ValidationError as error:
            raise UserError(f"{label_file}: record {number} (counting from 1): {error}. {remedy}") from None
    return records


def _on_disk(
    label_file: Path, raw: Sequence[dict[str, Any]], index: ClipIndex, classes: dict[str, str]
) -> list[_Record]:
    records = []
    for number, record in enumerate(raw, start=1):
        try:
            clip = index.find(record["video_path"])
        except UserError as error:
            raise UserError(f"{label_file}: record {number} (counting from 1): {error}") from None
        if clip is not None:
            records.append(_Record(record, clip, _exercise(record, clip, classes), record.get("split")))
    return records


def _exercise(record: dict[str, Any], clip: str, classes: dict[str, str]) -> str:
    """Return the exercise that the first label names, else the clip's class, else its folder."""
    named = exercise_of(record.get("labels", [])) or classes.get(clip)
    if named:
        return named
    folder = clip.rpartition("/")[0].rpartition("/")[2]
    return "" if folder in NOT_A_CLASS else folder


def _classes(dataset_dir: Path, index: ClipIndex) -> dict[str, str]:
    return {path: entry.class_ for path, _, entry in manifest_entries(dataset_dir, index) if entry.class_}


def _only(records: list[_Record], wanted: Sequence[bool], reason: str, dropped: dict[str, int]) -> list[_Record]:
    dropped[reason] = len(records) - sum(wanted)
    return [record for record, is_wanted in zip(records, wanted, strict=True) if is_wanted]


def _of_split(
    label_file: Path, records: list[_Record], splits: Collection[str], dropped: dict[str, int]
) -> list[_Record]:
    if not splits:
        return records
    there = sorted({record.split for record in records if record.split})
    for split in splits:
        if split not in there:
            raise UserError(f"{label_file}: no record of split {split!r}; there is: {', '.join(there) or 'no split'}")
    return _only(records, [record.split in splits for record in records], "of another split", dropped)


def _of_exercise(records: list[_Record], criteria: Criteria, dropped: dict[str, int]) -> list[_Record]:
    names = sorted({record.exercise for record in records})
    if criteria.exercises:
        wanted = set(pick_names(names, criteria.exercises, "exercise"))
        records = _only(records, [record.exercise in wanted for record in records], "of another exercise", dropped)
    if criteria.exclude:
        unwanted = set(pick_names(names, criteria.exclude, "exercise"))
        kept = [record.exercise not in unwanted for record in records]
        records = _only(records, kept, "of an excluded exercise", dropped)
    return records


def _kept(output_dir: Path) -> set[str]:
    cleaned = read_cleaned(output_dir)
    if cleaned is None:
        raise UserError(f"{output_dir / KEPT}: no such file. Run: python utils/clean_dataset.py")
    return set(cleaned.kept)


def _visible(records: list[_Record], dropped: dict[str, int]) -> tuple[list[_Record], int]:
    left, labels_dropped = [], 0
    for record in records:
        raw, count = without_not_visible(record.raw)
        if raw is not None:
            left.append(_Record(raw, record.clip, record.exercise, record.split))
            labels_dropped += count
    dropped["nothing visible"] = len(records) - len(left)
    return left, labels_dropped


def without_not_visible(record: dict[str, Any]) -> tuple[dict[str, Any] | None, int]:
    """Return a record without labels that end in "not visible", and how many those are; None if none is left.

    `labels_descriptive` follows: where it has as many entries (or lines) as there are labels, those of dropped labels
    go, and any that ends in "not visible" itself.
    """
    labels = record.get("labels") or []
    gone = [is_not_visible(label) for label in labels]
    descriptive = record.get("labels_descriptive")
    lines = descriptive.split("\n") if isinstance(descriptive, str) else descriptive or []
    lines_gone = [is_not_visible(line) for line in lines]
    if len(lines) == len(labels):
        lines_gone = [one or other for one, other in zip(gone, lines_gone, strict=True)]
    if not any(gone) and not any(lines_gone):
        return record, 0
    left = [label for label, is_gone in zip(labels, gone, strict=True) if not is_gone]
    lines_left = [line for line, is_gone in zip(lines, lines_gone, strict=True) if not is_gone]
    if not left and (labels or not lines_left):
        return None, 0
    changed = record | {"labels": left} if labels else dict(record)
    if any(lines_gone):
        changed["labels_descriptive"] = "\n".join(lines_left) if isinstance(descriptive, str) else lines_left
    return changed, sum(gone) or sum(lines_gone)


def is_not_visible(label: str) -> bool:
    """Tell whether a label says that something could not be seen."""
    return same_name(label).rstrip(".! ").endswith(NOT_VISIBLE)


def _frequent(records: list[_Record], least: int, dropped: dict[str, int]) -> list[_Record]:
    if least <= 1:
        return records
    clips = Counter(exercise for exercise, _ in {(record.exercise, record.clip) for record in records})
    kept = [clips[record.exercise] >= least for record in records]
    return _only(records, kept, f"of an exercise with fewer than {least} clips", dropped)
