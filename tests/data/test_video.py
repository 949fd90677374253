import struct
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from formcoach.data.sampling import frame_indices
from formcoach.data.video import READERS, VideoInfo, probe, probe_all, read_clip
from formcoach.errors import ClipError, UserError

OPEN_FILES = Path("/proc/self/fd")
CLIPS = {
    "b-frames": {"frames": 40},
    "no b-frames": {"frames": 40, "options": {"bf": "0"}},
    "many key frames": {"frames": 40, "options": {"g": "7"}},
    "0.3 s": {"frames": 3, "fps": 10},
    "one frame": {"frames": 1},
    "odd size": {"size": (122, 90), "frames": 30},
    "4:4:4 of odd size": {"size": (121, 91), "pix_fmt": "yuv444p"},
    "tall": {"size": (96, 160)},
    "30 fps": {"fps": 30, "frames": 100, "size": (640, 480)},
    "variable rate": {"times": [k * 4000 + 1900 * (k % 3) for k in range(30)], "frames": 30, "fps": 30},
    "fragmented": {"mux": {"movflags": "frag_keyframe+empty_moov"}, "frames": 30},
}


def select(count):
    return lambda total, fps: frame_indices(total, count)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", CLIPS)
def test_every_reader_returns_exactly_the_frames_asked_for(tmp_path, write_clip, frame_numbers, name, reader):
    settings = CLIPS[name]
    path = write_clip(tmp_path / "clip.mp4", **settings)
    width, height = settings.get("size", (64, 48))
    clip = read_clip(path, lambda total, fps: range(total), reader)
    assert clip.frames.shape == (settings.get("frames", 20), height, width, 3)
    assert clip.frames.dtype == np.uint8
    assert frame_numbers(clip.frames) == list(range(len(clip.frames)))
    assert clip.duration == pytest.approx(probe(path).duration)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi", ".flv"])
def test_readers_return_equal_pixels(tmp_path, write_clip, suffix):
    path = write_clip(tmp_path / f"clip{suffix}", frames=50, size=(320, 240))
    frames = [read_clip(path, select(8), reader).frames for reader in READERS]
    assert probe(path).frames == 50
    for other in frames[1:]:
        np.testing.assert_array_equal(frames[0], other)


@pytest.mark.parametrize("mux", [{}, {"live": "1"}], ids=["file", "recording without a duration"])
def test_a_camera_that_slows_down_is_timed_by_all_its_frames(tmp_path, write_clip, mux):
    times = [3000 * k for k in range(8)] + [21000 + 9000 * k for k in range(1, 32)]  # 30, then 10 frames a second
    path = write_clip(tmp_path / "clip.webm", codec="libvpx", mux=mux, times=times, frames=len(times), fps=30)
    info = probe(path)
    assert info.frames == len(times)
    assert info.duration == pytest.approx(times[-1] / 90000, rel=0.05)


@pytest.mark.parametrize("reader", READERS)
def test_any_order_and_repeats_are_kept(tmp_path, write_clip, frame_numbers, reader):
    path = write_clip(tmp_path / "clip.mp4")
    clip = read_clip(path, lambda total, fps: [7, 3, 3, total - 1, 0], reader)
    assert clip.indices == [7, 3, 3, 19, 0]
    assert frame_numbers(clip.frames) == [7, 3, 3, 19, 0]


@pytest.mark.parametrize("reader", READERS)
def test_a_name_may_have_blanks_accents_and_emoji(tmp_path, write_clip, reader):
    path = write_clip(tmp_path / "très bien" / "e\u0301chec 100% #1 💪.mp4")
    assert len(read_clip(str(path), select(4), reader).frames) == 4


@pytest.mark.parametrize("reader", READERS)
def test_rotation_metadata_is_applied(tmp_path, write_clip, frame_numbers, reader):
    path = write_clip(tmp_path / "clip.mp4", size=(64, 48))
    data = bytearray(path.read_bytes())
    matrix = data.find(b"tkhd") + 44  # ISO 14496-12: 4 name, 4 flags, 20 times and ids, 16 others
    quarter_turn_clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    data[matrix : matrix + 36] = quarter_turn_clockwise
    path.write_bytes(data)
    clip = read_clip(path, select(4), reader)
    assert clip.frames.shape == (4, 64, 48, 3)
    upright = np.rot90(clip.frames, 1, axes=(1, 2))
    assert frame_numbers(upright) == clip.indices


