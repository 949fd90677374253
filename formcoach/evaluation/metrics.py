"""What is measured of each answer, and how a test set's score comes from it: as a ratio of two sums over its clips."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from formcoach.evaluation import wording
from formcoach.evaluation.coaching import answered, exercise_matches, expected, fault_matches
from formcoach.evaluation.judge import Grades
from formcoach.inference.predictions import OK, Prediction


class ClipScore(msgspec.Struct, frozen=True, kw_only=True):
    """One answer, measured. A failed clip has no match, no words and 0 wherever the others have a number.

    Args:
        answered: whether there is an answer.
        exercise_match: whether it names the clip's exercise; None where the truth names none.
        fault_match: whether it sees just what the clip shows; None as above.
        correct: how many of its observations are right.
        named: how many there are.
        present: how many the truth has.
        meteor: see `formcoach.evaluation.wording`, as of the next two.
        rouge_l: in 0..1.
        bleu_4: in 0..1.
        similarity: in -1..1, see `formcoach.evaluation.embeddings`; None if it was left out.
        words: of the answer.
        judge: a judge's grade in 0..1; None if nobody judged, or gave no grade.
    """

    answered: bool
    exercise_match: bool | None
    fault_match: bool | None
    correct: int
    named: int
    present: int
    meteor: float
    rouge_l: float
    bleu_4: float
    similarity: float | None
    words: int
    judge: float | None = None


Ratio = tuple[float, float]  # what a clip adds above and below the line


@dataclass(frozen=True)
class Measure:
    """A score of a test set.

    Args:
        name: in `scores.json`.
        title: for readers.
        ratio: what a clip adds to it.
        is_share: in 0..1, shown as per cent; else a plain number.
    """

    name: str
    title: str
    ratio: Callable[[ClipScore], Ratio]
    is_share: bool = True


def _mean(value: float | None) -> Ratio:
    return (0.0, 0.0) if value is None else (float(value), 1.0)


MEASURES = (
    Measure("exercise_match", "exercise match", lambda clip: _mean(clip.exercise_match)),
    Measure("fault_match", "fault match", lambda clip: _mean(clip.fault_match)),
    Measure("fault_precision", "fault precision", lambda clip: (clip.correct, clip.named)),
    Measure("fault_recall", "fault recall", lambda clip: (clip.correct, clip.present)),
    Measure("fault_f1", "fault F1", lambda clip: (2 * clip.correct, clip.named + clip.present)),
    Measure("meteor", "METEOR", lambda clip: _mean(clip.meteor)),
    Measure("rouge_l", "ROUGE-L", lambda clip: _mean(clip.rouge_l)),
    Measure("bleu_4", "BLEU-4", lambda clip: _mean(clip.bleu_4)),
    Measure("similarity", "similarity", lambda clip: _mean(clip.similarity)),
    Measure("judge", "judge", lambda clip: _mean(clip.judge)),
    Measure("words", "words an answer", lambda clip: (clip.words, float(clip.answered)), is_share=False),
)


def measure_clips(predictions: Sequence[Prediction], *, embed: bool, grades: Grades | None = None) -> list[ClipScore]:
    """Measure each answer.

    Args:
        predictions: the answers.
        embed: whether to compute the similarity of embeddings, which takes a model of 91 MB and some seconds.
        grades: a judge's.

    Raises:
        UserError: the package of that model is not installed.
    """
    there = [prediction for prediction in predictions if prediction.status == OK]
    pairs = [(prediction.truth, prediction.prediction) for prediction in there]
    close = _similarity(pairs) if embed else [None] * len(pairs)
    rows = zip(wording.meteor(pairs), wording.rouge_l(pairs), wording.bleu_4(pairs), close, strict=True)
    worded = dict(zip((prediction.id for prediction in there), rows, strict=True))
    nothing = (0.0, 0.0, 0.0, 0.0 if embed else None)
    return [
        _measure(prediction, *worded.get(prediction.id, nothing), grades.of(prediction) if grades else None)
        for prediction in predictions
    ]


def ratios(clips: Sequence[ClipScore]) -> np.ndarray:
    """Return what each clip adds to each of `MEASURES`: (clips, measures, 2)."""
    rows = [[measure.ratio(clip) for measure in MEASURES] for clip in clips]
    return np.array(rows, dtype=np.float64).reshape(len(clips), len(MEASURES), 2)


def _similarity(pairs: Sequence[wording.Pair]) -> list[float]:
    from formcoach.evaluation.embeddings import similarity

    return similarity(pairs)


def _measure(
    prediction: Prediction,
    meteor: float,
    rouge_l: float,
    bleu_4: float,
    similarity: float | None,
    judge: float | None,
) -> ClipScore:
    truth, seen = expected(prediction), answered(prediction)
    return ClipScore(
        answered=prediction.status == OK,
        exercise_match=exercise_matches(prediction) if truth else None,
        fault_match=fault_matches(prediction) if truth else None,
        correct=len(truth & seen),
        named=len(seen) if truth else 0,
        present=len(truth),
        meteor=meteor,
        rouge_l=rouge_l,
        bleu_4=bleu_4,
        similarity=similarity,
        words=len(prediction.prediction.split()) if prediction.status == OK else 0,
        judge=judge,
    )
