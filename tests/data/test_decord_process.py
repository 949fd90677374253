"""decord's process: what it returns, and what becomes of it when it hangs, dies, or is left alone."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from formcoach.data.decord_process import HAS_ALARM, DecordProcess, decode_with_decord
from formcoach.data.video import read_clip
from formcoach.errors import ClipError

pytestmark = pytest.mark.skipif(not HAS_ALARM, reason="decord runs in this process here")
PROC = Path("/proc")


def children(process=None):
    """Ids of the processes that a process has started and that run."""
    parent = str(process or os.getpid())
    found = set()
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):
            if (folder / "stat").read_text().rpartition(")")[2].split()[1] == parent:
                found.add(int(folder.name))
    return {pid for pid in found if b"decord_program" in _command(pid)}


def _command(pid):
    try:
        return (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def program(tmp_path):
    """Return a function that writes a program which stands in for decord's."""

    def make(body):
        path = tmp_path / "program.py"
        path.write_text(
            "import os, signal, sys, time\nfor line in sys.stdin.buffer:\n"
            "    signal.setitimer(signal.ITIMER_REAL, 0.3)\n    " + body
        )
        return path

    return make


def test_a_decoder_that_hangs_is_ended_and_the_clip_named(program):
    process = DecordProcess(program("time.sleep(60)"))
    began = time.monotonic()
    with pytest.raises(ClipError, match=r"clip.mp4: did not decode within 0.3 s"):
        process.decode("clip.mp4", [0], 1, 0.3)
    assert time.monotonic() - began < 50  # it did not wait for the program
    assert process.left == 0


def test_a_decoder_that_hangs_while_it_answers_is_ended_too(program):
    process = DecordProcess(program("sys.stdout.write('[1, 4, 4, 3]\\n'); sys.stdout.flush(); time.sleep(60)"))
    with pytest.raises(ClipError, match=r"did not decode within 0.3 s"):
        process.decode("clip.mp4", [0], 1, 0.3)


def test_a_decoder_that_crashes_is_named_with_what_ended_it(program):
    process = DecordProcess(program("os.kill(os.getpid(), signal.SIGSEGV)"))
    with pytest.raises(ClipError, match=r"clip.mp4: ended the decoder with SIGSEGV; read it with video_read_type pyav"):
        process.decode("clip.mp4", [0], 1, 0.3)


def test_threads_have_processes_of_their_own_and_keep_them(tmp_path, write_clip, frame_numbers):
    path, before = write_clip(tmp_path / "clip.mp4"), len(children())
    with ThreadPoolExecutor(4) as pool:
        clips = list(pool.map(lambda number: read_clip(path, lambda f, fps: [number % 20], "decord"), range(40)))
    assert [frame_numbers(clip.frames) for clip in clips] == [[number % 20] for number in range(40)]
    assert len(children()) <= max(4, before)


def test_a_process_is_replaced_after_many_clips(tmp_path, write_clip):
    path = write_clip(tmp_path / "clip.mp4")
    code = (
        "import formcoach.data.decord_process as decord; decord.CLIPS = 3\n"
        "for _ in range(7):\n"
        f"    decord.decode_with_decord({str(path)!r}, [0], 20, 60); print('read', flush=True); input()"
    )
    asker = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    seen = []
    for _ in range(7):
        assert asker.stdout.readline() == b"read\n"
        seen.append(frozenset(children(asker.pid)))
        asker.stdin.write(b"\n")
        asker.stdin.flush()
    asker.communicate()
    assert [len(one) for one in seen] == [1, 1, 0, 1, 1, 0, 1]
    assert len(set().union(*seen)) == 3


def test_a_clip_that_decord_cannot_read_or_counts_otherwise_is_left_to_others(tmp_path, write_clip):
    path = write_clip(tmp_path / "clip.mp4")
    assert decode_with_decord(path, [0, 7], 20, 60).shape == (2, 48, 64, 3)
    assert decode_with_decord(path, [0], 21, 60) is None
    path.write_text("no video")
    assert decode_with_decord(path, [0], 20, 60) is None


def test_a_forked_process_has_its_own(tmp_path, write_clip):
    from torch.utils.data import DataLoader

    path = write_clip(tmp_path / "clip.mp4")
    read_clip(path, lambda frames, fps: [0], "decord")

    class Clips:
        def __len__(self):
            return 12

        def __getitem__(self, index):
            return read_clip(path, lambda frames, fps: [index], "decord").frames

    expected = [Clips()[index] for index in range(12)]
    found = list(DataLoader(Clips(), batch_size=None, num_workers=2, multiprocessing_context="fork"))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(one), other)


def test_no_process_is_left_when_the_one_who_asked_is_killed(tmp_path, write_clip):
    path = write_clip(tmp_path / "clip.mp4")
    code = (
        "import sys, time; from formcoach.data.video import read_clip; "
        f"read_clip({str(path)!r}, lambda frames, fps: [0], 'decord'); print('read', flush=True); time.sleep(60)"
    )
    asker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert asker.stdout.readline() == b"read\n"
    (child,) = children(asker.pid)
    asker.kill()
    asker.wait()
    for _ in range(100):
        if b"decord_program" not in _command(child):
            return
        time.sleep(0.05)
    raise AssertionError("it still runs")


@pytest.mark.parametrize("reader", ["decord", "opencv", "pyav"])
def test_a_clip_that_takes_too_long_is_given_up(tmp_path, write_clip, reader):
    path = write_clip(tmp_path / "clip.mp4", frames=60, size=(640, 480))
    with pytest.raises(ClipError, match=r"did not decode within 0.001 s"):
        read_clip(path, lambda frames, fps: [59], reader, seconds=0.001)
    assert len(read_clip(path, lambda frames, fps: [59], reader).frames) == 1


@pytest.mark.parametrize("reader", ["decord", "opencv", "pyav"])
def test_what_is_no_plain_file_is_not_opened(tmp_path, reader):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "pipe.mp4", Path("/dev/zero")):
        with pytest.raises(ClipError, match="is not a file"):
            read_clip(path, lambda frames, fps: [0], reader)


@pytest.mark.parametrize(
    "text",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n", "ffconcat version 1.0\nfile other.mp4\n"],
)
def test_a_playlist_that_calls_itself_a_clip_is_refused(tmp_path, write_clip, text):
    write_clip(tmp_path / "other.mp4")
    path = tmp_path / "clip.mp4"
    path.write_text(text)
    with pytest.raises(ClipError, match=r"clip.mp4: is (not a video|a list of other files)"):
        read_clip(path, lambda frames, fps: [0])
