"""Parts of clips: from one second to another on the clip's own time line."""

import pytest

from formcoach.data.video import READERS, probe, read_clip
from formcoach.errors import ClipError


def every(total, fps):
    return range(total)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("start", "end", "numbers"),
    [
        (0.1, 0.5, range(3, 15)),  # 0.1 and 3 / 30 are the same moment
        (None, 0.2, range(6)),
        (1.0, None, range(30, 40)),
        (0, 99, range(40)),
        (0.41, 0.45, [13]),
    ],
)
def test_a_part_has_the_frames_shown_in_it(tmp_path, write_clip, frame_numbers, reader, start, end, numbers):
    path = write_clip(tmp_path / "clip.mp4", frames=40, fps=30)
    clip = read_clip(path, every, reader, start, end)
    assert frame_numbers(clip.frames) == list(numbers)
    assert clip.indices == list(range(len(numbers)))
    assert clip.duration == pytest.approx(min(end or 99, probe(path).duration) - (start or 0))


def test_frames_are_chosen_within_the_part(tmp_path, write_clip, frame_numbers):
    path = write_clip(tmp_path / "clip.mp4", frames=40, fps=20)
    asked = []
    clip = read_clip(path, lambda *size: asked.append(size) or [9, 0, 9], "pyav", 0.5, 1.0)
    assert asked == [(10, 20.0)]
    assert clip.indices == [9, 0, 9]
    assert frame_numbers(clip.frames) == [19, 10, 19]


@pytest.mark.parametrize("reader", READERS)
def test_frames_at_uneven_times(tmp_path, write_clip, frame_numbers, reader):
    times = [90000 + k * 9000 for k in range(10)] + [
        360000 + k * 900 for k in range(10)
    ]  # 10 in 1 s, a gap, 10 in 0.1 s
    path = write_clip(tmp_path / "clip.mp4", times=times)
    assert frame_numbers(read_clip(path, every, reader, 0.25, 0.55).frames) == [3, 4, 5]
    assert frame_numbers(read_clip(path, every, reader, 2.9, 3.05).frames) == [10, 11, 12, 13, 14]


@pytest.mark.parametrize("suffix", [".avi", ".ts"])
def test_files_without_exact_times(tmp_path, write_clip, frame_numbers, suffix):
    path = write_clip(tmp_path / f"clip{suffix}", frames=40, fps=20)
    for reader in READERS:
        assert frame_numbers(read_clip(path, every, reader, 0.5, 0.75).frames) == list(range(10, 15))


@pytest.mark.parametrize(("start", "end"), [(2, 3), (1.34, None), (0.6, 0.5), (0.5, 0.5), (-1, 0.5), (0.101, 0.13)])
def test_a_part_without_frames_is_refused_in_one_line(tmp_path, write_clip, start, end):
    path = write_clip(tmp_path / "clip.mp4", frames=40, fps=30)
    for reader in READERS:
        with pytest.raises(ClipError, match=r"has no frame from .* it lasts 1\.33 s") as caught:
            read_clip(path, every, reader, start, end)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
