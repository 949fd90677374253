"""All readers return the frames that decoding everything gives, bit by bit, whatever the encoder did."""

from fractions import Fraction

import av
import numpy as np
import pytest
from numbered_clips import clip_to_write

from formcoach.data.sampling import frame_indices
from formcoach.data.video import READERS, iterate_frames, probe, read_clip
from formcoach.errors import ClipError

X264 = "x264-params"
ENCODINGS = {
    "defaults": {},
    "pyramid of B-frames": {"options": {"bf": "8", "b-pyramid": "normal"}},
    "no B-frames": {"options": {"bf": "0"}},
    "many references": {"options": {X264: "bframes=4:ref=6:weightp=2"}},
    "short groups": {"options": {"g": "10"}},
    "open groups": {"options": {X264: "open-gop=1:keyint=12:min-keyint=4"}},
    "intra refresh": {"options": {X264: "intra-refresh=1:keyint=15"}},
    "interlaced": {"options": {"flags": "+ildct+ilme"}},
    "odd size": {"size": (122, 90)},
    "4:4:4 of odd size": {"size": (121, 91), "pix_fmt": "yuv444p"},
    "4:2:2": {"pix_fmt": "yuv422p"},
    "10 bits": {"pix_fmt": "yuv420p10le"},
    "full range": {"pix_fmt": "yuvj420p"},
    "BT.709": {"colorspace": 1},
    "variable rate": {"times": [k * 4000 + 1900 * (k % 3) for k in range(60)]},
    "one frame": {"frames": 1},
    "HEVC": {"codec": "libx265", "options": {"g": "12", "x265-params": "log-level=none"}},
    "VP9": {"codec": "libvpx-vp9", "suffix": ".webm"},
    "AV1": {"codec": "libsvtav1"},
    "MPEG-4": {"codec": "mpeg4", "options": {"bf": "2"}},
    "MPEG-4 in AVI": {"codec": "mpeg4", "options": {"bf": "2"}, "suffix": ".avi"},
    "MPEG-2 in a program stream": {"codec": "mpeg2video", "options": {"bf": "2"}, "suffix": ".mpg"},
    "H.264 in a transport stream": {"suffix": ".ts"},
    "Motion JPEG": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "suffix": ".avi"},
    "WMV": {"codec": "wmv2", "suffix": ".wmv"},
}


def write(
    path, frames=60, size=(160, 120), codec="libx264", pix_fmt="yuv420p", options=None, times=None, colorspace=None
):
    rng = np.random.default_rng(1)
    width, height = size
    scene = rng.integers(0, 255, (height // 8 + 3, width // 8 + 20, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    with clip_to_write(path) as container:
        try:
            stream = container.add_stream(codec, rate=30, options=options or {})
        except av.codec.codec.UnknownCodecError:
            pytest.skip(f"this PyAV has no {codec}")
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if colorspace:
            stream.codec_context.colorspace = colorspace
        if times:
            stream.codec_context.time_base = Fraction(1, 90000)
        for number in range(frames):
            picture = scene[number % 7 :, number * 2 % 100 :][:height, :width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def everything(path):
    """Decode all frames one after the other, in one thread."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_readers_return_what_decoding_everything_gives(tmp_path, encoding):
    settings = {name: value for name, value in ENCODINGS[encoding].items() if name != "suffix"}
    path = write(tmp_path / f"clip{ENCODINGS[encoding].get('suffix', '.mp4')}", **settings)
    expected, total = everything(path), probe(path).frames
    assert total == len(expected)
    choices = [frame_indices(total, 8), [total - 1], [0], sorted({1 % total, total // 3, 2 * total // 3}), range(total)]
    for reader in READERS:
        for choice in choices:
            clip = read_clip(path, lambda frames, fps, choice=choice: choice, reader)
            for frame, number in zip(clip.frames, choice, strict=True):
                np.testing.assert_array_equal(frame, expected[number], f"{reader}, frame {number}")


@pytest.mark.parametrize("encoding", ["defaults", "short groups", "variable rate", "MPEG-4 in AVI"])
def test_frames_come_in_order_and_as_they_are_asked_for(tmp_path, encoding):
    settings = {name: value for name, value in ENCODINGS[encoding].items() if name != "suffix"}
    path = write(tmp_path / f"clip{ENCODINGS[encoding].get('suffix', '.mp4')}", **settings)
    expected = everything(path)
    found = list(iterate_frames(path, lambda frames, fps: [40, 3, 40, 17]))
    assert [number for number, _ in found] == [3, 17, 40]
    for number, frame in found:
        np.testing.assert_array_equal(frame.to_ndarray(format="rgb24"), expected[number])


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("encoding", ["defaults", "variable rate", "H.264 in a transport stream"])
def test_a_part_of_a_clip_is_a_clip(tmp_path, encoding, reader):
    settings = {name: value for name, value in ENCODINGS[encoding].items() if name != "suffix"}
    path = write(tmp_path / f"clip{ENCODINGS[encoding].get('suffix', '.mp4')}", **settings)
    expected, info = everything(path), probe(path)
    times = [(k * 4000 + 1900 * (k % 3)) / 90000 for k in range(60)] if "times" in settings else np.arange(60) / 30
    inside = [number for number, time in enumerate(times) if 0.5 <= time + 1e-6 < 1.2 + 1e-9]
    counted = []

    def select(frames, fps):
        counted.append(frames)
        return [0, frames - 1]

    clip = read_clip(path, select, reader, start=0.5, end=1.2)
    assert counted == [len(inside)]
    assert clip.indices == [0, len(inside) - 1]
    assert clip.duration == pytest.approx(0.7)
    np.testing.assert_array_equal(clip.frames, np.stack([expected[inside[0]], expected[inside[-1]]]))
    rest = read_clip(path, select, reader, start=0.5)
    assert rest.duration == pytest.approx(info.duration - 0.5)
    np.testing.assert_array_equal(rest.frames[-1], expected[-1])


@pytest.mark.parametrize(("start", "end"), [(5.0, 6.0), (1.0, 1.0), (1.2, 0.3), (-1.0, 1.0), (None, 0.0)])
def test_a_part_that_is_not_in_the_clip_is_named(tmp_path, start, end):
    path = write(tmp_path / "clip.mp4")
    with pytest.raises(ClipError, match=r"has no frame from .* it lasts 2.00 s"):
        read_clip(path, lambda frames, fps: [0], start=start, end=end)


def test_large_files_are_read_in_two_passes(tmp_path, monkeypatch):
    path = write(tmp_path / "clip.mp4", options={"g": "10"})
    expected = everything(path)
    monkeypatch.setattr("formcoach.data.clip_file.KEPT_BYTES", 0)
    clip = read_clip(path, lambda frames, fps: [5, 31, 59], "pyav")
    np.testing.assert_array_equal(clip.frames, np.stack([expected[number] for number in (5, 31, 59)]))


def test_groups_of_pictures_that_nobody_needs_are_not_decoded(tmp_path):
    path = write(tmp_path / "clip.mp4", options={"g": "10", "bf": "0"})
    with av.open(str(path)) as container:
        entries = list(container.streams.video[0].index_entries)
    data = bytearray(path.read_bytes())
    data[entries[21].pos : entries[21].pos + entries[21].size] = bytes(entries[21].size)  # in the third group
    path.write_bytes(data)
    assert len(read_clip(path, lambda frames, fps: [5, 55], "pyav").frames) == 2
    with pytest.raises(ClipError, match="frame 25 of 60 cannot be decoded"):
        read_clip(path, lambda frames, fps: [5, 25, 55], "pyav")
