"""How right the answers are: exercise, fault and wording, as shares between 0 and 1."""

import re
import unicodedata
from collections.abc import Sequence

import msgspec

from formcoach.data.annotations import parse_label
from formcoach.inference.predictions import OK, Prediction


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """The scores of one model on one test file; shares are in 0..1.

    `exercise_match` and `fault_match` are None where no clip's truth is in the form `exercise - what was seen`.
    Failed clips are part of every share, as not matched.
    """

    clips: int
    failed: int
    exercise_match: float | None
    fault_match: float | None
    rouge_l: float


def score(predictions: Sequence[Prediction]) -> Scores:
    """Score the answers to a test file. An empty file scores 0 clips and None."""
    measurable = [prediction for prediction in predictions if expected(prediction)]
    return Scores(
        clips=len(predictions),
        failed=sum(prediction.status != OK for prediction in predictions),
        exercise_match=_share([exercise_matches(prediction) for prediction in measurable]),
        fault_match=_share([fault_matches(prediction) for prediction in measurable]),
        rouge_l=_share(rouge_l(predictions)) or 0.0,
    )


def observations(text: str) -> frozenset[tuple[str, str]]:
    """Return the (exercise, what was seen) pairs of an answer: its lines of the form `exercise - what was seen`.

    Case, white space and closing punctuation do not count. A line without ` - ` is no observation: a plain description
    is not in the coaching format.
    """
    pairs = (parse_label(line) for line in text.splitlines())
    normal = ((_normal(exercise), _normal(seen)) for exercise, seen in pairs)
    return frozenset(pair for pair in normal if all(pair))


def expected(prediction: Prediction) -> frozenset[tuple[str, str]]:
    """Return what the clip shows: the observations of its true answer, or of its labels where the answer is prose."""
    return observations(prediction.truth) or observations("\n".join(prediction.labels))


def exercise_matches(prediction: Prediction) -> bool:
    """Tell whether the answer, in the coaching format, names exactly the exercises of the clip."""
    named = {exercise for exercise, _ in observations(prediction.prediction)}
    return prediction.status == OK and named == {exercise for exercise, _ in expected(prediction)}


def fault_matches(prediction: Prediction) -> bool:
    """Tell whether the answer sees exactly what the clip shows: the same exercise and the same faults, in any order."""
    return prediction.status == OK and observations(prediction.prediction) == expected(prediction)


def rouge_l(predictions: Sequence[Prediction]) -> list[float]:
    """Return each answer's ROUGE-L F1 against its truth, by the `rouge-score` package without stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    return [
        scorer.score(prediction.truth, prediction.prediction)["rougeL"].fmeasure if prediction.status == OK else 0.0
        for prediction in predictions
    ]


def _normal(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"\s+", " ", text).strip(" .!?,;:")


def _share(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
