"""A folder in QEVD's form, as people have it, turned into labelled clips.

The records of the label files are matched with the clips on disk, records of the same clip are joined, people are
looked up in the release that names them, and clips that were derived from others take their labels from them.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec

from formcoach.data.annotations import (
    FEEDBACK,
    LONG_RANGE,
    LONG_RANGE_MESSAGE,
    QUESTIONS,
    FeedbackRecord,
    LabelledClip,
    LabelRecord,
    ManifestEntry,
    QuestionRecord,
    join_lines,
    parse_label,
    read_feedback,
    read_labels,
    read_manifest,
    read_questions,
)
from formcoach.data.clip_index import NOT_A_CLASS, ClipIndex, find_clips
from formcoach.data.derived import derive
from formcoach.errors import UserError
from formcoach.files import inside

PEOPLE = "fine_grained_labels_with_worker_ids.json"
LABEL_FILES = ("ground_truth.json", PEOPLE, "fine_grained_labels.json")  # the first that exists is read
MANIFEST = "manifest.json"
UNNAMED = "exercise"  # where nothing names it
LABELS_ONLY, FEEDBACK_ONLY, QUESTIONS_ONLY, ALL = ANSWERS = ("labels", "feedback", "questions", "all")

Record = TypeVar("Record", LabelRecord, FeedbackRecord, QuestionRecord)


@dataclass(frozen=True)
class BadClip:
    """A clip that is not used.

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
        label_file: the file that the labels come from; of several, the first.
        clips: labelled and on disk, in the order of their paths.
        bad: records without a file or without a label.
        unlisted: clips on disk that no record names.
        unanswered: clips that have no answer of the kind that was asked for, and why.
        notices: what else is worth knowing, a sentence each.
    """

    label_file: Path
    clips: list[LabelledClip]
    bad: list[BadClip]
    unlisted: list[str]
    unanswered: list[BadClip]
    notices: list[str]


@dataclass(frozen=True)
class _Release:
    """The records of all files that were read, by clip; a file that is not there has none.

    Args:
        file: the label file, or the file that stands in for it.
        labels: the label file's records.
        feedback: what coaches said.
        questions: with their answers.
        missing: clips of the label file that are not there, by their path as written.
        absent: clips of QEVD's other files that are not there: they name all that was ever released.
        repeated: how many records say what another one says.
    """

    file: Path
    labels: Mapping[str, list[LabelRecord]]
    feedback: Mapping[str, list[FeedbackRecord]]
    questions: Mapping[str, list[QuestionRecord]]
    missing: dict[str, BadClip]
    absent: dict[str, BadClip]
    repeated: int


def check_folder(dataset_dir: Path) -> None:
    """Raise a `UserError` that says how to get one if there is no dataset folder."""
    if not dataset_dir.is_dir():
        raise UserError(
            f"{dataset_dir}: no such folder. Put your clips there (see dataset/README.md) or make a demo: "
            f"python utils/make_demo_dataset.py --dataset-dir {dataset_dir}"
        )


def find_label_file(dataset_dir: Path) -> Path:
    """Return the label file to read: `ground_truth.json`, else an official one.

    Raises:
        UserError: the folder or the file is missing; says how to get one.
    """
    check_folder(dataset_dir)
    for name in LABEL_FILES:
        if (dataset_dir / name).exists():
            return dataset_dir / name
    if (dataset_dir / LONG_RANGE).exists():
        raise UserError(LONG_RANGE_MESSAGE.format(path=dataset_dir / LONG_RANGE))
    others = {FEEDBACK: FEEDBACK_ONLY, QUESTIONS: QUESTIONS_ONLY}
    there = [name for name in others if (dataset_dir / name).exists()]
    instead = f". For {there[0]} alone pass --answers {others[there[0]]}" if there else ""
    raise UserError(
        f"{dataset_dir / LABEL_FILES[0]}: no such file, nor {' or '.join(LABEL_FILES[1:])}. Write it as in "
        f"dataset/README.md, or name another label file with --labels{instead}"
    )


def read_folder(dataset_dir: Path, labels: Path | None = None, answers: str = LABELS_ONLY) -> LabelledFolder:
    """Return the labelled clips of a dataset folder.

    Args:
        dataset_dir: holds the clips, the label files and perhaps `manifest.json`.
        labels: the label file, when it is not one of the usual names in that folder.
        answers: what the clips are to be answered with, one of `ANSWERS`.

    Raises:
        UserError: a file is missing or malformed, or a record's path is ambiguous or leads outside the folder.
    """
    if labels is None and answers in (LABELS_ONLY, ALL):
        find_label_file(dataset_dir)  # before the clips are looked for, which takes longer
    index = ClipIndex(dataset_dir, find_clips(dataset_dir) if dataset_dir.is_dir() else [])
    release = _read_release(dataset_dir, labels, answers, index)
    manifest = _manifest(dataset_dir, index)
    people = _people(dataset_dir, release, index)
    named = sorted(release.labels.keys() | release.feedback.keys() | release.questions.keys())
    labelled = [_labelled_clip(release, path, people.get(path), manifest.get(path)) for path in named]
    labelled, orphans = derive(labelled, {path: entry for path, entry in manifest.items() if entry.source is not None})
    clips, bad = [], list(release.missing.values())
    unanswered = [*release.absent.values(), *(BadClip(*orphan) for orphan in orphans)]
    for clip in labelled:
        if _has_answer(clip, answers):
            clips.append(clip)
        elif answers == LABELS_ONLY:
            bad.append(BadClip(clip.path, f"has no labels in {release.file}"))
        else:
            unanswered.append(BadClip(clip.path, f"has no {'answer' if answers == ALL else answers}"))
    known = {*named, *(path for path, entry in manifest.items() if entry.source is not None)}
    bad.sort(key=lambda clip: clip.path)
    return LabelledFolder(
        release.file,
        clips,
        bad,
        [path for path in index.paths if path not in known],
        sorted(unanswered, key=lambda clip: clip.path),
        _notices(dataset_dir, release),
    )


def _has_answer(clip: LabelledClip, answers: str) -> bool:
    has = {LABELS_ONLY: bool(clip.answer), FEEDBACK_ONLY: bool(clip.feedback), QUESTIONS_ONLY: bool(clip.questions)}
    return any(has.values()) if answers == ALL else has[answers]


def _read_release(dataset_dir: Path, labels: Path | None, answers: str, index: ClipIndex) -> _Release:
    """Read the files that are needed for `answers`, and the label file in any case if it is there."""
    missing: dict[str, BadClip] = {}
    absent: dict[str, BadClip] = {}
    file, records = labels, []
    there = any((dataset_dir / name).exists() for name in LABEL_FILES)
    if labels is not None or there or answers in (LABELS_ONLY, ALL):
        file = labels or find_label_file(dataset_dir)
        records = read_labels(file)
    feedback = _read_if(dataset_dir / FEEDBACK, answers in (FEEDBACK_ONLY, ALL), answers == ALL, read_feedback)
    questions = _read_if(dataset_dir / QUESTIONS, answers in (QUESTIONS_ONLY, ALL), answers == ALL, read_questions)
    by_clip = _match(file, records, index, missing) if file else {}
    if answers in (FEEDBACK_ONLY, QUESTIONS_ONLY):
        missing.clear()  # labels of clips that are not there matter only where labels are the answer
    return _Release(
        file or dataset_dir / (FEEDBACK if feedback else QUESTIONS),
        by_clip,
        _match(dataset_dir / FEEDBACK, feedback, index, absent),
        _match(dataset_dir / QUESTIONS, questions, index, absent),
        missing,
        {path: clip for path, clip in absent.items() if path not in missing},
        sum(len(group) - len(set(map(msgspec.json.encode, group))) for group in by_clip.values() if len(group) > 1),
    )


def _read_if(path: Path, wanted: bool, optional: bool, read: Callable[[Path], list[Record]]) -> list[Record]:
    return read(path) if wanted and (path.exists() or not optional) else []


def _match(
    file: Path, records: Sequence[Record], index: ClipIndex, missing: dict[str, BadClip]
) -> dict[str, list[Record]]:
    """Return the records of each clip on disk; those that have none are added to `missing`."""
    by_clip: dict[str, list[Record]] = defaultdict(list)
    for number, record in enumerate(records, start=1):
        try:
            path = index.find(record.video_path)
        except UserError as error:
            raise UserError(f"{file}: record {number} (counting from 1): {error}") from None
        if path is None:
            name = str(inside(Path(), record.video_path))
            missing[name] = BadClip(name, "no such file")
        else:
            by_clip[path].append(record)
    return by_clip


def _labelled_clip(release: _Release, path: str, person: str | None, entry: ManifestEntry | None) -> LabelledClip:
    """Join the records of one clip; their order in the files does not matter."""
    records = _in_order(release.labels.get(path, []))
    feedback = _in_order(release.feedback.get(path, []))
    questions = _in_order(release.questions.get(path, []))
    labels = dict.fromkeys(label.strip() for record in records for label in record.labels if label.strip())
    answer = join_lines([line for record in records for line in record.answer.split("\n")])
    own = [str(record.worker_id) for record in records if record.worker_id is not None]
    splits = [record.split for record in (*records, *feedback, *questions) if record.split]
    return LabelledClip(
        path=path,
        labels=tuple(labels) or tuple(answer.split("\n")[:1] if answer else ()),
        answer=answer,
        exercise=name_exercise(next(iter(labels), answer), path, entry.class_ if entry else None),
        person=_agreed(release.file, path, "worker_id", own) or person,
        split=_agreed(release.file, path, "split", splits),
        feedback=join_lines([line for record in feedback for line in record.lines]),
        questions=tuple(dict.fromkeys(pair for record in questions for pair in record.pairs)),
    )


def _in_order(records: Sequence[Record]) -> Sequence[Record]:
    return sorted(records, key=msgspec.json.encode) if len(records) > 1 else records


def _agreed(file: Path, path: str, what: str, values: Sequence[str]) -> str | None:
    distinct = sorted(set(values))
    if len(distinct) > 1:
        raise UserError(f"{file}: the records of {path} differ in {what}: {', '.join(distinct)}. Correct one")
    return distinct[0] if distinct else None


def name_exercise(label: str, path: str, folder_class: str | None) -> str:
    """Return the exercise's name: the label's part before ` - `, else the class, else the folder, else the label.

    Args:
        label: the first of the clip's; may be empty.
        path: of the clip, in the dataset folder.
        folder_class: what `manifest.json` says.
    """
    exercise, seen = parse_label(label)
    folder = PurePosixPath(path).parent.name
    if seen and exercise:
        return exercise
    if folder_class:
        return folder_class.replace("_", " ")
    if folder and folder not in NOT_A_CLASS:
        return folder.replace("_", " ")
    return exercise or label or UNNAMED


def _people(dataset_dir: Path, release: _Release, index: ClipIndex) -> dict[str, str]:
    """Return who is in each clip, from the release that says it where the label file itself does not."""
    file = dataset_dir / PEOPLE
    said = any(record.worker_id is not None for records in release.labels.values() for record in records)
    if said or release.file == file or not file.exists():
        return {}
    by_clip = _match(file, [record for record in read_labels(file) if record.worker_id is not None], index, {})
    people = {
        path: _agreed(file, path, "worker_id", [str(record.worker_id) for record in named])
        for path, named in by_clip.items()
    }
    return {path: person for path, person in people.items() if person is not None}


def manifest_entries(dataset_dir: Path, index: ClipIndex) -> Iterator[tuple[str, str, ManifestEntry]]:
    """Yield what `manifest.json`, if there is one, says about each clip on disk.

    Args:
        dataset_dir: the dataset folder.
        index: of its clips.

    Yields:
        The clip's path, the path as written, and the entry, its source as the disk spells it.

    Raises:
        UserError: the file is malformed, or a path is ambiguous or leads outside the folder.
    """
    file = dataset_dir / MANIFEST
    for written, entry in (read_manifest(file) if file.exists() else {}).items():
        try:
            path = index.find(written)
            source = None if entry.source is None else index.find(entry.source) or str(inside(Path(), entry.source))
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        if path is not None:
            yield path, written, msgspec.structs.replace(entry, source=source)


def _manifest(dataset_dir: Path, index: ClipIndex) -> dict[str, ManifestEntry]:
    """Return the entries by clip; one without a class has that of its folder, which is all that the seeds' have."""
    return {
        path: msgspec.structs.replace(entry, class_=entry.class_ or PurePosixPath(written).parent.name or None)
        for path, written, entry in manifest_entries(dataset_dir, index)
    }


def _notices(dataset_dir: Path, release: _Release) -> list[str]:
    notices = []
    if release.repeated:
        notices.append(f"{release.repeated} records of {release.file} repeat another one; each counts once")
    if (dataset_dir / LONG_RANGE).exists():
        notices.append(LONG_RANGE_MESSAGE.format(path=dataset_dir / LONG_RANGE))
    return notices
