"""Exercise by exercise, what is taken for what, and what got worse."""

from formcoach.evaluation.exercises import by_exercise, confusion, got_worse


def test_each_exercise_has_a_row_of_its_own(make):
    answers = [
        make("squats - a", truth="squats - a"),
        make("squats - b", truth="Squats - a"),
        make("lunges - a", truth="squats - a"),
        make("planks - a", truth="planks - a"),
        make("planks - a", truth="Good!"),
        make("", truth="planks - a", status="failed", error="gone"),
    ]
    planks, squats = by_exercise(answers)
    assert (planks.exercise, planks.clips, planks.exercise_match, planks.fault_match) == ("planks", 2, 0.5, 0.5)
    assert (squats.exercise, squats.clips) == ("squats", 3)
    assert (squats.exercise_match, squats.fault_match) == (2 / 3, 1 / 3)


def test_confusions_are_counted(make):
    answers = [
        make("squats - a", truth="squats - a"),
        make("lunges - a", truth="squats - a"),
        make("jumping - a", truth="squats - a"),
        make("squats - a\nlunges - a", truth="squats - a"),
        make("A person bends.", truth="squats - a"),
        make("", truth="lunges - a", status="failed", error="gone"),
        make("planks - a\nsquats - a", truth="squats - b\nplanks - b"),
        make("anything", truth="Good!"),
    ]
    found = confusion(answers)
    assert found.truths == ["lunges", "planks + squats", "squats"]
    assert found.named == [*found.truths, "another", "several", "none named"]
    assert found.counts == [[0, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1]]


def test_what_got_worse_is_named_worst_first(make):
    def answers(*right: bool):
        truths = ["squats - a"] * 3 + ["squats - b"] * 2 + ["lunges - a"]
        return [make(truth if good else "no", truth=truth) for truth, good in zip(truths, right, strict=True)]

    base, tuned = answers(1, 1, 1, 1, 0, 0), answers(1, 0, 0, 0, 0, 1)
    worst, next_one = got_worse({"base": base, "tuned": tuned}, "base", "tuned")
    assert (worst.seen, worst.clips, worst.base, worst.tuned) == (("squats", "a"), 3, 3, 1)
    assert (next_one.seen, next_one.clips, next_one.base, next_one.tuned) == (("squats", "b"), 2, 1, 0)
    assert got_worse({"base": base, "tuned": base}, "base", "tuned") == []
