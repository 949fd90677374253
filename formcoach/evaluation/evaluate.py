"""Models on the held-out test split: from a test file to predictions, scores and what a command prints."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.command import progress
from formcoach.data.annotations import PREPARE, Conversation, read_conversations
from formcoach.errors import UserError
from formcoach.evaluation.judge import Judge
from formcoach.evaluation.report import example_text, score_table, worse_text, write_scores
from formcoach.evaluation.scores import Evaluation, evaluate
from formcoach.files import only_one
from formcoach.inference.fingerprints import clip_sources
from formcoach.inference.frames import frames_of
from formcoach.inference.group import ALONE, Group
from formcoach.inference.kept_answers import Kept, Questions, Settings, aside, complete_predictions, kept_answers
from formcoach.inference.predictions import FAILED, Prediction

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
    path: Path,
    settings: Settings,
    test_set: TestSet,
    load: Callable[[], "Predictor"],
    *,
    base: bool,
    group: Group = ALONE,
) -> list[Prediction]:
    """Return all answers that `path` holds at the end; what it holds already is not asked again.

    Args:
        path: the predictions file.
        settings: what the answers depend on.
        test_set: the questions.
        load: gives the model; called only if a clip has no answer yet.
        base: whether the base model answers (adapter off).
        group: the processes that share the work; the first one speaks.

    Raises:
        UserError: `path` holds something else, or another process has ended.
    """
    name = "base" if base else "tuned"
    sources = clip_sources(test_set.records, test_set.root, settings.frames)
    questions = Questions(settings, test_set.records, test_set.wanted, sources)

    def say(line: str) -> None:
        if group.is_first:
            print(f"{name}: {line}", flush=True)

    def answer(share: list[Conversation]) -> Iterator[Prediction]:
        predictor = load()
        read = frames_of(settings.frames, test_set.root, test_set.records, predictor.processor, predictor.reader)
        with predictor.base() if base else nullcontext():
            answers = predictor.predict(share, read)
            yield from progress(answers, len(share), f"clips answered ({name})") if group.is_first else answers

    with _alone_in(path.parent, group):
        kept = kept_answers(path, questions)
        _tell_kept(kept, path, questions, say)
        todo = len(kept.missing(questions))
        if todo:
            load()  # or nothing is written
            say(f"answering {todo} clips" + (f" in {group.count} processes" if group.count > 1 else ""))
        return complete_predictions(path, questions, kept, answer, group)


@contextmanager
def _alone_in(folder: Path, group: Group) -> Iterator[None]:
    """Let no other run write its answers to `folder` meanwhile, one that was left behind by a kill included.

    Raises:
        UserError: there is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder, "answering a test set there") if group.is_first else nullcontext():
        group.meet()
        yield


def _tell_kept(kept: Kept, path: Path, questions: Questions, say: Callable[[str], None]) -> None:
    if kept.replaced is not None:
        changed = ", ".join(kept.replaced.differing(questions.settings))
        say(f"the answers in {path} are under other settings ({changed}) and will be moved to {aside(path).name}")
    reused = sum(kept.has(record.id) for record in questions.wanted)
    if reused:
        say(f"{reused} of {len(questions.wanted)} answers are in {path} already")


def common_clips(answers: Mapping[str, Sequence[Prediction]]) -> dict[str, list[Prediction]]:
    """Return the answers to the clips that all models have answered, in the order of the first model's."""
    known = {name: {prediction.id: prediction for prediction in predictions} for name, predictions in answers.items()}
    shared = [clip for clip in next(iter(known.values())) if all(clip in by_id for by_id in known.values())]
    return {name: [by_id[clip] for clip in shared] for name, by_id in known.items()}


def present(
    answers: Mapping[str, Sequence[Prediction]],
    scores_file: Path | None = None,
    *,
    embed: bool = True,
    judge: Judge | None = None,
) -> Evaluation:
    """Print the scores and three example clips, and return the scores.

    Args:
        answers: by model, from `common_clips`.
        scores_file: where to write the scores; None: nowhere.
        embed: whether to compute the similarity of embeddings.
        judge: grades the answers too.

    Raises:
        UserError: the judge cannot be used.
    """
    evaluation = evaluate(answers, embed=embed, grades=judge.grade(answers) if judge else None)
    if scores_file is not None:
        write_scores(scores_file, evaluation)
    texts = [score_table(evaluation), worse_text(answers), example_text(answers)]
    print("\n" + "\n\n".join(text for text in texts if text) + "\n", flush=True)
    return evaluation


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
