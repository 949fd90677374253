"""Answers on disk: written as they come, kept through a kill, reused where they answer the same question."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from formcoach.data.annotations import Conversation
from formcoach.errors import UserError
from formcoach.files import read_bytes, replacing, write_json
from formcoach.inference.group import ALONE, Group
from formcoach.inference.predictions import OK, Prediction, decode_lines, encode_lines

Answer = Callable[[list[Conversation]], Iterable[Prediction]]

_PLACES = {"model", "test_file"}  # settings that no answer depends on


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What all answers of a file depend on, so that they are never mixed: written beside each predictions file.

    Args:
        model: the checkpoint as the user named it.
        fingerprint: what identifies its weights (`formcoach.inference.fingerprints.checkpoint_fingerprint`).
        test_file: the test file's name.
        max_new_tokens: the limit on an answer's length.
        frames: ``"real"``, or a control: ``"blank"``, ``"swapped"``.
        precision: the weights' number format, e.g. ``"float32"`` or ``"nf4"``.
    """

    model: str
    fingerprint: str
    test_file: str
    max_new_tokens: int
    frames: str
    precision: str

    def differing(self, other: "Settings") -> list[str]:
        """Return the names of the settings that give other answers than `other`'s."""
        names = [field.name for field in msgspec.structs.fields(self) if field.name not in _PLACES]
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    @property
    def key(self) -> str:
        """What names these settings, but for folders and files."""
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, model="", test_file=""))).hexdigest()[
            :8
        ]


@dataclass(frozen=True)
class Questions:
    """What is asked.

    Args:
        settings: what the answers depend on.
        records: the whole test file, which gives the order.
        wanted: the clips to answer, part of `records`.
        sources: what identifies each record and its clip, by id.
    """

    settings: Settings
    records: Sequence[Conversation]
    wanted: Sequence[Conversation]
    sources: Mapping[str, str]


@dataclass(frozen=True)
class Kept:
    """What there is on disk before anything is asked.

    Args:
        answers: by id, those that answer the same questions; failed clips included.
        unfinished: files of an interrupted run.
        replaced: settings of a file that is to give way, if there is one.
    """

    answers: dict[str, Prediction]
    unfinished: list[Path]
    replaced: Settings | None

    def missing(self, questions: Questions) -> list[Conversation]:
        """Return the wanted clips without an answer; a clip that failed is tried again."""
        return [record for record in questions.wanted if not self.has(record.id)]

    def has(self, clip: str) -> bool:
        """Tell whether there is an answer to a clip."""
        return clip in self.answers and self.answers[clip].status == OK


class _Sidecar(msgspec.Struct, frozen=True):
    settings: Settings
    predictions_sha256: str


def settings_path(path: Path) -> Path:
    """Return where the settings of the predictions file `path` are written."""
    return path.with_name(path.stem + ".settings.json")


def kept_answers(path: Path, questions: Questions) -> Kept:
    """Return what is on disk of the answers for `path`.

    Raises:
        UserError: `path` is there and cannot be added to: it is not what was written, or of another test file.
    """
    if path.suffix != ".jsonl":
        raise UserError(f"{path}: predictions are written line by line; name a file that ends in .jsonl")
    unfinished = _unfinished(path, questions.settings)
    interrupted = [prediction for file in unfinished for prediction in _interrupted(file)]
    left = encode_lines(_in_order(_by_id(interrupted), questions))
    finished, found = _finished(path, left)
    known = {record.id for record in questions.records}
    foreign = [prediction.id for prediction in finished if prediction.id not in known]
    if foreign:
        raise UserError(
            f"{path}: holds answers to {len(foreign)} clips that are not in {questions.settings.test_file}, first: "
            f"{foreign[0]!r}; name another file or folder for the results, or move that one away"
        )
    is_other = found is not None and bool(found.differing(questions.settings))
    answers = [*([] if is_other else finished), *interrupted]
    same = [prediction for prediction in answers if prediction.source == questions.sources.get(prediction.id)]
    return Kept(_by_id(same), unfinished, found if is_other else None)


