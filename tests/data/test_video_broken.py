"""What is no clip, or no longer: each is named in one line, the same whichever reader was to read it."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from formcoach.data.video import READERS, iterate_frames, probe, read_clip
from formcoach.errors import ClipError

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="has no such files")


def refusal(path: Path, wanted: list[int]) -> str:
    """Return in which words the readers refuse a clip, all in the same."""
    words = set()
    for reader in READERS:
        with pytest.raises(ClipError) as caught:
            read_clip(path, lambda total, fps: wanted, reader)
        words.add(str(caught.value))
    with pytest.raises(ClipError) as caught:
        list(iterate_frames(path, lambda total, fps: wanted))
    words.add(str(caught.value))
    assert len(words) == 1
    message = words.pop()
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


@pytest.fixture
def noisy(tmp_path: Path, write_clip: Callable[..., Path]) -> Iterator[tuple[Path, list[tuple[int, int]]]]:
    """Return a clip of 40 frames with one key frame, and where in the file each packet is: first byte and size."""

    def picture(number: int, width: int, height: int) -> np.ndarray:
        return np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)

    path = write_clip(
        tmp_path / "clip.mp4", frames=40, options={"bf": "0"}, mux={"movflags": "faststart"}, picture=picture
    )
    with av.open(str(path)) as container:
        return path, [(entry.pos, entry.size) for entry in container.streams.video[0].index_entries]


@POSIX
def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "clip.mp4")
    assert "is not a file" in refusal(tmp_path / "clip.mp4", [0])


@POSIX
def test_a_device_is_not_opened():
    assert "is not a file" in refusal(Path("/dev/zero"), [0])


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile other.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.ts\n#EXT-X-ENDLIST\n",
    ],
)
def test_a_list_of_other_files_opens_none_of_them(tmp_path, write_clip, text):
    write_clip(tmp_path / "other.mp4")
    write_clip(tmp_path / "other.ts")
    path = tmp_path / "clip.mp4"
    path.write_text(text, encoding="utf-8")
    assert "not a video" in refusal(path, [0])


def test_a_clip_cut_short_is_told_with_its_frames(noisy):
    path, packets = noisy
    path.write_bytes(path.read_bytes()[: packets[17][0]])
    assert refusal(path, [0]).endswith("is cut short: only 17 of its 40 frames are in the file")


def test_a_clip_without_its_index_is_told(tmp_path, write_clip):
    path = write_clip(tmp_path / "clip.mp4", frames=40, size=(320, 240))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "its index is missing or broken" in refusal(path, [0])


@pytest.mark.parametrize("kind", ["zeros", "noise"])
def test_damage_in_the_middle(noisy, kind):
    path, packets = noisy
    data = bytearray(path.read_bytes())
    first, last = packets[20][0], sum(packets[24])
    data[first:last] = bytes(last - first) if kind == "zeros" else np.random.default_rng(0).bytes(last - first)
    path.write_bytes(data)
    assert probe(path).frames == 40
    for reader in READERS:
        assert len(read_clip(path, lambda total, fps: [0, 10, 19], reader).frames) == 3
    assert refusal(path, [10, 22, 35]).endswith("is damaged: frame 22 of 40 cannot be decoded")


def test_groups_of_pictures_beside_the_damage_are_read(tmp_path, write_clip, frame_numbers):
    path = write_clip(tmp_path / "clip.mp4", frames=40, size=(320, 240), options={"g": "10", "bf": "0"})
    with av.open(str(path)) as container:
        entries = list(container.streams.video[0].index_entries)
    data = bytearray(path.read_bytes())
    data[entries[12].pos : entries[14].pos] = bytes(entries[14].pos - entries[12].pos)
    path.write_bytes(data)
    assert frame_numbers(read_clip(path, lambda total, fps: [5, 11, 25, 39], "pyav").frames) == [5, 11, 25, 39]
