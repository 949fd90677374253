"""Scores: what counts as right, on answers as models give them."""

import pytest

from formcoach.evaluation.metrics import score
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
    scores = score([answered(prediction, truth)])
    assert (scores.exercise_match, scores.fault_match) == (exercise, fault)


def test_labels_are_the_truth_where_the_answer_is_prose():
    prose = answered("squats - too shallow", "Go deeper next time!", labels=["squats - too shallow"])
    assert score([prose]).fault_match == 1


def test_failed_clips_stay_in_every_share():
    right = answered("squats - not low enough")
    failed = answered("squats - not low enough", id="b", status="failed", error="b.mp4: is empty")
    scores = score([right, failed])
    assert (scores.clips, scores.failed) == (2, 1)
    assert scores.exercise_match == scores.fault_match == scores.rouge_l == 0.5


def test_clips_without_a_stated_exercise_are_not_measured():
    unknown = answered("squats - a", truth="Well done!")
    assert score([unknown]).exercise_match is None
    assert score([unknown, answered("squats - not low enough")]).exercise_match == 1
    assert score([]).fault_match is None


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    # 2 of 3 words of the answer and 2 of 4 of the truth in common: F1 = 2 * (2/3) * (2/4) / (2/3 + 2/4)
    assert score([answered("squats not deep")]).rouge_l == pytest.approx(4 / 7)
