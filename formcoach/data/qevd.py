"""A folder in QEVD's form, as people have it, turned into labelled clips.

The label file's records are matched with the clips on disk, records of the same clip are joined, and people are looked
up in the release that names them.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec

from formcoach.data.annotations import (
    LabelledClip,
    LabelRecord,
    join_lines,
    parse_label,
    read_labels,
    read_manifest,
)
from formcoach.errors import UserError
from formcoach.files import inside

PEOPLE = "fine_grained_labels_with_worker_ids.json"
LABEL_FILES = ("ground_truth.json", PEOPLE, "fine_grained_labels.json")  # the first that exists is read
MANIFEST = "manifest.json"
VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp"})
NOT_A_CLASS = frozenset({"short_clips", "videos", "clips"})  # folders of the releases that mix all exercises

Value = TypeVar("Value")


@dataclass(frozen=True)
class BadClip:
    """A record that cannot be used.

    Args:
        path: the clip, as the user knows it.
        reason: why, e.g. `no such file`.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class LabelledFolder:
    """What a dataset folder holds.

    Args:
        label_file: the file that the labels come from.
        clips: labelled and on disk, in the order of their paths.
        bad: records without a file or without a label.
        unlisted: clips on disk that no record names.
    """

    label_file: Path
    clips: list[LabelledClip]
    bad: list[BadClip]
    unlisted: list[str]


