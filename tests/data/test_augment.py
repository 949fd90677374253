"""Augmentations: what is drawn, what labels forbid, what pixels and frames become."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from formcoach.data.augment import (
    AUGMENTATIONS,
    DEFAULT,
    allowed,
    check_names,
    draw,
    longest,
    mirror_text,
    strongest,
    timeline,
)
from formcoach.data.augment_picture import PictureChange
from formcoach.data.convert import MOBILE_QUESTION, QUESTION
from formcoach.errors import UserError

TIME = {"tempo", "temporal_crop"}
WARPS = ("rotation", "scale", "translation", "shear")


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def forbidden(*texts: str) -> set[str]:
    return set(AUGMENTATIONS) - set(allowed(tuple(AUGMENTATIONS), texts))


@pytest.fixture
def picture() -> np.ndarray:
    """A bright scene with a person in red, left of the centre."""
    frame = np.full((120, 160, 3), (200, 190, 170), np.uint8)
    frame[30:110, 40:60] = (180, 40, 40)
    frame[20:30, 45:55] = (220, 170, 150)
    return frame


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("squats - good form", set()),
        ("squats - not low enough", set()),
        (QUESTION, set()),
        (MOBILE_QUESTION.format(exercise="squat"), set()),
        ("squats - moving too fast", TIME),
        ("slow down and CONTROL each drop", TIME),
        ("plank - hold for 5 seconds", TIME),
        ("push-ups - rushing, uses momentum", TIME),
        ("push-ups - stops early", {"temporal_crop"}),
        ("the last repetition is incomplete", {"temporal_crop"}),
        ("arms not visible", {"scale", "translation", "shear", "blur", "salt_and_pepper", "jpeg", "brightness"}
         | {"contrast", "colour_inversion"}),
        ("user is out of frame", {"scale", "translation", "shear"}),
        ("too dark to see", {"brightness", "contrast", "colour_inversion"}),
        ("the picture is blurry", {"blur", "salt_and_pepper", "jpeg"}),
        ("wearing a red shirt", {"colour", "colour_inversion"}),
        ("elbows at 90 degrees", {"shear"}),
        ("camera is tilted", {"rotation", "scale", "translation", "shear"}),
        ("the right kettle is low", {"horizontal_flip", "vertical_flip"}),
        ("tricep stretch (right arm), that's right", set()),
    ],
)  # fmt: skip
def test_a_label_forbids_what_would_falsify_it(text, expected):
    assert forbidden(text) == expected
    assert forbidden("lunges - good form", text) == expected


def test_tempo_is_never_drawn_for_a_label_about_speed():
    names = allowed(DEFAULT, ["squats - moving too slowly"])
    drawn = [draw(names, generator(seed), at_least_one=True) for seed in range(300)]
    assert not any({"tempo", "cut_start"} & changes.keys() for changes in drawn)
    assert all(drawn)


def test_a_draw_stays_in_its_ranges_and_is_decided_by_the_generator():
    ranges = {name: limits for one in AUGMENTATIONS.values() for name, limits in one.parameters.items()}
    seen = set()
    for seed in range(300):
        changes = draw(tuple(AUGMENTATIONS), generator(seed))
        assert changes == draw(tuple(AUGMENTATIONS), generator(seed))
        assert all(ranges[name][0] <= value <= ranges[name][1] for name, value in changes.items())
        seen |= changes.keys()
    assert seen == ranges.keys()
    assert len({tuple(draw(DEFAULT, generator(seed)).items()) for seed in range(100)}) > 90


def test_what_is_drawn_of_one_does_not_depend_on_the_others():
    for seed in range(50):
        alone = draw(("rotation",), generator(seed))
        assert alone.items() <= draw(DEFAULT, generator(seed)).items()


def test_names_are_checked():
    assert check_names(["jpeg", "rotation", "jpeg"], "x") == ("rotation", "jpeg")
    for names, message in (
        (["zoom"], "--augmentations: 'zoom' is no augmentation; there are horizontal_flip, "),
        ([], "none"),
    ):
        with pytest.raises(UserError, match=message if names else "no augmentation is named"):
            check_names(names, "--augmentations")


def test_mirroring_swaps_sides_and_two_flips_do_not():
    text = "tricep stretch (right arm)"
    assert mirror_text(text, {"horizontal_flip": 1.0, "rotation": 3.0}) == "tricep stretch (left arm)"
    assert mirror_text(text, {"vertical_flip": 1.0}) == "tricep stretch (left arm)"
    assert mirror_text(text, {"vertical_flip": 1.0, "horizontal_flip": 1.0}) == text
    assert mirror_text(text, {"rotation": 3.0}) == text


@given(st.integers(1, 400), st.floats(0.5, 2), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_timeline_goes_through_the_part_that_is_left_at_its_speed(frames, tempo, cut_start, cut_end):
    shown = timeline({"tempo": tempo, "cut_start": cut_start, "cut_end": cut_end}, frames)
    assert shown
    assert shown == sorted(shown)
    assert 0 <= shown[0] <= shown[-1] < frames
    left = frames - int(frames * cut_start) - int(frames * cut_end)
    if left >= 2:
        assert int(frames * cut_start) <= shown[0]
        assert shown[-1] < frames - int(frames * cut_end)
        assert abs(len(shown) - left / tempo) <= 1


def test_no_change_is_no_timeline():
    assert timeline({"rotation": 3.0}, 7) == list(range(7))
    assert timeline({"tempo": 2.0}, 8) == [1, 3, 5, 7]
    assert timeline({"tempo": 0.5}, 3) == [0, 0, 1, 1, 2, 2]


def test_the_longest_record_is_slow(picture):
    slow = {"tempo": AUGMENTATIONS["tempo"].parameters["tempo"][0]}
    assert longest(("rotation",)) == [{}]
    assert slow in longest(DEFAULT)


def test_flips_move_pixels_exactly(picture):
    height, width = picture.shape[:2]
    for change, expected in (("horizontal_flip", picture[:, ::-1]), ("vertical_flip", picture[::-1])):
        flipped = PictureChange({change: 1.0}, width, height)(picture, generator())
        assert np.array_equal(flipped, expected)
    inverted = PictureChange({"colour_inversion": 1.0}, width, height)(picture, generator())
    assert np.array_equal(inverted, 255 - picture)


@pytest.mark.parametrize("name", [*WARPS, "horizontal_flip"])
def test_no_warp_brings_black_wedges(picture, name):
    for sign in (1, -1):
        changes = {
            parameter: value if name == "scale" else sign * value for parameter, value in strongest(name).items()
        }
        if name == "scale" and sign == -1:
            changes = {"scale": AUGMENTATIONS["scale"].parameters["scale"][0]}
        changed = PictureChange(changes, 160, 120)(picture, generator())
        assert not np.array_equal(changed, picture)
        assert changed.min() >= 39  # the darkest value of the person's red


def test_a_warp_of_resized_frames_shows_what_the_resized_warp_shows(picture):
    import cv2

    changes = {"rotation": 8.0, "scale": 1.1, "translation_x": 0.05, "translation_y": -0.03, "shear": 4.0}
    soft = cv2.GaussianBlur(picture, (0, 0), 3)
    direct = cv2.resize(PictureChange(changes, 160, 120)(soft, generator()), (112, 112))
    resized = PictureChange(changes, 112, 112, aspect=160 / 120)(cv2.resize(soft, (112, 112)), generator())
    assert np.abs(direct.astype(int) - resized).mean() < 1


def test_a_rotation_turns_counter_clockwise():
    frame = np.zeros((101, 101, 3), np.uint8)
    frame[45:56, 90:] = 255  # at the right
    turned = PictureChange({"rotation": 90.0}, 101, 101)(frame, generator())
    assert turned[:11, 50].min() == 255  # at the top


def test_colours_change_as_named(picture):
    def mean(changes: dict[str, float]) -> np.ndarray:
        return PictureChange(changes, 160, 120)(picture, generator()).mean(axis=(0, 1))

    before = picture.mean(axis=(0, 1))
    assert np.allclose(mean({"brightness": 0.7}), 0.7 * before, atol=1)
    assert np.ptp(mean({"saturation": 0.0, "hue": 0.0})) < 2
    assert np.allclose(mean({"contrast": 0.5}), 127.5 + 0.5 * (before - 127.5), atol=1)
    assert not np.allclose(mean({"hue": 12.0, "saturation": 1.0}), before, atol=2)


def test_noise_differs_from_frame_to_frame_and_geometry_does_not(picture):
    frames = np.stack([picture] * 3)
    noisy = PictureChange({"salt_and_pepper": 0.01}, 160, 120).all(frames, generator())
    assert not np.array_equal(noisy[0], noisy[1])
    assert 0.005 < (noisy[0] != picture).any(axis=-1).mean() <= 0.01
    turned = PictureChange({"rotation": 5.0}, 160, 120).all(frames, generator())
    assert np.array_equal(turned[0], turned[2])


def test_the_given_frames_stay_as_they_are(picture):
    before = picture.copy()
    for name in AUGMENTATIONS:
        changed = PictureChange(strongest(name), 160, 120)(picture, generator())
        assert changed.shape == picture.shape
        assert changed.dtype == np.uint8
        assert np.array_equal(picture, before)
