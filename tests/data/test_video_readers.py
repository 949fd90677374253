"""Every reader returns the pixels that PyAV decodes one frame after the other, whatever the file is like."""

import struct
from functools import cache
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from formcoach.data.video import READERS, iterate_frames, probe, read_clip

FRAMES, SIZE = 40, (160, 120)
WANTED = [3, 9, 10, 17, 25, 36]
TURN = 1 << 16  # 1 in the matrix of a tkhd box
X264 = {
    "default": {},
    "no B-frames": {"bf": "0"},
    "B-pyramid": {"x264-params": "b-pyramid=strict:bframes=8:b-adapt=0"},
    "key frames": {"g": "7"},
    "open groups of pictures": {"x264-params": "open-gop=1:keyint=10:bframes=3:b-adapt=0"},
    "intra refresh": {"x264-params": "intra-refresh=1:keyint=12"},
    "slices": {"x264-params": "slices=4"},
    "interlaced": {"x264-params": "interlaced=1"},
    "weighted prediction": {"x264-params": "weightp=2:weightb=1:ref=5"},
    "all intra": {"g": "1"},
}
PIXELS = ["yuv422p", "yuv444p", "yuvj420p", "yuvj444p", "yuv420p10le", "yuv444p10le", "gray", "nv12"]
COLOURS = {  # what the stream says of its colours, ITU-T H.273
    "BT.709": {"colorspace": 1},
    "BT.601": {"colorspace": 5},
    "SMPTE 170M": {"colorspace": 6},
    "BT.2020": {"colorspace": 9},
    "full range": {"color_range": 2},
    "BT.709, full range": {"colorspace": 1, "color_range": 2},
}
VARIABLE = [k * 4000 + 1900 * (k % 3) for k in range(FRAMES)]
TIMES = {
    "variable rate": VARIABLE,
    "late": [90000 + 3000 * k for k in range(FRAMES)],
    "gap": [3000 * k + (k > 20) * 90000 for k in range(FRAMES)],
}
CODECS = [
    ("libx265", ".mp4"),
    ("libx265", ".mkv"),
    ("libvpx", ".webm"),
    ("libvpx-vp9", ".webm"),
    ("libvpx-vp9", ".mp4"),
    ("libsvtav1", ".mp4"),
    ("libsvtav1", ".webm"),
    ("mpeg4", ".mp4"),
    ("mpeg4", ".avi"),
    ("mpeg4", ".mkv"),
    ("mjpeg", ".avi"),
    ("mjpeg", ".mov"),
    ("mpeg2video", ".mpg"),
    ("mpeg2video", ".ts"),
    ("wmv2", ".wmv"),
    ("flv", ".flv"),
    ("ffv1", ".mkv"),
]
MATRICES = {  # of a tkhd box: a, b, u, c, d, v, x, y, w
    "90": (0, TURN, 0, -TURN, 0, 0, 0, 0, 1 << 30),
    "180": (-TURN, 0, 0, 0, -TURN, 0, 0, 0, 1 << 30),
    "270": (0, -TURN, 0, TURN, 0, 0, 0, 0, 1 << 30),
}


def textured_frame(number: int, width: int, height: int) -> np.ndarray:
    """Return a coloured texture that moves, with noise: (height, width, 3) uint8 RGB."""
    wall = _wall(width, height)
    noise = np.random.default_rng(number).normal(0, 4, (height, width, 3))
    return np.clip(wall[:, 3 * number % 200 :][:, :width] + noise, 0, 255).astype(np.uint8)


