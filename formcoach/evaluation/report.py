"""The scores and example clips as text, and `scores.json`."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from formcoach.errors import UserError
from formcoach.evaluation.metrics import Scores, exercise_matches, expected, fault_matches
from formcoach.files import write_json
from formcoach.inference.predictions import OK, Prediction

BASE = "base"
TUNED = "tuned"
_ROWS = (("exercise match", "exercise_match"), ("fault match", "fault_match"), ("ROUGE-L", "rouge_l"))


def write_scores(path: Path, scores: dict[str, Scores]) -> None:
    """Write `scores.json`: `{"base": {...}, "tuned": {...}}`, each with shares in 0..1."""
    write_json(path, msgspec.to_builtins(scores))


def score_table(scores: dict[str, Scores]) -> str:
    """Return the scores as lines of text: a row a score, a column a model, and the difference of two models."""
    rows = [["", *scores]]
    rows += [
        [name, *(str(msgspec.structs.asdict(score)[name]) for score in scores.values())] for name in ("clips", "failed")
    ]
    for title, field in _ROWS:
        rows.append([title, *(_percent(msgspec.structs.asdict(score)[field]) for score in scores.values())])
    if len(scores) == 2:
        _add_differences(rows, *scores.values())
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(rows[0]))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    if any(score.exercise_match is None and score.clips for score in scores.values()):
        lines.append("no clip's truth reads `exercise - what was seen`, so exercise and fault cannot be matched")
    return "\n".join(lines)


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


def _add_differences(rows: list[list[str]], first: Scores, second: Scores) -> None:
    rows[0].append("difference")
    for row, (_, field) in zip(rows[3:], _ROWS, strict=True):
        before, after = msgspec.structs.asdict(first)[field], msgspec.structs.asdict(second)[field]
        row.append("-" if before is None or after is None else f"{100 * (after - before):+.1f}")


def _aligned(row: list[str], widths: list[int]) -> list[str]:
    return [
        cell.ljust(width) if column == 0 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=False))
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _answer(prediction: Prediction) -> str:
    if prediction.status != OK:
        return f"failed: {prediction.error}"
    if not expected(prediction):
        return _one_line(prediction.prediction)
    mark = "right" if fault_matches(prediction) else "right exercise" if exercise_matches(prediction) else "wrong"
    return f"{_one_line(prediction.prediction)}   [{mark}]"


def _one_line(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines() if line.strip()) or "(nothing)"
