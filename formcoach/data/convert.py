"""From labelled clips to the files that both models train on."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from formcoach.data.annotations import IMAGE, MOBILE_PREFIX, Conversation, LabelledClip, Turn
from formcoach.data.clip_facts import ClipFacts
from formcoach.data.qevd import ALL, FEEDBACK_ONLY, LABELS_ONLY, QUESTIONS_ONLY
from formcoach.errors import UserError
from formcoach.files import read_json

DATA_SET = "qevd_fit_300k"  # its name in diy_ft_data.json and in front of the splits' files
QUESTION = (
    "Please evaluate the exercise form shown. "
    "What mistakes, if any, are present, and what corrections would you recommend?"
)
FEEDBACK_QUESTION = "What would a coach say to the person in this clip?"  # beside QUESTION, which asks for the labels
MOBILE_QUESTION = "Analyze this {exercise} video and provide corrective feedback."


class MobileConversation(msgspec.Struct, frozen=True, omit_defaults=True):
    """A conversation in Mobile-VideoGPT's form; `video` starts with `dataset/`. Its code ignores labels and person."""

    id: str
    video: str
    conversations: list[Turn]
    duration: float
    split: str
    labels: list[str] = []
    person: str | None = None


def conversations(clip: LabelledClip, facts: ClipFacts, answers: str) -> list[Conversation]:
    """Return what a model shall learn to say about a clip.

    Args:
        clip: with answers of the kinds that are asked for.
        facts: of its file.
        answers: `labels` and `feedback` give one conversation each, `questions` one a question, `all` everything.
    """
    asked = []
    if answers in (LABELS_ONLY, ALL) and clip.answer:
        asked.append((clip.path, QUESTION, clip.answer, list(clip.labels)))
    if answers in (FEEDBACK_ONLY, ALL) and clip.feedback:
        # The same question must not have two answers.
        both = answers == ALL
        asked.append(
            (f"{clip.path}#feedback", FEEDBACK_QUESTION, clip.feedback, [])
            if both
            else (clip.path, QUESTION, clip.feedback, [])
        )
    if answers in (QUESTIONS_ONLY, ALL):
        pairs = enumerate(clip.questions, start=1)
        asked += [(f"{clip.path}#{number}", question, answer, []) for number, (question, answer) in pairs]
    return [
        Conversation(
            id=name,
            video=clip.path,
            conversations=[Turn("human", IMAGE + question), Turn("gpt", answer)],
            duration=round(facts.duration, 3),
            labels=labels,
            person=clip.person,
        )
        for name, question, answer, labels in asked
    ]


def mobile_conversation(conversation: Conversation, exercise: str, split: str) -> MobileConversation:
    """Return a conversation in Mobile-VideoGPT's form, where the standard question names the exercise."""
    question = conversation.question
    return MobileConversation(
        id=conversation.id,
        video=MOBILE_PREFIX + conversation.video,
        conversations=[
            Turn("human", MOBILE_QUESTION.format(exercise=exercise) if question == QUESTION else question),
            Turn("gpt", conversation.answer),
        ],
        duration=conversation.duration,
        split=split,
        labels=conversation.labels,
        person=conversation.person,
    )


def annotation_files(
    dataset_dir: Path,
    output_dir: Path,
    splits: Mapping[str, Sequence[LabelledClip]],
    facts: Mapping[str, ClipFacts],
    answers: str,
) -> dict[Path, Iterator[bytes]]:
    """Return path and content of the files of conversations, in both forms; the content is made while it is read."""
    files = {}
    for name, clips in splits.items():
        files[output_dir / f"{DATA_SET}_{name}.jsonl"] = _lines(clips, facts, answers)
        files[dataset_dir / f"qved_{name}.json"] = _list(clips, facts, answers, name)
    return files


def _lines(clips: Sequence[LabelledClip], facts: Mapping[str, ClipFacts], answers: str) -> Iterator[bytes]:
    for clip in clips:
        for conversation in conversations(clip, facts[clip.path], answers):
            yield msgspec.json.encode(conversation) + b"\n"


def _list(clips: Sequence[LabelledClip], facts: Mapping[str, ClipFacts], answers: str, split: str) -> Iterator[bytes]:
    """Yield a JSON list, one conversation a line."""
    before = b"[\n"
    for clip in clips:
        for conversation in conversations(clip, facts[clip.path], answers):
            yield before + msgspec.json.encode(mobile_conversation(conversation, clip.exercise, split))
            before = b",\n"
    yield b"\n]\n"


def source_lists(dataset_dir: Path, output_dir: Path) -> dict[Path, bytes]:
    """Return path and content of the lists of data sets for training and validation."""
    folder = output_dir.absolute().parent
    files = {}
    for name, split in (("diy_ft_data.json", "train"), ("diy_ft_data_val.json", "val")):
        annotation = output_dir.absolute() / f"{DATA_SET}_{split}.jsonl"
        entry = {"root": _from(folder.parent, dataset_dir), "annotation": _from(folder.parent, annotation)}
        path = output_dir.parent / name
        files[path] = _json(_with_entry(path, entry))
    return files


def _from(project: Path, path: Path) -> str:
    """Return a path relative to the project where it lies in it, else whole."""
    path = path.absolute()
    return (path.relative_to(project) if path.is_relative_to(project) else path).as_posix()


def _with_entry(path: Path, entry: dict[str, str]) -> dict[str, Any]:
    """Return the list of data sets that is at `path` with our entry; other entries and the user's settings stay."""
    listed = read_json(path, "Correct it, or delete it to have it written anew.") if path.exists() else {}
    if not isinstance(listed, dict) or not all(isinstance(value, dict) for value in listed.values()):
        raise UserError(f"{path}: is not an object of data sets. Correct it, or delete it to have it written anew")
    defaults = {"data_augment": False, "repeat_time": 1, "video_read_type": "decord", "sampling_strategy": "all"}
    return listed | {DATA_SET: defaults | listed.get(DATA_SET, {}) | entry}


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n"