@cache
def _wall(width: int, height: int) -> np.ndarray:
    cells = np.random.default_rng(1).integers(0, 255, (height // 16 + 2, (width + 200) // 16 + 2, 3)).astype(np.float32)
    return cv2.resize(cells, None, fx=16, fy=16, interpolation=cv2.INTER_CUBIC)[:height]


def decoded_in_order(path: Path) -> np.ndarray:
    """Return all frames as PyAV decodes them one after the other, upright: (T, H, W, 3)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        frames = [np.rot90(f.to_ndarray(format="rgb24"), f.rotation // 90 % 4) for f in container.decode(stream)]
    return np.stack(frames)


def assert_readers_agree(path: Path, frames: int = FRAMES) -> None:
    expected = decoded_in_order(path)
    assert len(expected) == frames == probe(path).frames
    choices = [[index for index in WANTED if index < frames] or [0], [frames - 1], [frames // 2], list(range(frames))]
    for reader in READERS:
        for wanted in choices:
            clip = read_clip(path, lambda total, fps, wanted=wanted: wanted, reader)
            different = [i for i, found in zip(wanted, clip.frames, strict=True) if (found != expected[i]).any()]
            assert not different, f"{reader} returns other pixels for frames {different}"


@pytest.mark.parametrize("name", X264)
def test_kinds_of_h264(tmp_path, write_clip, name):
    path = tmp_path / "clip.mp4"
    assert_readers_agree(write_clip(path, FRAMES, 30, SIZE, options=X264[name], picture=textured_frame))


@pytest.mark.parametrize("suffix", [".mkv", ".mov", ".avi", ".flv", ".ts", ".3gp"])
@pytest.mark.parametrize("name", ["default", "no B-frames", "open groups of pictures"])
def test_containers(tmp_path, write_clip, suffix, name):
    path = tmp_path / f"clip{suffix}"
    assert_readers_agree(write_clip(path, FRAMES, 30, SIZE, options=X264[name], picture=textured_frame))


@pytest.mark.parametrize("movflags", ["faststart", "frag_keyframe+empty_moov"])
def test_layouts_of_mp4(tmp_path, write_clip, movflags):
    path = tmp_path / "clip.mp4"
    assert_readers_agree(write_clip(path, FRAMES, 30, SIZE, mux={"movflags": movflags}, picture=textured_frame))


@pytest.mark.parametrize("pix_fmt", PIXELS)
def test_kinds_of_pixels(tmp_path, write_clip, pix_fmt):
    path = tmp_path / "clip.mp4"
    assert_readers_agree(write_clip(path, FRAMES, 30, SIZE, pix_fmt=pix_fmt, picture=textured_frame))


@pytest.mark.parametrize("name", COLOURS)
def test_colours_that_are_tagged(tmp_path, write_clip, name):
    path = tmp_path / "clip.mp4"
    assert_readers_agree(write_clip(path, FRAMES, 30, SIZE, tags=COLOURS[name], picture=textured_frame))


@pytest.mark.parametrize("size", [(122, 90), (90, 122), (100, 100), (36, 34)])
def test_sizes_that_are_no_multiples_of_16(tmp_path, write_clip, size):
    assert_readers_agree(write_clip(tmp_path / "clip.mp4", FRAMES, 30, size, picture=textured_frame))


def test_an_odd_size(tmp_path, write_clip):
    path = tmp_path / "clip.mp4"
    assert_readers_agree(write_clip(path, FRAMES, 30, (121, 91), pix_fmt="yuv444p", picture=textured_frame))


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_very_short_clips(tmp_path, write_clip, frames):
    assert_readers_agree(write_clip(tmp_path / "clip.mp4", frames, 30, SIZE, picture=textured_frame), frames)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("name", TIMES)
def test_uneven_times(tmp_path, write_clip, name, suffix):
    path = tmp_path / f"clip{suffix}"
    assert_readers_agree(write_clip(path, FRAMES, 30, SIZE, times=TIMES[name], picture=textured_frame))


@pytest.mark.parametrize(("codec", "suffix"), CODECS)
def test_other_codecs(tmp_path, write_clip, codec, suffix):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = tmp_path / f"clip{suffix}"
    assert_readers_agree(write_clip(path, FRAMES, 30, (176, 144), codec, pix_fmt, picture=textured_frame))


@pytest.mark.parametrize("angle", MATRICES)
def test_quarter_turns(tmp_path, write_clip, angle):
    path = write_clip(tmp_path / "clip.mp4", FRAMES, 30, SIZE, picture=textured_frame)
    data = bytearray(path.read_bytes())
    matrix = data.find(b"tkhd") + 44  # ISO 14496-12: 4 name, 4 flags, 20 times and ids, 16 others
    data[matrix : matrix + 36] = struct.pack(">9i", *MATRICES[angle])
    path.write_bytes(data)
    assert_readers_agree(path)
    height, width = decoded_in_order(path).shape[1:3]
    assert (width, height) == (SIZE if angle == "180" else SIZE[::-1])


def test_an_edit_list_that_begins_between_b_frames(tmp_path, write_clip):
    path = write_clip(tmp_path / "clip.mp4", FRAMES, 30, SIZE, picture=textured_frame)
    data = bytearray(path.read_bytes())
    entry = data.find(b"elst") + 12
    length, start, rate = struct.unpack(">Iii", data[entry : entry + 12])
    data[entry : entry + 12] = struct.pack(">Iii", length // 2, start + 10 * 512, rate)  # 512 ticks a frame
    path.write_bytes(data)
    frames = probe(path).frames
    assert frames < FRAMES
    assert_readers_agree(path, frames)


def test_a_file_too_large_to_keep_is_read_twice(tmp_path, write_clip, monkeypatch):
    monkeypatch.setattr("formcoach.data.clip_file.KEPT_BYTES", 1000)
    path = tmp_path / "clip.mp4"
    assert_readers_agree(write_clip(path, FRAMES, 30, SIZE, options={"g": "7"}, picture=textured_frame))


def test_frames_are_iterated_in_order_each_once(tmp_path, write_clip):
    path = write_clip(tmp_path / "clip.mp4", FRAMES, 30, SIZE, picture=textured_frame)
    expected = decoded_in_order(path)
    found = list(iterate_frames(path, lambda total, fps: [30, 5, 5, total - 1]))
    assert [number for number, _ in found] == [5, 30, FRAMES - 1]
    for number, frame in found:
        np.testing.assert_array_equal(frame.to_ndarray(format="rgb24"), expected[number])
