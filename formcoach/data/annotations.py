"""The label and conversation files as typed records."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from formcoach.errors import UserError
from formcoach.files import parse_json, read_bytes, read_json, read_json_bytes, write_text

IMAGE = "<image>\n"  # what the public recipe expects in front of the question, in place of the clip
MOBILE_PREFIX = "dataset/"  # in front of paths in Mobile-VideoGPT's form, which start at the project's folder
PREPARE = "Run: bash scripts/initialize_dataset.sh"
FEEDBACK = "feedbacks_short_clips.json"
QUESTIONS = "questions.json"
LONG_RANGE = "feedbacks_long_range.json"
LONG_RANGE_MESSAGE = (
    "{path}: holds feedback on sessions of minutes (FIT-COACH), which are not trained on yet. "
    "Leave it there; for short clips use fine_grained_labels.json"
)

Record = TypeVar("Record", bound=msgspec.Struct)


class LabelRecord(msgspec.Struct, frozen=True):
    """A record of `fine_grained_labels*.json` or `ground_truth.json`.

    Args:
        video_path: as written there; may start with `./` or `dataset/`, or be a bare file name.
        labels: each `exercise - what was seen`.
        labels_descriptive: the same in full sentences.
        split: `train` or `test`, where the release states it.
        worker_id: the person in the clip.
    """

    video_path: str
    labels: list[str] = []
    labels_descriptive: str | list[str] | None = None
    split: str | None = None
    worker_id: str | int | None = None

    @property
    def answer(self) -> str:
        """What a coach says: the descriptive labels, else the labels; one a line."""
        descriptive = self.labels_descriptive or []
        lines = [descriptive] if isinstance(descriptive, str) else descriptive
        return join_lines(lines) or join_lines(self.labels)


class FeedbackRecord(msgspec.Struct, frozen=True):
    """A record of `feedbacks_short_clips.json`.

    Args:
        video_path: as for `LabelRecord`.
        feedback: what a coach said.
        split: `train` or `test`.
    """

    video_path: str
    feedback: str | list[str] = []
    split: str | None = None

    @property
    def lines(self) -> list[str]:
        """What was said, a sentence or two each."""
        return [self.feedback] if isinstance(self.feedback, str) else self.feedback


class Questions(msgspec.Struct, frozen=True):
    """Questions about a clip and their answers, in the same order.

    Args:
        query: the questions.
        response: the answers.
        query_type: what each question is about; not used.
    """

    query: list[str] = []
    response: list[str] = []
    query_type: list[str] = []


class QuestionRecord(msgspec.Struct, frozen=True):
    """A record of `questions.json`.

    Args:
        video_path: as for `LabelRecord`.
        high_level: about the exercise as a whole.
        fine_grain: about details.
        split: `train` or `test`.
    """

    video_path: str
    high_level: Questions = Questions()
    fine_grain: Questions = Questions()
    split: str | None = None

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All questions with their answers, without those that are blank."""
        both = [*zip(self.high_level.query, self.high_level.response, strict=True)]
        both += zip(self.fine_grain.query, self.fine_grain.response, strict=True)
        return [(query.strip(), response.strip()) for query, response in both if query.strip() and response.strip()]


class ManifestEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `manifest.json` says about a clip, where that is more than its class.

    Args:
        class_: the exercise; `class` in the file.
        source: the clip that this one was derived from, relative to the dataset folder.
        augmentations: what was done to the source, by name, each with its parameter.
    """

    class_: str | None = msgspec.field(name="class", default=None)
    source: str | None = None
    augmentations: dict[str, float] = {}


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """A clip on disk and what is known about it.

    Args:
        path: relative to the dataset folder, with forward slashes, as the disk spells it.
        labels: each `exercise - what was seen`.
        answer: the labels as a coach would say them; empty for a clip that has only feedback or questions.
        exercise: the exercise's name.
        person: who is in the clip.
        split: the official split.
        source: the clip that this one was derived from.
        feedback: what a coach said, one a line.
        questions: about the clip, each with its answer.
    """

    path: str
    labels: tuple[str, ...]
    answer: str
    exercise: str
    person: str | None = None
    split: str | None = None
    source: str | None = None
    feedback: str = ""
    questions: tuple[tuple[str, str], ...] = ()


class Turn(msgspec.Struct, frozen=True):
    """One side's words."""

    speaker: Literal["human", "gpt"] = msgspec.field(name="from")
    value: str


