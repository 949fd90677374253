"""What Mobile-VideoGPT's processor takes of a clip."""

import numpy as np
import pytest

from formcoach.models import resolve_checkpoint
from formcoach.models.mobilevideogpt.processor import MobileVideoGPTProcessor


@pytest.fixture(scope="module")
def processor():
    return MobileVideoGPTProcessor.from_pretrained(resolve_checkpoint("tiny-mobile"))


def test_short_clips_give_frames_at_an_even_stride(processor):
    assert processor.select_frames(145, 30.0) == list(range(0, 136, 9))
    assert processor.select_frames(90, 30.0) == list(range(0, 76, 5))
    assert processor.select_frames(31, 15.0) == list(range(0, 31, 2))
    assert processor.select_frames(300, 30.0) == list(range(0, 286, 19))


def test_long_clips_give_one_a_second_or_as_many_spread_over_them(processor):
    assert processor.select_frames(480, 30.0) == list(range(0, 480, 30))
    assert processor.select_frames(16 * 25, 24.97) == list(range(0, 400, 25))
    seconds = [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13, 15, 16, 17, 19]
    assert processor.select_frames(600, 30.0) == [30 * second for second in seconds]


def test_clips_with_too_few_frames_give_their_last_one_again(processor):
    assert processor.select_frames(3, 30.0) == [0, 1] + 14 * [2]
    assert processor.select_frames(1, 30.0) == 16 * [0]


def test_another_number_of_frames_is_refused(processor):
    frames = np.random.default_rng(0).integers(0, 255, (17, 96, 128, 3), np.uint8)
    with pytest.raises(ValueError, match="17 frames are not the 16 that the model takes"):
        processor(frames, "What is wrong?")
    inputs = processor(frames[:16], "What is wrong?")
    assert inputs["pixel_values"].shape == (32, 3, 128, 128)
    again = processor(processor.resize(frames[:16]), "What is wrong?")  # views that were resized before
    assert again["pixel_values"].equal(inputs["pixel_values"])
