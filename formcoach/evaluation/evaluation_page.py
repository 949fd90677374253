"""A test set's answers as one HTML page that needs nothing but itself: scores, charts, and each clip to look at."""

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from formcoach.data.overview_strips import jpeg, small
from formcoach.data.sampling import frame_indices
from formcoach.data.video import read_clip
from formcoach.errors import UserError
from formcoach.evaluation.coaching import exercise_matches, exercises, expected, fault_matches
from formcoach.evaluation.exercises import Confusion, by_exercise, confusion, got_worse
from formcoach.evaluation.marked import marked
from formcoach.evaluation.metrics import MEASURES, ClipScore, Measure
from formcoach.evaluation.scores import BASE, TUNED, Difference, Evaluation, Scores
from formcoach.files import inside
from formcoach.inference.predictions import OK, Prediction
from formcoach.pages import embedded_json, environment, script_of, shared_style

FOLDER = "evaluation_report"  # of the templates
FRAMES = 6  # of a clip
BOX = (96, 72)  # pixels of a frame at most
QUALITY = 60  # of JPEGs: 2,000 clips make a page of some 15 MB
RIGHT, EXERCISE, WRONG, FAILED, UNKNOWN = "right", "exercise", "wrong", "failed", "unknown"
_ORDER = (FAILED, WRONG, EXERCISE, RIGHT)  # from worst to best


@dataclass(frozen=True)
class Strip:
    """Some frames of a clip, side by side.

    Args:
        image: a JPEG.
        width: in pixels.
        height: in pixels.
    """

    image: bytes
    width: int
    height: int


def read_strips(root: Path, videos: Sequence[str]) -> Iterator[Strip | None]:
    """Yield a strip of each clip, in turn, or None where it cannot be read; looks at several at a time."""
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        yield from pool.map(lambda video: _strip(root, video), videos)
    finally:
        pool.shutdown(cancel_futures=True)


def page(
    answers: Mapping[str, Sequence[Prediction]],
    evaluation: Evaluation,
    strips: Mapping[str, Strip],
    clips: str | None,
    sources: Sequence[str],
) -> str:
    """Return the page.

    Args:
        answers: of one model or two, the same clips in the same order.
        evaluation: their scores.
        strips: frames by `Prediction.video`, of the clips that have some.
        clips: the folder of the clips as seen from the page's, to play them from there; None: they are not played.
        sources: lines that tell where the answers come from.
    """
    script, script_hash = script_of(FOLDER)
    templates = environment(FOLDER)
    shown = [measure for measure in MEASURES if _is_measured(evaluation, measure)]
    first = next(iter(answers.values()))
    return templates.get_template("page.html.jinja").render(
        models=evaluation.models,
        two=len(evaluation.models) == 2,
        sources=sources,
        notes=evaluation.notes,
        scores=[_score_row(measure, evaluation) for measure in shown],
        intervals=[_interval_row(measure, evaluation) for measure in shown if measure.is_share],
        exercises=_exercise_rows(answers),
        confusions={name: _shaded(confusion(predictions)) for name, predictions in answers.items()},
        worse=got_worse(answers, BASE, TUNED) if len(answers) == 2 else [],
        outcomes={name: _outcomes(predictions) for name, predictions in answers.items()},
        names=sorted({name for prediction in first for name in exercises(expected(prediction))}),
        rows=embedded_json(_clip_rows(answers, evaluation.clips, strips, clips)),
        count=len(first),
        style=shared_style() + (templates.loader.get_source(templates, "style.css")[0]),
        script=script,
        script_hash=script_hash,
    )


def outcome(prediction: Prediction) -> str:
    """Return how right an answer is."""
    if prediction.status != OK:
        return FAILED
    if not expected(prediction):
        return UNKNOWN
    return RIGHT if fault_matches(prediction) else EXERCISE if exercise_matches(prediction) else WRONG


def change(base: str, tuned: str) -> str:
    """Return how an outcome compares with another: `better`, `worse` or `same`; nothing where it is unknown."""
    if UNKNOWN in (base, tuned):
        return ""
    step = _ORDER.index(tuned) - _ORDER.index(base)
    return "better" if step > 0 else "worse" if step < 0 else "same"


def _strip(root: Path, video: str) -> Strip | None:
    try:
        frames = read_clip(inside(root, video), lambda total, _fps: frame_indices(total, FRAMES)).frames
    except (UserError, OSError):
        return None  # told with its prediction if it was so then
    frames = np.stack([small(frame, BOX) for frame in frames])
    return Strip(jpeg(frames, QUALITY), frames.shape[0] * frames.shape[2], frames.shape[1])


def _is_measured(evaluation: Evaluation, measure: Measure) -> bool:
    return any(one.values[measure.name] is not None for one in evaluation.models.values())