class Conversation(msgspec.Struct, frozen=True, omit_defaults=True):
    """A question about a clip and its answer: a line of the training files.

    Args:
        id: names the conversation.
        video: the clip, relative to the source's root.
        conversations: a human turn that starts with `<image>` and a line break, then a gpt turn.
        duration: seconds of the clip.
        labels: each `exercise - what was seen`.
        person: who is in the clip.
        split: the split that the conversation belongs to, where the file states it.
    """

    id: str
    video: str
    conversations: list[Turn]
    duration: float
    labels: list[str] = []
    person: str | None = None
    split: str | None = None

    @property
    def question(self) -> str:
        """What is asked, without the mark that stands for the clip."""
        return self.conversations[0].value.removeprefix(IMAGE)

    @property
    def answer(self) -> str:
        """What is answered."""
        return self.conversations[1].value


def join_lines(texts: Sequence[str]) -> str:
    """Join the texts that are not blank, stripped, one a line and each once."""
    return "\n".join(dict.fromkeys(text.strip() for text in texts if text.strip()))


def parse_label(label: str) -> tuple[str, str]:
    """Split `squats - not low enough` into exercise and what was seen, at the first ` - `; the latter may be empty."""
    exercise, _, seen = label.partition(" - ")
    return exercise.strip(), seen.strip()


def read_labels(path: Path) -> list[LabelRecord]:
    """Return the records of a label file in the order of the file.

    Raises:
        UserError: the file is missing, not JSON (names line and column), has a record of another form (names it), or
            is one of QEVD's other files.
    """
    if path.name == LONG_RANGE:
        raise UserError(LONG_RANGE_MESSAGE.format(path=path))
    records = _read_records(path, LabelRecord, "It is the list of clips and their labels; dataset/README.md shows one.")
    if not any(record.labels or record.labels_descriptive for record in records):
        _refuse_other_releases(path)
    return records


def read_feedback(path: Path) -> list[FeedbackRecord]:
    """Return the records of `feedbacks_short_clips.json`; raises as `read_labels`."""
    return _read_records(path, FeedbackRecord, "It is part of QEVD and needed for --answers feedback.")


def read_questions(path: Path) -> list[QuestionRecord]:
    """Return the records of `questions.json`.

    Raises:
        UserError: as `read_labels`, or a record has not as many answers as questions.
    """
    records = _read_records(path, QuestionRecord, "It is part of QEVD and needed for --answers questions.")
    for number, record in enumerate(records, start=1):
        for kind in ("high_level", "fine_grain"):
            asked, answered = len(getattr(record, kind).query), len(getattr(record, kind).response)
            if asked != answered:
                raise UserError(
                    f"{path}: record {number} (counting from 1): {kind} has {asked} queries and {answered} responses. "
                    "Give each query its response"
                )
    return records


def _read_records(path: Path, kind: type[Record], remedy: str) -> list[Record]:
    data = read_json_bytes(path, remedy)
    try:
        records = msgspec.json.decode(data, type=list[kind])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        records = []  # the slow way names the place
    if not records or not all(record.video_path for record in records):
        raw = parse_json(path, data, remedy)
        if not isinstance(raw, list):
            raise UserError(f"{path}: holds no list of records. dataset/README.md shows the form.")
        if not raw:
            raise UserError(f"{path}: lists no clips. dataset/README.md shows the form.")
        records = [_record(path, number, record, kind) for number, record in enumerate(raw, start=1)]
    return records


