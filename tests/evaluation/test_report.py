"""What is printed about the scores."""

import json

import pytest

from formcoach.errors import UserError
from formcoach.evaluation.evaluate import common_clips, present, refuse_failures
from formcoach.evaluation.report import check_same_clips, example_clips
from formcoach.inference.predictions import Prediction

EXERCISES = ("squats", "lunges", "planks", "push-ups")


def predictions(answer, count=8):
    return [
        Prediction(
            id=str(number),
            video=f"{number}.mp4",
            prompt="?",
            truth=f"{EXERCISES[number % 4]} - correct form",
            prediction=answer(EXERCISES[number % 4]),
        )
        for number in range(count)
    ]


BASE = predictions(lambda exercise: "a figure moves")
TUNED = predictions(lambda exercise: f"{exercise} - correct form" if exercise != "planks" else "squats - correct form")


def test_table_and_scores_file_agree(tmp_path, capsys):
    present({"base": BASE, "tuned": TUNED}, tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert list(scores) == ["base", "tuned", "differences", "notes"]
    assert scores["base"]["exercise_match"] == 0 and scores["tuned"]["exercise_match"] == 0.75
    printed = capsys.readouterr().out
    assert "75.0 % (" in printed and "+75.0 (+" in printed
    assert printed.count("truth") == 3


def test_examples_show_different_exercises_whatever_the_answers():
    chosen = example_clips(TUNED)
    assert len({TUNED[int(clip)].truth for clip in chosen}) == 3
    assert example_clips(BASE) == chosen
    assert example_clips(TUNED[:2]) == ["0", "1"]
    assert len(example_clips([TUNED[0], TUNED[4], *TUNED[5:6]])) == 3
    assert example_clips([]) == []


def test_two_models_are_compared_on_the_clips_of_both(tmp_path):
    present(common_clips({"base": BASE, "tuned": TUNED[3::-1]}), tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["base"]["clips"] == scores["tuned"]["clips"] == 4


def test_predictions_of_different_test_sets_are_not_compared():
    with pytest.raises(UserError, match="different test sets: 2 clips differ, first: '6'"):
        check_same_clips(BASE, TUNED[:6])


def test_failures_are_told_with_their_number_and_reason():
    failed = Prediction(id="9", video="9.mp4", prompt="?", truth="x", status="failed", error="9.mp4: no such file")
    with pytest.raises(UserError, match=r"1 of 9 clips failed \(tuned\).*9.mp4: no such file"):
        refuse_failures({"base": BASE, "tuned": [*TUNED, failed]})
    refuse_failures({"base": BASE})
