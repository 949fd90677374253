"""Exercise by exercise: the scores of each, what is taken for what, and what a tuned model sees less often."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from formcoach.evaluation.coaching import (
    Observation,
    answered,
    exercise_matches,
    exercises,
    expected,
    fault_matches,
)
from formcoach.inference.predictions import Prediction

NONE = "none named"
ANOTHER = "another"
SEVERAL = "several"


@dataclass(frozen=True)
class ExerciseScores:
    """How one model answers the clips of an exercise.

    Args:
        exercise: its name; of a clip that shows several, all of them.
        clips: how many.
        exercise_match: share of them, in 0..1.
        fault_match: as above.
    """

    exercise: str
    clips: int
    exercise_match: float
    fault_match: float


@dataclass(frozen=True)
class Worse:
    """Something that the tuned model sees in fewer of its clips than the base.

    Args:
        seen: exercise and what was to be seen.
        clips: that show it.
        base: in how many of them the base model saw it.
        tuned: in how many the tuned model did.
    """

    seen: Observation
    clips: int
    base: int
    tuned: int


@dataclass(frozen=True)
class Confusion:
    """Which exercise was taken for which.

    Args:
        truths: rows.
        named: columns: the same, then `ANOTHER`, `SEVERAL` and `NONE`.
        counts: of clips: [row][column].
    """

    truths: list[str]
    named: list[str]
    counts: list[list[int]]


def by_exercise(predictions: Sequence[Prediction]) -> list[ExerciseScores]:
    """Return a row for each exercise that the truths name, by name."""
    clips: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in predictions:
        if truth := expected(prediction):
            clips[_name(exercises(truth))].append(prediction)
    return [
        ExerciseScores(
            exercise=name,
            clips=len(its),
            exercise_match=sum(map(exercise_matches, its)) / len(its),
            fault_match=sum(map(fault_matches, its)) / len(its),
        )
        for name, its in sorted(clips.items())
    ]


def confusion(predictions: Sequence[Prediction]) -> Confusion:
    """Return which exercise was taken for which; clips whose truth names none are left out."""
    pairs = Counter(
        (_name(exercises(truth)), exercises(answered(prediction)))
        for prediction in predictions
        if (truth := expected(prediction))
    )
    truths = sorted({truth for truth, _ in pairs})
    named = [*truths, ANOTHER, SEVERAL, NONE]
    column = {name: place for place, name in enumerate(named)}
    counts = [[0] * len(named) for _ in truths]
    for (truth, answer), count in pairs.items():
        name = _name(answer)
        other = NONE if not answer else SEVERAL if len(answer) > 1 else ANOTHER
        counts[column[truth]][column.get(name, column[other])] += count
    return Confusion(truths, named, counts)


def got_worse(answers: Mapping[str, Sequence[Prediction]], base: str, tuned: str) -> list[Worse]:
    """Return what the tuned model sees less often than the base, the greatest losses first.

    Args:
        answers: of both models, to the same clips.
        base: the one's name.
        tuned: the other's.
    """
    shown = Counter(seen for prediction in answers[base] for seen in expected(prediction))
    found = {
        name: Counter(seen for prediction in answers[name] for seen in expected(prediction) & answered(prediction))
        for name in (base, tuned)
    }
    worse = [
        Worse(seen, clips, found[base][seen], found[tuned][seen])
        for seen, clips in shown.items()
        if found[tuned][seen] < found[base][seen]
    ]
    return sorted(worse, key=lambda one: (one.tuned - one.base, one.seen))


def _name(named: frozenset[str]) -> str:
    return " + ".join(sorted(named))
