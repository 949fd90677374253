"""What the tiny base model is pretrained on: demo motion of other people, described in plain words.

The descriptions say what a body does and how fast; they name no exercise, no fault and no correction, and they are not
written as `exercise - what was seen`. The people are drawn from their own random stream, so none is in a demo dataset.
"""

from dataclasses import dataclass

import numpy as np

from formcoach.data.demo_motion import EXERCISES, FAST, SLOW, STEADY, Exercise, Style
from formcoach.data.demo_picture import Take, sample_person, sample_take

PRETRAINING_STREAM = 0x7E17  # keeps these people apart from those of demo datasets

QUESTIONS = (
    "Describe the motion.",
    "What does the person do?",
    "What do you see in this video?",
    "Describe what the body does and how fast.",
)

_MOTION = {
    "squats": "bends both legs {depth} and stands up",
    "push-ups": "faces the floor and bends both arms {depth}",
    "jumping jacks": "swings both arms sideways {height}",
    "high knees": "lifts one leg after the other {height}",
    "forward lunges": "steps ahead and sinks {depth}",
    "shoulder press": "pushes weights upward {height}",
}
_PACE = {SLOW: "slowly", STEADY: "steadily", FAST: "quickly"}


@dataclass(frozen=True)
class DescribedTake:
    """A take with a question and the plain description of what it shows."""

    take: Take
    question: str
    description: str


# What a description says, in the order of `attributes`: name -> number of values.
ATTRIBUTES = {"motion": len(EXERCISES), "range": 2, "trunk": 3, "detail": 6, "pace": 3, "stop": 2}


def attributes(exercise: Exercise, style: Style) -> tuple[int, ...]:
    """Return what a description says as numbers, in the order of `ATTRIBUTES`."""
    trunk = 1 if style.lean > 20 else 2 if style.lean < -12 else 0
    details = (style.knees_in > 0.5, style.hips < -0.08, style.hips > 0.12, style.lag > 0.3)
    closed = exercise.name == "jumping jacks" and style.feet <= 0.5
    detail = next((number for number, seen in enumerate((*details, closed), start=1) if seen), 0)
    pace = (SLOW, STEADY, FAST).index(style.pace)
    return (EXERCISES.index(exercise), int(style.depth > 0.7), trunk, detail, pace, int(style.stops))


def describe(exercise: Exercise, style: Style) -> str:
    """Return one plain sentence about a motion."""
    full = style.depth > 0.7
    motion = _MOTION[exercise.name].format(
        depth="deeply" if full else "a little", height="all the way" if full else "halfway"
    )
    parts = [f"A person {motion} {_PACE[style.pace]}", *_details(exercise, style)]
    parts.append("then stands still" if style.stops else "without a pause")
    return ", ".join(parts) + "."


def _details(exercise: Exercise, style: Style) -> list[str]:
    """Return what else is visible in this exercise."""
    trunk = "bent forward" if style.lean > 20 else "tilted backward" if style.lean < -12 else "upright"
    trunk = f"the back {trunk}"
    if exercise.name == "squats":
        return [trunk, "knees together" if style.knees_in > 0.5 else "knees apart"]
    if exercise.name == "push-ups":
        middle = "hanging" if style.hips < -0.08 else "raised" if style.hips > 0.12 else "straight"
        return [f"the middle {middle}"]
    if exercise.name == "jumping jacks":
        return ["the legs open" if style.feet > 0.5 else "the legs closed"]
    if exercise.name == "shoulder press":
        return [trunk, "one arm lower" if style.lag > 0.3 else "both arms alike"]
    return [trunk]


def sample_style(rng: np.random.Generator, exercise: Exercise) -> Style:
    """Draw a way of moving: any mixture of what can vary in this exercise, most of it usual."""
    depths, leans = _ranges(exercise)
    rare = rng.random(6) < 0.3
    pace = STEADY
    if rng.random() < 0.4:
        pace = SLOW if rng.random() < 0.5 else FAST
    return Style(
        depth=float(rng.uniform(*depths) if rare[0] else rng.uniform(0.93, 1.03)),
        lean=float(rng.uniform(*leans) if rare[1] else rng.uniform(-3, 3)) if leans else 0.0,
        knees_in=float(rng.uniform(0.85, 1.0)) if exercise.name == "squats" and rare[2] else 0.0,
        hips=_hips(rng) if exercise.name == "push-ups" and rare[3] else 0.0,
        feet=float(rng.uniform(0.0, 0.12)) if rare[4] else float(rng.uniform(0.92, 1.0)),
        lag=float(rng.uniform(0.65, 0.85)) if exercise.name == "shoulder press" and rare[5] else 0.0,
        pace=pace,
        stops=bool(rng.random() < (0.35 if exercise.name == "forward lunges" else 0.08)),
    )


def _ranges(exercise: Exercise) -> tuple[tuple[float, float], tuple[float, float] | None]:
    """Return the ranges of a small depth and of an unusual lean (none where the trunk has no say)."""
    faults = [form.style for form in exercise.forms]
    small = min(style.depth for style in faults)
    lean = max((style.lean for style in faults), key=abs)
    return (small - 0.05, small + 0.06), tuple(sorted((0.85 * lean, 1.1 * lean))) if lean else None


def _hips(rng: np.random.Generator) -> float:
    return float(rng.uniform(-0.22, -0.16) if rng.random() < 0.5 else rng.uniform(0.25, 0.34))


def described_take(seed: int, number: int) -> DescribedTake:
    """Return pretraining sample `number` of the stream `seed`; each sample shows another person."""
    rng = np.random.default_rng((PRETRAINING_STREAM, seed, number))
    exercise = EXERCISES[number % len(EXERCISES)]
    style = sample_style(rng, exercise)
    take = sample_take(rng, sample_person(rng), exercise, style)
    return DescribedTake(take, QUESTIONS[rng.integers(len(QUESTIONS))], describe(exercise, style))