def _record(path: Path, number: int, record: Any, kind: type[Record]) -> Record:
    if isinstance(record, dict) and not record.get("video_path"):
        raise UserError(
            f"{path}: record {number} (counting from 1) has no video_path. Add the clip's path or remove the record."
        )
    try:
        typed = msgspec.convert(record, kind)
        msgspec.json.encode(typed)
    except msgspec.ValidationError as error:
        raise UserError(
            f"{path}: record {number} (counting from 1): {error}. dataset/README.md shows the form."
        ) from None
    except UnicodeEncodeError:
        raise UserError(
            f"{path}: record {number} (counting from 1) has half a character (an escape like \\ud83d alone). Correct it"
        ) from None
    return typed


def _refuse_other_releases(path: Path) -> None:
    """Name the file if it is one of QEVD's that holds no labels."""
    first = parse_json(path, read_json_bytes(path, PREPARE), PREPARE)[0]
    if "feedback_timestamps" in first:
        raise UserError(LONG_RANGE_MESSAGE.format(path=path))
    for field, name, answers in (
        ("feedback", FEEDBACK, "feedback"),
        ("high_level", QUESTIONS, "questions"),
        ("fine_grain", QUESTIONS, "questions"),
    ):
        if field in first:
            raise UserError(
                f"{path}: holds no labels; it is QEVD's {name}. Put it under that name into the dataset folder and "
                f"pass --answers {answers}"
            )


def read_manifest(path: Path) -> dict[str, ManifestEntry]:
    """Return `manifest.json`: from a clip's path, as written there, to its class and, of a derived clip, its source."""
    manifest = read_json(path, "It maps clips to classes; it may be left out.")
    try:
        entries = msgspec.convert(manifest, dict[str, str | ManifestEntry])
        return {clip: ManifestEntry(entry) if isinstance(entry, str) else entry for clip, entry in entries.items()}
    except msgspec.ValidationError as error:
        raise UserError(f'{path}: {error}. It reads {{"class/clip.mp4": "class", ...}}; it may be left out.') from None


def read_conversations(path: Path) -> list[Conversation]:
    """Return the conversations of a `.jsonl` file (one a line) or a `.json` file (a list: Mobile-VideoGPT's form).

    In the latter, `dataset/` in front of a clip's path stands for the folder of the clips and is left out.

    Raises:
        UserError: the file is missing, not JSON, or has a record of another form; names line and field.
    """
    if path.suffix == ".json":
        raw = read_json(path, PREPARE)
        if not isinstance(raw, list):
            raise UserError(f"{path}: holds no list of conversations. {PREPARE}")
        records = [_conversation(path, f"record {number}", record) for number, record in enumerate(raw, start=1)]
        return [msgspec.structs.replace(one, video=one.video.removeprefix(MOBILE_PREFIX)) for one in records]
    lines = read_bytes(path, PREPARE).split(b"\n")
    return [_parse_line(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _parse_line(path: Path, number: int, line: bytes) -> Conversation:
    with suppress(msgspec.MsgspecError, UnicodeDecodeError):  # the slow way names the place
        return _checked(path, f"line {number}", msgspec.json.decode(line, type=Conversation))
    try:
        record = json.loads(line.decode("utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: is not JSON: {error.msg} at line {number}, column {error.colno}. {PREPARE}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: line {number} is not UTF-8 text. {PREPARE}") from None
    return _conversation(path, f"line {number}", record)


def _conversation(path: Path, place: str, record: Any) -> Conversation:
    try:
        conversation = msgspec.convert(record, Conversation)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {place}: {error}. {PREPARE}") from None
    return _checked(path, place, conversation)


def _checked(path: Path, place: str, conversation: Conversation) -> Conversation:
    if [turn.speaker for turn in conversation.conversations] != ["human", "gpt"]:
        raise UserError(f"{path}: {place}: conversations must be one human turn and one gpt turn. {PREPARE}")
    return conversation


def write_conversations(path: Path, records: Sequence[Conversation]) -> None:
    """Write one JSON object a line, atomically."""
    write_text(path, conversation_lines(records))


def conversation_lines(records: Sequence[Conversation]) -> str:
    """Return one JSON object a line."""
    return "".join(msgspec.json.encode(record).decode() + "\n" for record in records)
