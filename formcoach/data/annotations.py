"""The label and conversation files as typed records."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from formcoach.errors import UserError
from formcoach.files import read_bytes, read_json, write_text

IMAGE = "<image>\n"  # what the public recipe expects in front of the question, in place of the clip
PREPARE = "Run: bash scripts/initialize_dataset.sh"

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


@dataclass(frozen=True)
class LabelledClip:
    """A clip on disk and what is known about it.

    Args:
        path: relative to the dataset folder, with forward slashes, as the disk spells it.
        labels: each `exercise - what was seen`.
        answer: what the model shall learn to say.
        exercise: the exercise's name.
        person: who is in the clip.
        split: the official split.
    """

    path: str
    labels: tuple[str, ...]
    answer: str
    exercise: str
    person: str | None = None
    split: str | None = None


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
        UserError: the file is missing, not JSON (names line and column) or has a record of another form (names it).
    """
    records = read_json(path, "It is the list of clips and their labels; dataset/README.md shows one.")
    if not isinstance(records, list):
        raise UserError(f"{path}: holds no list of records. dataset/README.md shows the form.")
    if not records:
        raise UserError(f"{path}: lists no clips. dataset/README.md shows the form.")
    return [_label_record(path, number, record) for number, record in enumerate(records, start=1)]


def _label_record(path: Path, number: int, record: Any) -> LabelRecord:
    if isinstance(record, dict) and not record.get("video_path"):
        raise UserError(
            f"{path}: record {number} (counting from 1) has no video_path. Add the clip's path or remove the record."
        )
    try:
        return msgspec.convert(record, LabelRecord)
    except msgspec.ValidationError as error:
        raise UserError(
            f"{path}: record {number} (counting from 1): {error}. dataset/README.md shows the form."
        ) from None


def read_manifest(path: Path) -> dict[str, ManifestEntry]:
    """Return `manifest.json`: from a clip's path, as written there, to its class and, of a derived clip, its source."""
    manifest = read_json(path, "It maps clips to classes; it may be left out.")
    try:
        entries = msgspec.convert(manifest, dict[str, str | ManifestEntry])
        return {clip: ManifestEntry(entry) if isinstance(entry, str) else entry for clip, entry in entries.items()}
    except msgspec.ValidationError as error:
        raise UserError(f'{path}: {error}. It reads {{"class/clip.mp4": "class", ...}}; it may be left out.') from None


def read_conversations(path: Path) -> list[Conversation]:
    """Return the conversations of a `.jsonl` file (one a line) or a `.json` file (a list).

    Raises:
        UserError: the file is missing, not JSON, or has a record of another form; names line and field.
    """
    if path.suffix == ".json":
        raw = read_json(path, PREPARE)
        if not isinstance(raw, list):
            raise UserError(f"{path}: holds no list of conversations. {PREPARE}")
        return [_conversation(path, f"record {number}", record) for number, record in enumerate(raw, start=1)]
    lines = read_bytes(path, PREPARE).split(b"\n")
    return [_parse_line(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _parse_line(path: Path, number: int, line: bytes) -> Conversation:
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
    if [turn.speaker for turn in conversation.conversations] != ["human", "gpt"]:
        raise UserError(f"{path}: {place}: conversations must be one human turn and one gpt turn. {PREPARE}")
    return conversation


def write_conversations(path: Path, records: Sequence[Conversation]) -> None:
    """Write one JSON object a line, atomically."""
    write_text(path, conversation_lines(records))


def conversation_lines(records: Sequence[Conversation]) -> str:
    """Return one JSON object a line."""
    return "".join(msgspec.json.encode(record).decode() + "\n" for record in records)
