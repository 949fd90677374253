"""The clips of the splits, as the training files have them, and what their files say: what an overview counts."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from formcoach.data.annotations import (
    PREPARE,
    Conversation,
    ManifestEntry,
    join_lines,
    parse_label,
    read_conversations,
    read_labels,
)
from formcoach.data.clip_facts import VERSION, ClipFacts, read_facts
from formcoach.data.clip_index import ClipIndex, find_clips
from formcoach.data.convert import DATA_SET
from formcoach.data.file_cache import FileCache
from formcoach.data.qevd import LABEL_FILES, MANIFEST, manifest_entries, name_exercise
from formcoach.data.splits import SPLITS
from formcoach.errors import UserError
from formcoach.files import inside, read_bytes

MOST_PROBED = 2000  # clips that are opened if they were not before; of more, so many are drawn


@dataclass(frozen=True, slots=True)
class SplitClip:
    """A clip of a split, and what is said about it.

    Args:
        path: relative to the dataset folder.
        split: that it is in.
        exercise: its name.
        person: who is in it.
        duration: seconds.
        labels: each `exercise - what was seen`.
        pairs: questions, each with its answer.
        source: the clip that this one was derived from.
    """

    path: str
    split: str
    exercise: str
    person: str | None
    duration: float
    labels: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    source: str | None = None


@dataclass(frozen=True)
class Measured:
    """What the clips' files say.

    Args:
        facts: of each clip that was looked at, by path.
        bad: clips that do not open, with the reason.
        unmeasured: how many clips were not looked at.
    """

    facts: dict[str, ClipFacts]
    bad: dict[str, str]
    unmeasured: int


class SavedSummary(msgspec.Struct, frozen=True):
    """The part of `qevd_fit_300k_summary.json` that an overview shows.

    Args:
        label_file: where the labels come from.
        ratios: of train, val and test that were asked for.
        seed: of the split.
        official_splits: clips whose split the label file says.
    """

    label_file: str
    ratios: list[float]
    seed: int
    official_splits: int = 0


class SkippedClip(msgspec.Struct, frozen=True):
    """A line of `qevd_fit_300k_skipped.jsonl`: a clip that is in no split, and why."""

    video: str
    reason: str


@dataclass
class _Joined:
    """A clip's conversations, joined; `split` is the first that has it."""

    split: str
    person: str | None
    duration: float
    labels: list[str] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)


def split_files(output_dir: Path) -> dict[str, Path]:
    """Return the file of each split.

    Raises:
        UserError: one of them is not there.
    """
    files = {name: output_dir / f"{DATA_SET}_{name}.jsonl" for name in SPLITS}
    for file in files.values():
        if not file.is_file():
            raise UserError(f"{file}: no such file. Make the splits first: bash scripts/initialize_dataset.sh")
    return files


def read_split_clips(dataset_dir: Path, output_dir: Path) -> tuple[list[SplitClip], dict[str, tuple[str, ...]]]:
    """Return the clips of all splits, in the order of the files, and those that are in several, with their splits.

    Args:
        dataset_dir: holds the clips, and perhaps `manifest.json`, which names classes and sources.
        output_dir: holds the splits.

    Raises:
        UserError: a file is missing or malformed.
    """
    files = split_files(output_dir)
    if not dataset_dir.is_dir():
        raise UserError(f"{dataset_dir}: no such folder. Name the folder of the clips with --dataset-dir")
    joined: dict[str, _Joined] = {}
    several: dict[str, tuple[str, ...]] = {}
    texts: dict[str, str] = {}  # equal texts are kept once: a release repeats its questions and labels
    for split, file in files.items():
        for conversation in _conversations(file):
            before = joined.setdefault(
                conversation.video, _Joined(split, conversation.person, max(conversation.duration, 0.0))
            )
            if split != before.split:
                several[conversation.video] = tuple(dict.fromkeys((*several.get(conversation.video, ()), split)))
            _join(before, conversation, texts)
    several = {path: (joined[path].split, *others) for path, others in several.items()}
    manifest, found = _lookup(dataset_dir, output_dir, joined)
    return [_clip(path, known, manifest.get(path), found, texts) for path, known in joined.items()], several


def _conversations(file: Path) -> Iterator[Conversation]:
    """Yield what `read_conversations` returns, one at a time: a release with questions has millions."""
    decoder = msgspec.json.Decoder(Conversation)
    with file.open("rb") as lines:
        for line in filter(bytes.strip, lines):
            try:
                conversation = decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                conversation = None
            if conversation is None or [turn.speaker for turn in conversation.conversations] != ["human", "gpt"]:
                read_conversations(file)  # says what is wrong, and where
                raise UserError(f"{file}: was changed while it was read. {PREPARE}")
            yield conversation


