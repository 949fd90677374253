"""What counts as right, on answers as models give them."""

import pytest

from formcoach.evaluation.coaching import exercise_matches, fault_matches
from formcoach.inference.predictions import Prediction


def answered(prediction: str, truth: str = "squats - not low enough", **more) -> Prediction:
    fields = {"id": "a", "video": "a.mp4", "prompt": "?", "truth": truth, "prediction": prediction}
    return Prediction(**(fields | more))


@pytest.mark.parametrize(
    ("prediction", "truth", "exercise", "fault"),
    [
        ("squats - not low enough", "squats - not low enough", 1, 1),
        ("  Squats  -  Not low enough. ", "squats - not low enough", 1, 1),
        ("squats - knees cave in", "squats - not low enough", 1, 0),
        ("lunges - not low enough", "squats - not low enough", 0, 0),
        ("A person bends the knees slowly.", "squats - not low enough", 0, 0),
        ("squats", "squats - not low enough", 0, 0),
        ("", "squats - not low enough", 0, 0),
        (" - ", "squats - not low enough", 0, 0),
        ("squats - b\nsquats - a", "squats - a\nsquats - b", 1, 1),
        ("squats - a", "squats - a\nsquats - b", 1, 0),
        ("squats - a\nsquats - b", "squats - a", 1, 0),
        ("squats - a\nsquats - a", "squats - a", 1, 1),
        ("lunges - a\nsquats - a", "squats - a", 0, 0),
        ("squats - a - b", "squats - a - b", 1, 1),
        ("STRASSE - zu früh", "straße - zu fru\u0308h", 1, 1),
    ],
)
def test_what_counts_as_a_match(prediction, truth, exercise, fault):
    given = answered(prediction, truth)
    assert (exercise_matches(given), fault_matches(given)) == (exercise, fault)


def test_labels_are_the_truth_where_the_answer_is_prose():
    assert fault_matches(answered("squats - too shallow", "Go deeper next time!", labels=["squats - too shallow"]))


def test_a_failed_clip_matches_nothing():
    assert not fault_matches(answered("squats - not low enough", status="failed", error="b.mp4: is empty"))
