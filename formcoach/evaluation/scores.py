"""The scores of one model or two on the same clips, with intervals, and what may not be read out of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from formcoach.evaluation.coaching import expected, question_names_exercise
from formcoach.evaluation.judge import Grades
from formcoach.evaluation.metrics import MEASURES, ClipScore, measure_clips, ratios
from formcoach.evaluation.resampling import CONFIDENCE, DRAWS, Units, draws, interval, point, smallest_difference, units
from formcoach.evaluation.wording import NO_WORDNET, has_wordnet
from formcoach.inference.predictions import OK, Prediction

BASE = "base"
TUNED = "tuned"
FEW = 10  # units, below which the bootstrap's intervals are known to be too narrow

Interval = tuple[float, float]


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """One model's scores.

    Args:
        clips: how many there are, failed ones among them.
        failed: how many have no answer; they count as not matched, and 0 in every share.
        values: by `Measure.name`; None where no clip could be measured.
        intervals: of 95 %, where there is a value.
    """

    clips: int
    failed: int
    values: dict[str, float | None]
    intervals: dict[str, Interval]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How much higher a tuned model's score is than its base's, paired: both answered the same clips.

    Args:
        value: tuned minus base.
        low: where the interval of 95 % begins.
        high: where it ends.
        smallest: the difference that four of five test sets like this one would show.
    """

    value: float
    low: float
    high: float
    smallest: float


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What a test set says about one model, or about two.

    Args:
        models: scores by name: `BASE`, `TUNED`, or both in this order.
        differences: by `Measure.name`, if there are two models.
        clips: each answer's measurements, by model, in the order of the answers.
        notes: what a reader has to know, a sentence each.
    """

    models: dict[str, Scores]
    differences: dict[str, Difference]
    clips: dict[str, list[ClipScore]]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return what `scores.json` holds."""
        told = {
            name: {"clips": one.clips, "failed": one.failed, **one.values, "intervals": one.intervals}
            for name, one in self.models.items()
        }
        more = {"differences": self.differences} if self.differences else {}
        return msgspec.to_builtins({**told, **more, "notes": self.notes})


def evaluate(
    answers: Mapping[str, Sequence[Prediction]], *, embed: bool = True, grades: Grades | None = None
) -> Evaluation:
    """Score the answers of one model, or of two to the same clips in the same order.

    Args:
        answers: by model.
        embed: whether to compute the similarity of embeddings.
        grades: a judge's.

    Raises:
        UserError: the embeddings' package is not installed.
    """
    of = units(next(iter(answers.values())))
    clips = {name: measure_clips(predictions, embed=embed, grades=grades) for name, predictions in answers.items()}
    added = {name: ratios(measured) for name, measured in clips.items()}
    drawn = {name: draws(values, of) for name, values in added.items()}
    models = {name: _scores(predictions, point(added[name]), drawn[name]) for name, predictions in answers.items()}
    differences = {}
    if len(models) == 2:
        least = 1 / max(len(clips[TUNED]), 1)
        differences = _differences(models, drawn[TUNED] - drawn[BASE], least)
    notes = _notes(models, of, bool(differences)) + _question_note(next(iter(answers.values())))
    notes += grades.notes(answers) if grades else []
    return Evaluation(models=models, differences=differences, clips=clips, notes=notes)


def _scores(predictions: Sequence[Prediction], values: np.ndarray, drawn: np.ndarray) -> Scores:
    names = [measure.name for measure in MEASURES]
    found = {name: interval(column) for name, column in zip(names, drawn.T, strict=True)}
    return Scores(
        clips=len(predictions),
        failed=sum(prediction.status != OK for prediction in predictions),
        values={name: None if math.isnan(value) else float(value) for name, value in zip(names, values, strict=True)},
        intervals={name: one for name, one in found.items() if one is not None},
    )


def _differences(models: Mapping[str, Scores], drawn: np.ndarray, least: float) -> dict[str, Difference]:
    """Return the differences of the scores that both models have; `drawn` are those of the draws (draws, measures)."""
    found = {}
    for measure, column in zip(MEASURES, drawn.T, strict=True):
        before, after = (models[name].values[measure.name] for name in (BASE, TUNED))
        bounds, smallest = interval(column), smallest_difference(column, least if measure.is_share else 0.0)
        if before is not None and after is not None and bounds is not None and smallest is not None:
            low, high = bounds
            found[measure.name] = Difference(value=after - before, low=low, high=high, smallest=smallest)
    return found


def _notes(models: Mapping[str, Scores], of: Units, paired: bool) -> list[str]:
    """Return what a reader has to know about the numbers."""
    first = next(iter(models.values()))
    if not first.clips:
        return ["there are no clips"]
    drawn = f"intervals hold {CONFIDENCE} % of {DRAWS:,} test sets drawn anew from {of}"
    notes = [drawn if of.by_person else f"{drawn}, as nobody is known in them; clips of one person would widen them"]
    if of.count < FEW:
        notes.append(f"{of} are too few for intervals to be relied on: the true ones are wider")
    if paired:
        notes.append(
            'differences are paired, clip by clip; one as great as "detectable from" would show in 4 of 5 test sets'
        )
    for name, one in models.items():
        if one.failed:
            clips = "1 clip" if one.failed == 1 else f"{one.failed:,} clips"
            notes.append(f"{clips} failed ({name}): not matched, and 0 in every score but words an answer")
    if any(one.clips and one.values["exercise_match"] is None for one in models.values()):
        notes.append("no clip's truth reads `exercise - what was seen`, so exercise and fault cannot be matched")
    if not has_wordnet():
        notes.append(NO_WORDNET)
    return notes


def _question_note(predictions: Sequence[Prediction]) -> list[str]:
    """Return a note if questions give away which exercise is shown."""
    named, clips = sum(map(question_names_exercise, predictions)), sum(bool(expected(one)) for one in predictions)
    if not named:
        return []
    which = "the question" if clips == 1 else f"in {named:,} of {clips:,} clips the question"
    return [f"{which} already names the exercise, so exercise match tells little of what the model sees there"]
