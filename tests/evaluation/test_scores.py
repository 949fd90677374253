"""Scores and their intervals: what can be counted by hand comes out, and nothing is left out in silence."""

import json
import random
from dataclasses import dataclass

import numpy as np
import pytest

from formcoach.evaluation import scores as scores_module
from formcoach.evaluation.report import score_table, write_scores
from formcoach.evaluation.resampling import draws, interval, point, smallest_difference, units
from formcoach.evaluation.scores import BASE, TUNED, evaluate

WRONG = "squats - knees cave in"


@dataclass
class Crowd:
    """A test set of people whose clips are right with a probability of their own."""

    people: int
    clips_each: int
    seed: int

    def predictions(self, make, by_person: bool = True):
        draw = random.Random(self.seed)
        for person in range(self.people):
            skill = draw.choice([0.05, 0.95])
            for _ in range(self.clips_each):
                known = {"person": f"p{person}"} if by_person else {}
                yield make(**({} if draw.random() < skill else {"prediction": WRONG}), **known)


def test_scores_are_what_one_counts(make):
    both = "squats - not low enough\nsquats - knees cave in"
    answers = [
        make(),
        make(WRONG),
        make(truth=both),
        make("Well done!"),
        make(both),
        make("Nice.", truth="Nice work."),
        make("", status="failed", error="no such file"),
    ]
    one = evaluate({TUNED: answers}, embed=False).models[TUNED]
    assert (one.clips, one.failed) == (7, 1)
    assert one.values["exercise_match"] == pytest.approx(4 / 6)
    assert one.values["fault_match"] == pytest.approx(1 / 6)
    # right, wrong, one of two, nothing said, one right of two said, nothing said as it failed
    assert one.values["fault_precision"] == pytest.approx(3 / 5)
    assert one.values["fault_recall"] == pytest.approx(3 / 7)
    assert one.values["fault_f1"] == pytest.approx(2 * 3 / (5 + 7))
    assert one.values["words"] == pytest.approx((5 + 5 + 5 + 2 + 10 + 1) / 6)
    assert one.values["similarity"] is None and "similarity" not in one.intervals


def test_a_failed_clip_is_a_zero_that_is_told(make):
    answers = [make(), make("", status="failed", error="gone")]
    evaluation = evaluate({TUNED: answers}, embed=True)
    values = evaluation.models[TUNED].values
    assert all(values[name] == pytest.approx(0.5) for name in ("fault_match", "rouge_l", "similarity", "fault_recall"))
    assert values["fault_precision"] == 1
    assert "1 clip failed (tuned): not matched, and 0 in every score but words an answer" in evaluation.notes


def test_nothing_to_measure_is_no_score(make):
    evaluation = evaluate({TUNED: [make("a", truth="Well done!")]}, embed=False)
    assert evaluation.models[TUNED].values["exercise_match"] is None
    assert any("cannot be matched" in note for note in evaluation.notes)
    empty = evaluate({BASE: [], TUNED: []}, embed=False)
    assert empty.models[TUNED].values["fault_match"] is None and empty.differences == {}
    assert empty.notes == ["there are no clips"]


def test_clips_of_one_person_are_drawn_together(make):
    answers = list(Crowd(people=12, clips_each=20, seed=1).predictions(make))
    wide = evaluate({TUNED: answers}, embed=False).models[TUNED].intervals["fault_match"]
    unknown = [make(answer.prediction) for answer in answers]
    narrow = evaluate({TUNED: unknown}, embed=False).models[TUNED].intervals["fault_match"]
    assert wide[1] - wide[0] > 2.5 * (narrow[1] - narrow[0])


@pytest.mark.parametrize("by_person", [True, False])
def test_intervals_hold_the_truth_about_as_often_as_they_say(make, by_person):
    """Of 100 test sets of 40 people, whose share of right clips is a half on average."""
    held = 0
    for seed in range(100):
        answers = list(Crowd(people=40, clips_each=5, seed=seed).predictions(make, by_person))
        right = np.array([[[answer.prediction != WRONG, 1.0]] for answer in answers])
        low, high = interval(draws(right, units(answers))[:, 0])
        held += low <= 0.5 <= high
    assert (held >= 90) if by_person else (held <= 85)