@pytest.mark.parametrize("reader", READERS)
def test_frames_that_an_edit_list_hides_do_not_count(tmp_path, write_clip, frame_numbers, reader):
    path = write_clip(tmp_path / "clip.mp4", frames=30, options={"bf": "0"})
    data = bytearray(path.read_bytes())
    entry = data.find(b"elst") + 12
    length, start, rate = struct.unpack(">Iii", data[entry : entry + 12])
    ticks = 15360 // 15  # of PyAV's muxer, a frame
    data[entry : entry + 12] = struct.pack(">Iii", length * 20 // 30, start + 10 * ticks, rate)
    path.write_bytes(data)
    clip = read_clip(path, lambda total, fps: range(total), reader)
    assert frame_numbers(clip.frames) == list(range(10, 30))


def test_probe_tells_length_and_size_without_decoding(tmp_path, write_clip):
    info = probe(write_clip(tmp_path / "clip.mp4", frames=45, fps=30, size=(320, 180)))
    assert info == VideoInfo(frames=45, fps=30.0, width=320, height=180)
    assert info.duration == 1.5


def test_many_clips_are_probed_in_order_and_bad_ones_are_returned(tmp_path, write_clip):
    paths = [write_clip(tmp_path / f"{number}.mp4", frames=number + 1) for number in range(12)]
    paths.insert(5, tmp_path / "none.mp4")
    results = list(probe_all(paths))
    assert isinstance(results[5], ClipError)
    assert [info.frames for info in results if isinstance(info, VideoInfo)] == list(range(1, 13))


def bad_clip(folder: Path, kind: str, write_clip) -> Path:
    path = folder / "clip.mp4"
    if kind == "a folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not a video\n" * 50)
    elif kind == "zeros":
        path.write_bytes(bytes(50_000))
    elif kind == "a picture":
        cv2.imwrite(str(folder / "picture.png"), np.zeros((64, 64, 3), np.uint8))
        (folder / "picture.png").rename(path)
    elif kind == "sound only":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=16000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
            frame.rate = 16000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    elif kind == "cut, index lost":
        write_clip(path, size=(320, 240))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "cut, index kept":
        write_clip(path, size=(320, 240), mux={"movflags": "faststart"})
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no such file"),
        ("a folder", "not a file"),
        ("empty", "empty \\(0 bytes\\)"),
        ("text", "not a video"),
        ("zeros", "not a video"),
        ("a picture", "is a picture"),
        ("sound only", "no video stream"),
        ("cut, index lost", "is damaged"),
        ("cut, index kept", r"cut short: only \d+ of its 20 frames"),
    ],
)
def test_what_is_no_video_is_named_with_the_reason(tmp_path, write_clip, kind, reason):
    path = bad_clip(tmp_path, kind, write_clip)
    with pytest.raises(ClipError, match=reason) as caught:
        probe(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    for reader in READERS:
        with pytest.raises(ClipError):
            read_clip(path, select(4), reader)


@pytest.mark.parametrize("reader", READERS)
def test_damage_inside_a_clip_is_named_by_frame(tmp_path, write_clip, frame_numbers, reader):
    path = write_clip(tmp_path / "clip.mp4", frames=40, size=(320, 240), options={"bf": "0", "g": "1"})
    with av.open(str(path)) as container:
        entries = list(container.streams.video[0].index_entries)
    data = bytearray(path.read_bytes())
    data[entries[20].pos : entries[39].pos + entries[39].size] = bytes(
        entries[39].pos + entries[39].size - entries[20].pos
    )
    path.write_bytes(data)
    assert frame_numbers(read_clip(path, lambda total, fps: range(20), reader).frames) == list(range(20))
    with pytest.raises(ClipError, match=r"frame 22 of 40 cannot be decoded"):
        read_clip(path, select(8), reader)


def test_an_unknown_reader_is_refused(tmp_path, write_clip):
    with pytest.raises(UserError, match="'torchcodec'; use one of decord, opencv, pyav"):
        read_clip(write_clip(tmp_path / "clip.mp4"), select(4), "torchcodec")


@pytest.mark.parametrize("reader", ["decord", "opencv"])
def test_a_reader_that_is_not_installed_gives_way_to_pyav(tmp_path, write_clip, monkeypatch, reader):
    path = write_clip(tmp_path / "clip.mp4")
    expected = read_clip(path, select(4), "pyav").frames
    monkeypatch.setitem(sys.modules, READERS[reader], None)  # how Python marks a module that cannot be imported
    np.testing.assert_array_equal(read_clip(path, select(4), reader).frames, expected)


def test_no_decoder_is_loaded_before_a_clip_is_read():
    code = "import sys, formcoach.data.video; sys.exit(bool({'av', 'cv2', 'decord', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_reader_that_another_thread_is_just_importing_is_used(tmp_path, write_clip, monkeypatch):
    path = write_clip(tmp_path / "clip.mp4")
    opened = []
    capture = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda *how: opened.append(how) or capture(*how))

    def importing(name):
        raise ValueError(f"{name}.__spec__ is None")

    monkeypatch.setattr("importlib.util.find_spec", importing)
    assert len(read_clip(path, select(4), "opencv").frames) == 4
    assert opened


def test_nothing_behind_the_last_frame_is_decoded(tmp_path, write_clip):
    path = write_clip(tmp_path / "clip.mp4", frames=60, size=(320, 240), options={"bf": "0", "g": "1"})
    with av.open(str(path)) as container:
        entry = list(container.streams.video[0].index_entries)[30]
    data = bytearray(path.read_bytes())
    data[entry.pos : entry.pos + entry.size] = bytes(entry.size)
    path.write_bytes(data)
    for reader in READERS:
        assert len(read_clip(path, lambda total, fps: [0, 10, 29], reader).frames) == 3


@pytest.mark.skipif(not OPEN_FILES.exists(), reason="this system does not list open files")
def test_open_files_are_given_back(tmp_path, write_clip):
    path = write_clip(tmp_path / "clip.mp4")
    counts = []
    for _ in range(10):
        probe(path)
        for reader in READERS:
            read_clip(path, select(4), reader)
        counts.append(len(list(OPEN_FILES.iterdir())))
    assert counts[-1] == counts[0]