def _join(known: _Joined, conversation: Conversation, texts: dict[str, str]) -> None:
    question, answer = conversation.question, conversation.answer
    pair = (texts.setdefault(question, question), texts.setdefault(answer, answer))
    if pair not in known.pairs:
        known.pairs.append(pair)
    for label in conversation.labels:
        if label not in known.labels:
            known.labels.append(texts.setdefault(label, label))


def _clip(
    path: str,
    known: _Joined,
    entry: ManifestEntry | None,
    found: Mapping[str, list[str]],
    texts: dict[str, str],
) -> SplitClip:
    labels = known.labels or found.get(path, [])
    exercise = _exercise(path, labels, known.pairs[0][1], entry.class_ if entry else None)
    return SplitClip(
        path,
        known.split,
        texts.setdefault(exercise, exercise),
        known.person,
        known.duration,
        tuple(labels),
        tuple(known.pairs),
        entry.source if entry else None,
    )


def _exercise(path: str, labels: Sequence[str], answer: str, folder_class: str | None) -> str:
    """Return the exercise's name; an answer names it only if it is in the form of a label."""
    first = join_lines(answer.split("\n")[:1])
    label = labels[0] if labels else first if all(parse_label(first)) else ""
    return name_exercise(label, path, folder_class)


def _lookup(
    dataset_dir: Path, output_dir: Path, joined: Mapping[str, _Joined]
) -> tuple[dict[str, ManifestEntry], dict[str, list[str]]]:
    """Return what `manifest.json` says about the clips, and the labels of those whose conversations have none."""
    bare = {path for path, known in joined.items() if not known.labels}
    label_file = _label_file(dataset_dir, output_dir) if bare else None
    if not (dataset_dir / MANIFEST).exists() and label_file is None:
        return {}, {}
    index = ClipIndex(dataset_dir, find_clips(dataset_dir))
    entries = {path: entry for path, _, entry in manifest_entries(dataset_dir, index) if path in joined}
    labels: dict[str, list[str]] = {}
    for record in read_labels(label_file) if label_file else ():
        path = index.find(record.video_path)
        if path in bare:
            labels.setdefault(path, []).extend(label.strip() for label in record.labels if label.strip())
    return entries, labels


def _label_file(dataset_dir: Path, output_dir: Path) -> Path | None:
    summary = read_summary(output_dir)
    candidates = [Path(summary.label_file)] if summary else []
    candidates += [dataset_dir / name for name in LABEL_FILES]
    return next((file for file in candidates if file.name in LABEL_FILES and file.is_file()), None)


def read_summary(output_dir: Path) -> SavedSummary | None:
    """Return what was saved beside the splits when they were made, or None if they were made elsewhere.

    Raises:
        UserError: the file is damaged.
    """
    file = output_dir / f"{DATA_SET}_summary.json"
    if not file.exists():
        return None
    try:
        return msgspec.json.decode(read_bytes(file, PREPARE), type=SavedSummary)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: {error}. {PREPARE}") from None


def read_skipped(output_dir: Path) -> list[SkippedClip]:
    """Return the clips that are in no split, with the reason; none where nothing was left out.

    Raises:
        UserError: the file is damaged.
    """
    file = output_dir / f"{DATA_SET}_skipped.jsonl"
    if not file.exists():
        return []
    try:
        return msgspec.json.Decoder(SkippedClip).decode_lines(read_bytes(file, PREPARE))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: {error}. {PREPARE}") from None


def measure(dataset_dir: Path, paths: Sequence[str], seed: int, most: int = MOST_PROBED) -> Measured:
    """Return what the clips' files say: of those that were opened before, and of up to `most` others.

    Args:
        dataset_dir: the clips' folder.
        paths: relative to it.
        seed: draws those that are opened.
        most: how many are opened at most.
    """
    cache = FileCache(dataset_dir, "clips", ClipFacts, VERSION)
    facts, new, bad = {}, [], {}
    for path in paths:
        reason = outside(dataset_dir, path)
        if reason is not None:
            bad[path] = reason
        elif (known := cache.get(path)) is not None:
            facts[path] = known
        else:
            new.append(path)
    chosen = sorted(new, key=lambda path: draw(seed, path))[:most] if len(new) > most else new
    opened, damaged = read_facts(dataset_dir, chosen)
    return Measured(facts | opened, bad | damaged, len(new) - len(chosen))


def outside(dataset_dir: Path, path: str) -> str | None:
    """Return why a path must not be opened, or None: files written by others may name anything."""
    if path and not path.startswith("/") and not any(mark in path for mark in ("..", ":", "\\", "\0")):
        return None  # the rest is looked at with care, which takes fifty times as long
    try:
        inside(dataset_dir, path)
    except UserError:
        return "is not a path inside the dataset folder"
    return None


def draw(seed: int, key: str) -> bytes:
    """Return a random-looking sort key that depends on nothing but the seed and the name."""
    return hashlib.blake2b(f"{seed}:{key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
