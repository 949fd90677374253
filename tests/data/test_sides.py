"""Left and right in labels: exchanged where they are sides, left alone elsewhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formcoach.data.sides import sides_are_unclear, swap_sides


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("tricep stretch (right arm)", "tricep stretch (left arm)"),
        ("tricep stretch (right arm) - User is holding", "tricep stretch (left arm) - User is holding"),
        ("quad stretch - Left leg", "quad stretch - Right leg"),
        ("LEFT KNEE CAVES IN", "RIGHT KNEE CAVES IN"),
        ("left-hand grip, right-handed", "right-hand grip, left-handed"),
        ("lefthand up", "righthand up"),
        ("right upper arm", "left upper arm"),
        ("your right back foot slips", "your left back foot slips"),
        ("the left/right arm", "the right/left arm"),
        ("left and right arms", "right and left arms"),
        ("move from left to right", "move from right to left"),
        ("Left, right, left!", "Right, left, right!"),
        ("lean to the right", "lean to the left"),
        ("on your left, slightly", "on your right, slightly"),
        ("towards the left in each rep", "towards the right in each rep"),
        ("the user's right dumbbell", "the user's left dumbbell"),
        ("the right is lagging", "the left is lagging"),
        ("side lunge left", "side lunge right"),
        ("side_plank_right", "side_plank_left"),
        ("tricep_stretch_right_arm/0001", "tricep_stretch_left_arm/0001"),
        ("lunges (left)", "lunges (right)"),
        ("leans right, then rotates left.", "leans left, then rotates right."),
        ("shift 2 steps to the left", "shift 2 steps to the right"),
        ("leftmost foot, rightward drift, lefts", "rightmost foot, leftward drift, rights"),
        ("circle clockwise", "circle counterclockwise"),
        ("counter-clockwise, then Anticlockwise", "clockwise, then Clockwise"),
        ("raise (L), R arm", "raise (R), L arm"),
        ("That's right, now the right heel.", "That's right, now the left heel."),
        ("Your right foot: user’s left knee", "Your left foot: user’s right knee"),
        ("two left; right knee bent at a right angle", "two left; left knee bent at a right angle"),
    ],
)  # fmt: skip
def test_sides_are_exchanged_and_case_kept(text, mirrored):
    assert swap_sides(text) == mirrored


@pytest.mark.parametrize(
    "text",
    [
        "that's right",
        "That is exactly right!",
        "right now",
        "all right, alright, upright, outright, bright, cleft",
        "bend the knees to a right angle",
        "at right angles to the floor",
        "right before the bottom, right after it",
        "You have the right form and the right depth",
        "the right way, the right amount, the right technique, at the right height",
        "squats - right speed",
        "Slow down, right?",
        "just right",
        "you're right",
        "you got it right, do it right",
        "keep the bar right over your heels",
        "come right back up",
        "Right, let us begin",
        "user has left",
        "The user left the frame",
        "ten seconds left",
        "how much time left",
        "what is left",
        "5 reps left, right?",
        "Only 10 left, keep going",
        "three squats left",
        "two left to go",
        "arms left out of the picture",
        "a pose d'R, l and r",
        "squats - not low enough",
        "",
    ],
)
def test_other_meanings_are_left_alone_and_are_clear(text):
    assert swap_sides(text) == text
    assert not sides_are_unclear(text)


@pytest.mark.parametrize("text", ["the right kettle is low", "Right!", "leave left there", "squats: step right up"])
def test_what_cannot_be_told_is_reported_and_not_changed(text):
    assert sides_are_unclear(text)
    assert swap_sides(text) == text


SIDES = st.sampled_from(["left", "right", "Left", "Right", "LEFT", "RIGHT"])
PARTS = st.sampled_from(["arm", "leg", "front knee", "upper arm", "side", "hip", "ankles", "-hand", "glute"])
TEMPLATES = st.sampled_from(
    [
        "tricep stretch ({side} {part}) - User is holding the stretch",
        "Raise your {side} {part}, that's right, then the {other} one's {part} for two reps left.",
        "lean to the {side}. {side}/{other}, {other} and {side} {part}s",
        "{side} {part} at a right angle",
        "twist {side}, all right?",
        "on your {other} and {side} now",
        "({side}) what is left: {other} {part}",
    ]
)


@given(
    st.lists(st.tuples(TEMPLATES, SIDES, SIDES, PARTS), min_size=1, max_size=4),
    st.sampled_from([" ", ". ", "\n", ", "]),
)
def test_mirroring_twice_gives_the_text_again(pieces, glue):
    text = glue.join(template.format(side=side, other=other, part=part) for template, side, other, part in pieces)
    assert swap_sides(text) != text
    assert swap_sides(swap_sides(text)) == text


VOCABULARY = """left right now arm the to your lean reps 3 is that's back , . ( ) - / and in ? step form"""
WORDS = st.sampled_from(VOCABULARY.split())


@given(st.lists(WORDS, max_size=9).map(" ".join))
def test_mirroring_twice_gives_any_text_again(text):
    assert swap_sides(swap_sides(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "left foot forward, right back",
        "cross left over right",
        "right foot in front, left behind",
        "two reps left, right arm first",
    ],
)
def test_a_second_side_that_looks_like_something_else_makes_a_text_unclear(text):
    assert sides_are_unclear(text)


@pytest.mark.parametrize("text", ["right now bend the left knee", "keep your right arm right there"])
def test_emphasis_beside_a_side_stays_clear(text):
    assert not sides_are_unclear(text)
