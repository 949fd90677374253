"""Models on the held-out test split: from a test file to predictions, scores and what a command prints."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.command import progress
from formcoach.data.annotations import PREPARE, Conversation, read_conversations
from formcoach.errors import UserError
from formcoach.evaluation.metrics import score
from formcoach.evaluation.report import example_text, score_table, write_scores
from formcoach.inference.frames import frames_of
from formcoach.inference.predictions import FAILED, Prediction, Settings, complete_predictions, kept_ids

if TYPE_CHECKING:
    from formcoach.inference.predict import Predictor


@dataclass(frozen=True)
class TestSet:
    """A test file.

    Args:
        file: a conversation file.
        root: the folder that its clips' paths are relative to.
        records: all its records.
        wanted: those to answer.
    """

    file: Path
    root: Path
    records: list[Conversation]
    wanted: list[Conversation]


def read_test_set(file: Path, root: Path, limit: int | None = None) -> TestSet:
    """Read a test file; `limit` asks for its first records only.

    Raises:
        UserError: the file is missing, damaged or empty, an id comes twice, or `root` is no folder.
    """
    records = read_conversations(file)
    if not records:
        raise UserError(f"{file}: holds no clips. {PREPARE}")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name the folder of the clips with --data_path")
    ids: set[str] = set()
    for record in records:
        if record.id in ids:
            raise UserError(f"{file}: the id {record.id!r} comes twice; give each record its own")
        ids.add(record.id)
    return TestSet(file, root, records, records[:limit])


def answer_test_set(
    path: Path, settings: Settings, test_set: TestSet, load: Callable[[], "Predictor"], *, base: bool
) -> list[Prediction]:
    """Return all answers that `path` holds at the end; what it holds already is not asked again.

    Args:
        path: the predictions file.
        settings: what the answers depend on.
        test_set: the questions.
        load: gives the model; called only if a clip has no answer yet.
        base: whether the base model answers (adapter off).
    """
    name = "base" if base else "tuned"
    reused = len(kept_ids(path, settings) & {record.id for record in test_set.wanted})
    if reused:
        print(f"{name}: {reused} of {len(test_set.wanted)} answers are in {path} already", flush=True)

    def answer(todo: list[Conversation]) -> Iterator[Prediction]:
        predictor = load()
        read = frames_of(settings.frames, test_set.root, test_set.records, predictor.processor, predictor.reader)
        print(f"{name}: answering {len(todo)} clips", flush=True)
        with predictor.base() if base else nullcontext():
            yield from progress(predictor.predict(todo, read), len(todo), f"clips answered ({name})")

    return complete_predictions(path, settings, test_set.records, test_set.wanted, answer)


def present(answers: dict[str, Sequence[Prediction]], scores_file: Path | None = None) -> None:
    """Print the scores and three example clips; write `scores_file` if one is named.

    Two models are compared on the clips that both have answered.
    """
    shared = set.intersection(*({p.id for p in predictions} for predictions in answers.values()))
    common = {name: [p for p in predictions if p.id in shared] for name, predictions in answers.items()}
    scores = {name: score(predictions) for name, predictions in common.items()}
    if scores_file is not None:
        write_scores(scores_file, scores)
    print(f"\n{score_table(scores)}\n\n{example_text(common)}\n", flush=True)


def refuse_failures(answers: dict[str, Sequence[Prediction]]) -> None:
    """Let the exit code tell that clips failed.

    Raises:
        UserError: says how many clips failed, and the first reason.
    """
    for name, predictions in answers.items():
        failed = [prediction for prediction in predictions if prediction.status == FAILED]
        if failed:
            raise UserError(
                f"{len(failed)} of {len(predictions)} clips failed ({name}) and count as not matched, first: "
                f"{failed[0].error}. Repair or replace them and run this again"
            )
