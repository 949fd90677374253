"""What an answer says about a clip, read from its lines `exercise - what was seen`."""

import re
import unicodedata

from formcoach.data.annotations import parse_label
from formcoach.inference.predictions import OK, Prediction

Observation = tuple[str, str]  # exercise, what was seen; both normalised


def observations(text: str) -> frozenset[Observation]:
    """Return the (exercise, what was seen) pairs of an answer: its lines of the form `exercise - what was seen`.

    Case, white space and closing punctuation do not count. A line without ` - ` is no observation: a plain description
    is not in the coaching format.
    """
    pairs = (parse_label(line) for line in text.splitlines())
    normal = ((_normal(exercise), _normal(seen)) for exercise, seen in pairs)
    return frozenset(pair for pair in normal if all(pair))


def expected(prediction: Prediction) -> frozenset[Observation]:
    """Return what the clip shows: the observations of its true answer, or of its labels where the answer is prose."""
    return observations(prediction.truth) or observations("\n".join(prediction.labels))


def answered(prediction: Prediction) -> frozenset[Observation]:
    """Return what the model saw; nothing where the clip failed."""
    return observations(prediction.prediction) if prediction.status == OK else frozenset()


def exercises(seen: frozenset[Observation]) -> frozenset[str]:
    """Return the exercises that are named."""
    return frozenset(exercise for exercise, _ in seen)


def question_names_exercise(prediction: Prediction) -> bool:
    """Tell whether what the model was asked names all exercises of the clip, which it then need not see."""
    named, asked = exercises(expected(prediction)), _normal(prediction.prompt)
    return bool(named) and all(re.search(rf"(?<!\w){re.escape(one)}(?!\w)", asked) for one in named)


def exercise_matches(prediction: Prediction) -> bool:
    """Tell whether the answer, in the coaching format, names exactly the exercises of the clip."""
    return prediction.status == OK and exercises(answered(prediction)) == exercises(expected(prediction))


def fault_matches(prediction: Prediction) -> bool:
    """Tell whether the answer sees exactly what the clip shows: the same exercise and the same faults, in any order."""
    return prediction.status == OK and answered(prediction) == expected(prediction)


def _normal(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"\s+", " ", text).strip(" .!?,;:")
