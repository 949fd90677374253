import pytest

from formcoach.data.sampling import frame_count, frame_indices, round_limits
from formcoach.errors import UserError


@pytest.mark.parametrize(
    ("limits", "rounded"),
    [((8, 8), (8, 8)), ((5, 11), (8, 8)), ((1, 3), (4, 4)), ((0, 512), (4, 512)), ((4, 15), (4, 12))],
)
def test_limits_become_multiples_of_four(limits, rounded):
    assert round_limits(*limits) == rounded


def test_limits_without_a_multiple_between_them_are_refused():
    with pytest.raises(UserError, match=r"--min_num_frames 9 and --max_num_frames 11"):
        round_limits(9, 11)


@pytest.mark.parametrize(
    ("duration", "count"), [(0.3, 4), (3.99, 4), (4.0, 4), (7.99, 4), (8.0, 8), (13, 12), (100, 16)]
)
def test_a_clip_gets_one_group_of_frames_every_four_seconds(duration, count):
    assert frame_count(duration, 4, 16) == count


def test_the_limits_hold_for_any_length():
    assert frame_count(0.3, 8, 8) == frame_count(1000.0, 8, 8) == 8


@pytest.mark.parametrize(
    ("total", "count", "indices"),
    [
        (16, 4, [1, 5, 9, 13]),  # intervals 0-3, 4-7, 8-11, 12-15
        (10, 4, [0, 3, 5, 8]),  # intervals 0-1, 2-4, 5-6, 7-9
        (145, 8, [8, 26, 44, 62, 80, 98, 116, 135]),
        (4, 4, [0, 1, 2, 3]),
        (3, 8, [0, 1, 2, 2, 2, 2, 2, 2]),  # a shorter clip repeats its last frame
        (1, 4, [0, 0, 0, 0]),
    ],
)
def test_frames_are_the_middles_of_equal_parts(total, count, indices):
    assert frame_indices(total, count) == indices


def test_indices_are_plain_sorted_numbers_inside_the_clip():
    for total in range(1, 60):
        for count in (4, 8, 12, 16):
            indices = frame_indices(total, count)
            assert len(indices) == count
            assert indices == sorted(indices)
            assert set(indices) <= set(range(total))
            assert all(type(index) is int for index in indices)
