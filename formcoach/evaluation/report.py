"""The scores and example clips as text, and `scores.json`."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from formcoach.errors import UserError
from formcoach.evaluation.coaching import exercise_matches, expected, fault_matches
from formcoach.evaluation.exercises import got_worse
from formcoach.evaluation.metrics import MEASURES, Measure
from formcoach.evaluation.scores import BASE, TUNED, Evaluation, Scores
from formcoach.files import write_json
from formcoach.inference.predictions import OK, Prediction

_SHOWN = 5  # of what got worse
_WIDTH = 120


def write_scores(path: Path, evaluation: Evaluation) -> None:
    """Write `scores.json`: `{"base": {...}, "tuned": {...}, ...}`, each with shares in 0..1."""
    write_json(path, evaluation.to_json())


def score_table(evaluation: Evaluation) -> str:
    """Return the scores as lines of text: a row a score, a column a model, and the difference of two models."""
    models, two = evaluation.models, len(evaluation.models) == 2
    rows = [["", *models, *(["difference", "detectable from"] if two else [])]]
    rows += [[name, *(f"{getattr(one, name):,}" for one in models.values())] for name in ("clips", "failed")]
    for measure in MEASURES:
        if any(one.values[measure.name] is not None for one in models.values()):
            rows.append([measure.title, *(_score(one, measure) for one in models.values())])
            if two:
                rows[-1] += _difference(evaluation, measure)
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(rows[0]))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, *(_wrapped(note) for note in evaluation.notes)])


def worse_text(answers: Mapping[str, Sequence[Prediction]]) -> str:
    """Return what the tuned model sees less often than the base, as lines of text; nothing if there is nothing."""
    worse = got_worse(answers, BASE, TUNED) if len(answers) == 2 else []
    lines = [f"  {' - '.join(one.seen)}: {one.tuned} instead of {one.base} of {one.clips}" for one in worse[:_SHOWN]]
    more = [f"  and {len(worse) - _SHOWN} more"] if len(worse) > _SHOWN else []
    return "\n".join([f"worse than the base ({len(worse)}), clips seen right:", *lines, *more]) if worse else ""


def example_clips(predictions: Sequence[Prediction], count: int = 3) -> list[str]:
    """Return the ids of `count` clips to show: the first of each exercise, spread evenly over the exercises.

    The choice does not look at the answers.
    """
    first: dict[object, str] = {}
    for prediction in predictions:
        first.setdefault(tuple(sorted({exercise for exercise, _ in expected(prediction)})), prediction.id)
    others = [prediction.id for prediction in predictions if prediction.id not in first.values()]
    pool = [*first.values(), *others][: max(len(first), count)]
    count = min(count, len(pool))
    return [pool[place * len(pool) // count] for place in range(count)]


def example_text(answers: dict[str, Sequence[Prediction]], count: int = 3) -> str:
    """Return example clips as text: clip, truth, and each model's answer with a mark for right or wrong."""
    by_id = {model: {prediction.id: prediction for prediction in predictions} for model, predictions in answers.items()}
    shared = [p for p in next(iter(answers.values())) if all(p.id in known for known in by_id.values())]
    blocks = []
    for clip_id in example_clips(shared, count):
        any_answer = next(iter(by_id.values()))[clip_id]
        lines = [any_answer.video, f"  truth  {_one_line(any_answer.truth)}"]
        lines += [f"  {model:5}  {_answer(known[clip_id])}" for model, known in by_id.items()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def check_same_clips(base: Sequence[Prediction], tuned: Sequence[Prediction]) -> None:
    """Refuse to compare predictions of different test sets.

    Raises:
        UserError: a clip is in one of the two only, or its truth differs.
    """
    truths = {prediction.id: prediction.truth for prediction in base}
    other = {prediction.id: prediction.truth for prediction in tuned}
    different = [clip for clip in {**truths, **other} if truths.get(clip) != other.get(clip)]
    if different:
        raise UserError(
            f"the base and tuned predictions are of different test sets: {len(different)} clips differ, "
            f"first: {different[0]!r}. Re-run scripts/run_inference.sh for both"
        )


def _score(one: Scores, measure: Measure) -> str:
    """Return a score and its interval."""
    value, bounds = one.values[measure.name], one.intervals.get(measure.name)
    if value is None or bounds is None:
        return "-"
    low, high = (_number(bound, measure) for bound in bounds)
    return f"{_number(value, measure)}{' %' * measure.is_share} ({low} to {high})"


def _difference(evaluation: Evaluation, measure: Measure) -> list[str]:
    """Return a difference and its interval, and the smallest that could be shown."""
    found = evaluation.differences.get(measure.name)
    if found is None:
        return ["-", "-"]
    value, low, high = (f"{_number(part, measure, '+')}" for part in (found.value, found.low, found.high))
    return [f"{value} ({low} to {high})", _number(found.smallest, measure)]


def _number(value: float, measure: Measure, sign: str = "") -> str:
    return f"{100 * value if measure.is_share else value:{sign}.1f}"


def _wrapped(note: str) -> str:
    return textwrap.fill(note, _WIDTH, initial_indent="* ", subsequent_indent="  ", break_on_hyphens=False)


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    return [
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=False))
    ]


def _answer(prediction: Prediction) -> str:
    if prediction.status != OK:
        return f"failed: {prediction.error}"
    if not expected(prediction):
        return _one_line(prediction.prediction)
    mark = "right" if fault_matches(prediction) else "right exercise" if exercise_matches(prediction) else "wrong"
    return f"{_one_line(prediction.prediction)}   [{mark}]"


def _one_line(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines() if line.strip()) or "(nothing)"