def test_people_that_are_partly_known(make):
    answers = [make(person="a"), make(person="a"), make(video="x.mp4"), make(video="x.mp4"), make(video="y.mp4")]
    found = units(answers)
    assert found.of_clip.tolist() == [0, 0, 1, 1, 2]
    assert found.by_person and str(found) == "3 people"


def test_differences_are_paired(make):
    """Two models that fail on the same hard clips: the difference is surer than either score."""
    hard = [random.Random(place).random() < 0.5 for place in range(200)]
    base = [make(WRONG if one or place % 10 == 0 else "squats - not low enough") for place, one in enumerate(hard)]
    tuned = [make(WRONG if one else "squats - not low enough") for one in hard]
    evaluation = evaluate({BASE: base, TUNED: tuned}, embed=False)
    difference = evaluation.differences["fault_match"]
    gained = sum(a.prediction != b.prediction for a, b in zip(base, tuned, strict=True)) / 200
    assert difference.value == pytest.approx(gained)
    assert 0 < difference.low < gained < difference.high
    low, high = evaluation.models[TUNED].intervals["fault_match"]
    assert difference.high - difference.low < 0.7 * (high - low)
    # 2.8 standard errors of a share of 200 clips
    assert difference.smallest == pytest.approx(2.8 * (gained * (1 - gained) / 200) ** 0.5, rel=0.15)


def test_a_difference_that_never_varies_is_not_called_shown_from_nothing():
    assert smallest_difference(np.ones(50), 1 / 75) == 1 / 75
    assert smallest_difference(np.full(50, np.nan), 1 / 75) is None
    assert interval(np.full(5, np.nan)) is None


def test_the_same_answers_give_the_same_numbers(make):
    answers = [make(), make(WRONG), make()]
    assert evaluate({TUNED: answers}, embed=False) == evaluate({TUNED: answers}, embed=False)


def test_a_score_is_the_ratio_of_sums():
    ratios = np.array([[[1.0, 2.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])
    values = point(ratios)
    assert values[0] == pytest.approx(2 / 3) and np.isnan(values[1])


def test_notes_tell_what_cannot_be_relied_on(make, monkeypatch):
    answers = [make(person="a"), make(person="b")]
    notes = " ".join(evaluate({BASE: answers, TUNED: answers}, embed=False).notes)
    assert "drawn anew from 2 people" in notes and "2 people are too few" in notes
    many = " ".join(evaluate({TUNED: [make() for _ in range(12)]}, embed=False).notes)
    assert "12 clips, as nobody is known" in many and "too few" not in many
    monkeypatch.setattr(scores_module, "has_wordnet", lambda: False)
    assert "no synonyms" in " ".join(evaluate({TUNED: answers}, embed=False).notes)
    monkeypatch.setattr(scores_module, "has_wordnet", lambda: True)
    assert "no synonyms" not in " ".join(evaluate({TUNED: answers}, embed=False).notes)


def test_questions_that_name_the_exercise_are_counted(make):
    asked = "Analyze this {} video and provide corrective feedback."
    answers = [make(prompt=asked.format("Squats")), make(), make(prompt=asked.format("squatsy"))]
    answers += [
        make(truth="squats - a\nlunges - b", prompt=asked.format("squats")),
        make(truth="Fine.", prompt="squats?"),
    ]
    evaluation = evaluate({BASE: answers, TUNED: answers}, embed=False)
    told = "in 1 of 4 clips the question already names the exercise"
    assert sum(note.startswith(told) for note in evaluation.notes) == 1
    assert told in score_table(evaluation)
    assert "already names" not in score_table(evaluate({TUNED: answers[1:]}, embed=False))
    assert "the question already names the exercise" in score_table(evaluate({TUNED: answers[:1]}, embed=False))


def test_the_file_holds_what_was_computed(make, tmp_path):
    evaluation = evaluate({BASE: [make(WRONG), make()], TUNED: [make(), make()]}, embed=False)
    write_scores(tmp_path / "scores.json", evaluation)
    told = json.loads((tmp_path / "scores.json").read_text())
    assert list(told) == ["base", "tuned", "differences", "notes"]
    assert told["base"]["fault_match"] == 0.5 and told["base"]["clips"] == 2
    assert told["base"]["intervals"]["fault_match"] == [0, 1]
    assert told["differences"]["fault_match"]["value"] == 0.5