def _score_row(measure: Measure, evaluation: Evaluation) -> dict[str, Any]:
    found = evaluation.differences.get(measure.name)
    return {
        "title": measure.title,
        "models": [_number_and_bounds(one, measure) for one in evaluation.models.values()],
        "difference": _of(found.value, measure, "+") if found else "-",
        "bounds": f"{_of(found.low, measure, '+')} to {_of(found.high, measure, '+')}" if found else "",
        "smallest": _of(found.smallest, measure) if found else "-",
        "shown": _direction(found) if found and measure.is_share else "",
    }


def _direction(found: Difference) -> str:
    return "better" if found.low > 0 else "worse" if found.high < 0 else ""


def _number_and_bounds(one: Scores, measure: Measure) -> tuple[str, str]:
    value, bounds = one.values[measure.name], one.intervals.get(measure.name)
    if value is None or bounds is None:
        return "-", ""
    low, high = (_of(bound, measure) for bound in bounds)
    return _of(value, measure) + (" %" if measure.is_share else ""), f"{low} to {high}"


def _interval_row(measure: Measure, evaluation: Evaluation) -> dict[str, Any]:
    """Return what the chart of a share draws: per cent, by model."""
    points = []
    for name, one in evaluation.models.items():
        value, bounds = one.values[measure.name], one.intervals.get(measure.name)
        if value is not None and bounds is not None:
            low, high = (min(max(100 * bound, 0.0), 100.0) for bound in bounds)
            points.append({"model": name, "value": max(100 * value, 0.0), "low": low, "width": high - low})
    return {"title": measure.title, "points": points}


def _exercise_rows(answers: Mapping[str, Sequence[Prediction]]) -> list[dict[str, Any]]:
    """Return a row for each exercise: clips, and both matches of each model in per cent."""
    models = [by_exercise(predictions) for predictions in answers.values()]
    return [
        {
            "name": rows[0].exercise,
            "clips": rows[0].clips,
            "exercise": [100 * row.exercise_match for row in rows],
            "fault": [100 * row.fault_match for row in rows],
        }
        for rows in zip(*models, strict=True)
    ]


def _shaded(found: Confusion) -> dict[str, Any]:
    """Return a confusion matrix, each cell with its share of the row."""
    rows = []
    for truth, counts in zip(found.truths, found.counts, strict=True):
        cells = [
            {"count": count, "share": count / sum(counts), "is_right": name == truth}
            for name, count in zip(found.named, counts, strict=True)
        ]
        rows.append({"truth": truth, "cells": cells})
    used = [any(counts[place] for counts in found.counts) for place in range(len(found.named))]
    is_shown = [use or name in found.truths for name, use in zip(found.named, used, strict=True)]
    for row in rows:
        row["cells"] = [cell for cell, shown in zip(row["cells"], is_shown, strict=True) if shown]
    return {"named": [name for name, shown in zip(found.named, is_shown, strict=True) if shown], "rows": rows}


def _outcomes(predictions: Sequence[Prediction]) -> dict[str, int]:
    given = [outcome(prediction) for prediction in predictions]
    return {kind: given.count(kind) for kind in (RIGHT, EXERCISE, WRONG, FAILED, UNKNOWN) if kind in given}


def _clip_rows(
    answers: Mapping[str, Sequence[Prediction]],
    measured: Mapping[str, Sequence[ClipScore]],
    strips: Mapping[str, Strip],
    clips: str | None,
) -> list[dict[str, Any]]:
    """Return what the script shows of each clip; an exercise or answer is text, never markup."""
    rows = []
    for place, first in enumerate(next(iter(answers.values()))):
        given = {name: predictions[place] for name, predictions in answers.items()}
        outcomes = {name: outcome(prediction) for name, prediction in given.items()}
        strip = strips.get(first.video)
        rows.append(
            {
                "id": first.id,
                "video": first.video,
                "href": f"{clips}/{quote(first.video)}" if clips is not None else "",
                "exercises": sorted(exercises(expected(first))),
                "prompt": first.prompt,
                "truth": first.truth,
                "change": change(*outcomes.values()) if len(outcomes) == 2 else "",
                "answers": [
                    {
                        "model": name,
                        "outcome": outcomes[name],
                        "pieces": marked(first.truth, prediction.prediction),
                        "error": prediction.error or "",
                        "seconds": prediction.seconds,
                        **_shares(measured[name][place]),
                    }
                    for name, prediction in given.items()
                ],
                "image": base64.b64encode(strip.image).decode() if strip else "",
                "size": [strip.width, strip.height] if strip else [],
            }
        )
    return rows


def _shares(clip: ClipScore) -> dict[str, float]:
    names = {"METEOR": clip.meteor, "ROUGE-L": clip.rouge_l, "similarity": clip.similarity, "judge": clip.judge}
    return {"scores": {name: round(value, 3) for name, value in names.items() if value is not None}}


def _of(value: float, measure: Measure, sign: str = "") -> str:
    return f"{100 * value if measure.is_share else value:{sign}.1f}"