@dataclass
class ClipIndex:
    """The clips below a folder, found again however a label file spells them.

    Args:
        root: the dataset folder.
        paths: of all its clips, relative, with forward slashes.
    """

    root: Path
    paths: list[str]
    _exact: set[str] = field(init=False, repr=False)
    _by_path: dict[str, list[str]] = field(init=False, repr=False)
    _by_name: dict[str, list[str]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._exact = set(self.paths)
        self._by_path, self._by_name = defaultdict(list), defaultdict(list)
        for path in self.paths:
            self._by_path[_same(path)].append(path)
            self._by_name[_same(PurePosixPath(path).name)].append(path)

    def find(self, written: str) -> str | None:
        """Return the path on disk of what a label file calls `written`, or None.

        `x.mp4`, `./x.mp4`, `class/x.mp4` and `dataset/class/x.mp4` are understood, with accents composed or not.

        Raises:
            UserError: `written` is absolute, climbs out of the folder, or is a bare name that several clips have.
        """
        parts = inside(self.root, written).parts[len(self.root.parts) :]
        spellings = ["/".join(parts)]
        if len(parts) > 1 and parts[0] in ("dataset", self.root.name):
            spellings.append("/".join(parts[1:]))
        for spelling in spellings:
            found = [spelling] if spelling in self._exact else self._by_path.get(_same(spelling), [])
            if found:
                return _only_one(written, found)
        bare = spellings[-1]
        if "/" not in bare and self._by_name.get(_same(bare)):
            return _only_one(written, self._by_name[_same(bare)])
        return bare if (self.root / bare).is_file() else None  # not named like a video, but there


def _same(path: str) -> str:
    """Return a spelling that does not depend on how accents are composed (macOS writes them apart)."""
    return unicodedata.normalize("NFC", path)


def _only_one(written: str, found: Sequence[str]) -> str:
    if len(found) > 1:
        raise UserError(
            f"{written} could be {' or '.join(sorted(found)[:3])}; write the folder before the name in the label file"
        )
    return found[0]


def find_clips(root: Path) -> list[str]:
    """Return the paths of all clips below a folder, sorted; links are followed, each folder once."""
    return sorted(_walk(root, root, set()))


def _walk(root: Path, folder: Path, seen: set[tuple[int, int]]) -> Iterator[str]:
    status = folder.stat()
    if (status.st_dev, status.st_ino) in seen:
        return  # a link that leads back
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(root, folder / entry.name, seen)
            elif PurePosixPath(entry.name).suffix.lower() in VIDEO_SUFFIXES and entry.is_file():
                yield (folder / entry.name).relative_to(root).as_posix()


def find_label_file(dataset_dir: Path) -> Path:
    """Return the label file to read: `ground_truth.json`, else an official one.

    Raises:
        UserError: the folder or the file is missing; says how to get one.
    """
    if not dataset_dir.is_dir():
        raise UserError(
            f"{dataset_dir}: no such folder. Put your clips there (see dataset/README.md) or make a demo: "
            f"python utils/make_demo_dataset.py --output-dir {dataset_dir}"
        )
    for name in LABEL_FILES:
        if (dataset_dir / name).exists():
            return dataset_dir / name
    raise UserError(
        f"{dataset_dir / LABEL_FILES[0]}: no such file, nor {' or '.join(LABEL_FILES[1:])}. Write it as in "
        "dataset/README.md, or name another label file with --labels"
    )


def read_folder(dataset_dir: Path, labels: Path | None = None) -> LabelledFolder:
    """Return the labelled clips of a dataset folder.

    Args:
        dataset_dir: holds the clips, the label file and perhaps `manifest.json`.
        labels: the label file, when it is not one of the usual names in that folder.

    Raises:
        UserError: a file is missing or malformed, or a record's path is ambiguous or leads outside the folder.
    """
    label_file = find_label_file(dataset_dir) if labels is None else labels
    records = read_labels(label_file)
    index = ClipIndex(dataset_dir, find_clips(dataset_dir))
    by_clip, bad = _match(label_file, records, index)
    people = _people(dataset_dir, label_file, records, index)
    classes = _classes(dataset_dir, index)
    clips = []
    for path in sorted(by_clip):
        clip = _labelled_clip(label_file, path, by_clip[path], people.get(path), classes.get(path))
        if clip.answer:
            clips.append(clip)
        else:
            bad.append(BadClip(str(dataset_dir / path), f"has no labels in {label_file}"))
    bad.sort(key=lambda clip: clip.path)
    return LabelledFolder(label_file, clips, bad, [path for path in index.paths if path not in by_clip])


def _match(
    label_file: Path, records: Sequence[LabelRecord], index: ClipIndex
) -> tuple[dict[str, list[LabelRecord]], list[BadClip]]:
    """Return the records of each clip on disk, and those that have none."""
    by_clip: dict[str, list[LabelRecord]] = defaultdict(list)
    missing: dict[str, BadClip] = {}
    for number, record in enumerate(records, start=1):
        try:
            path = index.find(record.video_path)
        except UserError as error:
            raise UserError(f"{label_file}: record {number} (counting from 1): {error}") from None
        if path is None:
            name = str(inside(index.root, record.video_path))
            missing[name] = BadClip(name, "no such file")
        else:
            by_clip[path].append(record)
    return by_clip, list(missing.values())


def _labelled_clip(
    label_file: Path, path: str, records: Sequence[LabelRecord], person: str | None, folder_class: str | None
) -> LabelledClip:
    """Join the records of one clip; their order in the file does not matter."""
    records = sorted(records, key=msgspec.json.encode)
    labels = dict.fromkeys(label.strip() for record in records for label in record.labels if label.strip())
    answer = join_lines([line for record in records for line in record.answer.split("\n")])
    own = [str(record.worker_id) for record in records if record.worker_id is not None]
    return LabelledClip(
        path=path,
        labels=tuple(labels) or tuple(answer.split("\n")[:1]),
        answer=answer,
        exercise=_exercise(next(iter(labels), answer), path, folder_class),
        person=_agreed(label_file, path, "worker_id", own) or person,
        split=_agreed(label_file, path, "split", [record.split for record in records if record.split]),
    )


def _agreed(label_file: Path, path: str, what: str, values: Sequence[str]) -> str | None:
    distinct = sorted(set(values))
    if len(distinct) > 1:
        raise UserError(f"{label_file}: the records of {path} differ in {what}: {', '.join(distinct)}. Correct one")
    return distinct[0] if distinct else None


def _exercise(label: str, path: str, folder_class: str | None) -> str:
    """Return the exercise's name: the label's part before ` - `, else the class, else the folder, else the label."""
    exercise, seen = parse_label(label)
    folder = PurePosixPath(path).parent.name
    if seen and exercise:
        return exercise
    if folder_class:
        return folder_class.replace("_", " ")
    if folder and folder not in NOT_A_CLASS:
        return folder.replace("_", " ")
    return exercise or label


def _people(dataset_dir: Path, label_file: Path, records: Sequence[LabelRecord], index: ClipIndex) -> dict[str, str]:
    """Return who is in each clip, from the release that says it where the label file itself does not."""
    file = dataset_dir / PEOPLE
    if any(record.worker_id is not None for record in records) or label_file == file or not file.exists():
        return {}
    by_clip, _ = _match(file, [record for record in read_labels(file) if record.worker_id is not None], index)
    people = {
        path: _agreed(file, path, "worker_id", [str(record.worker_id) for record in named])
        for path, named in by_clip.items()
    }
    return {path: person for path, person in people.items() if person is not None}


def _classes(dataset_dir: Path, index: ClipIndex) -> dict[str, str]:
    """Return the class that `manifest.json` gives each clip; there need not be one."""
    file = dataset_dir / MANIFEST
    if not file.exists():
        return {}
    classes = {}
    for written, entry in read_manifest(file).items():
        try:
            path = index.find(written)
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        name = entry.class_ or PurePosixPath(written).parent.name  # the seeds' derived clips have only a folder
        if path is not None and name:
            classes[path] = name
    return classes