def complete_predictions(
    path: Path, questions: Questions, kept: Kept, answer: Answer, group: Group = ALONE
) -> list[Prediction]:
    """Answer the wanted clips that have no answer yet, and return everything that `path` then holds.

    New answers go to ``<path>.<settings>.partial`` as they come, of each process to one of its own, and are kept there
    if the run is interrupted. At the end `path` is replaced as a whole. Answers under other settings are moved aside.

    Args:
        path: the predictions file (`.jsonl`).
        questions: what is asked.
        kept: from `kept_answers`.
        answer: gives the predictions of some clips, in any order.
        group: the processes that share the work.

    Raises:
        UserError: another process has ended.
    """
    todo = kept.missing(questions)
    if not todo and path.exists() and not kept.unfinished and kept.replaced is None:
        return _in_order(kept.answers, questions)
    group.meet()  # all have read what is there
    asked = {record.id for record in todo}
    partial = _partial(path, questions.settings)
    if group.is_first:
        _begin(partial, questions.settings, [one for clip, one in kept.answers.items() if clip not in asked])
        for file in kept.unfinished:
            if file != partial:
                file.unlink()
    group.meet()  # what was kept is safe
    share = list(group.share(todo))
    own = partial if group.is_first else partial.with_name(f"{partial.name}.{group.rank}")
    if not group.is_first:
        _begin(own, questions.settings, [])
    _append(own, (_from(questions, one) for one in (answer(share) if share else ())))
    group.meet()  # all answers are there
    if group.is_first:
        _finish(path, questions, kept.replaced)
    group.meet()
    return decode_lines(path, path.read_bytes())


def aside(path: Path) -> Path:
    """Return where a predictions file that gives way is moved: the first of `name.1.jsonl`, ... that is free."""
    number = 1
    while (free := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    return free


def _from(questions: Questions, prediction: Prediction) -> Prediction:
    return msgspec.structs.replace(prediction, source=questions.sources[prediction.id])


def _begin(partial: Path, settings: Settings, predictions: list[Prediction]) -> None:
    with replacing(partial) as temporary:
        temporary.write_bytes(msgspec.json.encode(settings) + b"\n" + encode_lines(predictions))


def _append(partial: Path, predictions: Iterable[Prediction]) -> None:
    """Write predictions as they come; each is on its way to the disk before the next is asked for."""
    with closing(partial.open("ab", buffering=0)) as file:
        for prediction in predictions:
            file.write(encode_lines([prediction]))
        os.fsync(file.fileno())


def _finish(path: Path, questions: Questions, replaced: Settings | None) -> None:
    """Put all answers into `path`, in the order of the test file, with the settings beside it."""
    unfinished = _unfinished(path, questions.settings)
    done = _by_id(prediction for file in unfinished for prediction in _interrupted(file))
    encoded = encode_lines(_in_order(done, questions))
    if replaced is not None:
        free = aside(path)
        path.replace(free)
        settings_path(path).replace(settings_path(free))
    with replacing(path) as temporary:
        temporary.write_bytes(encoded)
    sidecar = _Sidecar(settings=questions.settings, predictions_sha256=hashlib.sha256(encoded).hexdigest())
    write_json(settings_path(path), msgspec.to_builtins(sidecar))
    for file in unfinished:
        file.unlink()


def _finished(path: Path, left: bytes) -> tuple[list[Prediction], Settings | None]:
    """Return what a finished run wrote, and its settings.

    Args:
        path: the predictions file.
        left: what a run that was killed while it finished has written; its settings are those asked for.
    """
    if not path.exists():
        return [], None
    data = read_bytes(path, "Move it away")
    try:
        sidecar = msgspec.json.decode(settings_path(path).read_bytes(), type=_Sidecar)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        sidecar = None
    if sidecar is not None and hashlib.sha256(data).hexdigest() == sidecar.predictions_sha256:
        return decode_lines(path, data), sidecar.settings
    if data and data == left:
        return decode_lines(path, data), None
    raise UserError(
        f"{path}: was not written by this command, or was changed since; name another file or folder for the results, "
        "or move that one away"
    )


def _unfinished(path: Path, settings: Settings) -> list[Path]:
    """Return the files of an interrupted run under these settings, of any number of processes."""
    start = _partial(path, settings).name
    return sorted(
        file for file in path.parent.glob("*.partial*") if re.fullmatch(re.escape(start) + r"(\.\d+)?", file.name)
    )


def _interrupted(partial: Path) -> list[Prediction]:
    """Return the answers of an interrupted run; a last line that was being written is none."""
    _, *lines = partial.read_bytes().split(b"\n")
    whole = lines[:-1]  # what follows the last end of a line
    try:
        return decode_lines(partial, b"\n".join(whole))
    except UserError:
        return []  # damaged: asked again


def _by_id(predictions: Iterable[Prediction]) -> dict[str, Prediction]:
    return {prediction.id: prediction for prediction in predictions}


def _in_order(predictions: Mapping[str, Prediction], questions: Questions) -> list[Prediction]:
    return [predictions[record.id] for record in questions.records if record.id in predictions]


def _partial(path: Path, settings: Settings) -> Path:
    return path.with_name(f"{path.name}.{settings.key}.partial")
