"""Twenty thousand clips through every reader: memory and open files stay as they are."""

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from formcoach.data import decord_process
from formcoach.data.sampling import frame_indices
from formcoach.data.video import probe, read_clip
from formcoach.errors import ClipError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory and open files are told by Linux"),
]

CLIPS = 20_000
SHARE = {"pyav": 8_000, "decord": 7_000, "opencv": 5_000}
BLOCKS = 20  # in which each share is measured
KINDS = [  # suffix, settings
    (".mp4", {}),
    (".mp4", {"options": {"bf": "0"}}),
    (".mp4", {"options": {"g": "5"}}),
    (".mkv", {}),
    (".webm", {"codec": "libvpx-vp9"}),
    (".avi", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
]
MORE_MEMORY = 24e6  # bytes; what leaks 10 kB a clip would take 50 to 80 MB


def resident(process: int | str) -> int:
    """Return the memory of a process in bytes."""
    pages = Path(f"/proc/{process}/statm").read_text(encoding="utf-8").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def open_files(process: int | str) -> int:
    """Return how many files a process has open."""
    return len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208


def decoder(clip: Path) -> int:
    """Return the process that decord runs in, a new one at `clip` if the last has just done its share."""
    idle = decord_process._idle(os.getpid())
    if idle.empty():
        read_clip(clip, lambda total, fps: frame_indices(total, 4), "decord")
    return idle.queue[-1]._process.pid


@pytest.fixture
def clips(tmp_path: Path, write_clip: Callable[..., Path]) -> list[Path]:
    """Return clips that are links to one of each kind, in a random order."""
    originals = [
        write_clip(tmp_path / f"original{place}{suffix}", frames=12, fps=30, size=(96, 64), **settings)
        for place, (suffix, settings) in enumerate(KINDS)
    ]
    chance = random.Random(0)
    links = []
    for number in range(CLIPS):
        original = chance.choice(originals)
        links.append(tmp_path / f"{number:05d}{original.suffix}")
        os.link(original, links[-1])
    return links


def test_twenty_thousand_clips(clips):
    remaining = iter(clips)
    for_decord = next(clip for clip in clips if clip.suffix == ".mp4")
    for reader, share in SHARE.items():
        memory, files = [], []
        for _ in range(BLOCKS):
            for _ in range(share // BLOCKS):
                clip = read_clip(next(remaining), lambda total, fps: frame_indices(total, 4), reader)
                assert clip.frames.shape == (4, 64, 96, 3)
            processes = ["self", decoder(for_decord)] if reader == "decord" else ["self"]
            memory.append(sum(map(resident, processes)))
            files.append(sum(map(open_files, processes)))
        assert max(memory[5:]) < memory[4] + MORE_MEMORY, (reader, memory)
        assert max(files[1:]) <= files[0], (reader, files)
    assert next(remaining, None) is None


def test_bad_clips_and_killed_decoders_among_many(tmp_path, clips):
    """One clip hangs, and the decoder is killed twice: a clip is named each time, all others are read."""
    hanging = tmp_path / "hangs.mp4"
    os.link(clips[0], hanging)
    program = tmp_path / "program.py"
    program.write_text(HANGING_PROGRAM.format(program=str(decord_process.PROGRAM)), encoding="utf-8")
    paths = [path for path in clips[:1500] if path.suffix != ".avi"]  # decord is not asked for these
    paths.insert(700, hanging)
    process, named = decord_process.DecordProcess(program), []
    for number, path in enumerate(paths):
        if number in (300, 900):
            os.kill(process._process.pid, signal.SIGKILL)
        try:
            frames = process.decode(path, [1, 7], probe(path).frames, seconds=10.0)
            assert frames.shape == (2, 64, 96, 3)
        except ClipError as error:
            named.append(str(error))
            process.close()
            process = decord_process.DecordProcess(program)
        process.left = decord_process.CLIPS
    process.close()
    assert len(named) == 3
    assert "SIGKILL" in named[0] and str(paths[300]) in named[0]
    assert named[1] == f"{hanging}: did not decode within 10 s"
    assert "SIGKILL" in named[2] and str(paths[900]) in named[2]


HANGING_PROGRAM = """
import ctypes, importlib.util
spec = importlib.util.spec_from_file_location("program", {program!r})
program = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)
decode = program.decode

def decode_or_hang(path, wanted, total):
    while "hangs" in path:
        ctypes.PyDLL(None).pause()  # in C, and holding the interpreter
    return decode(path, wanted, total)

program.decode = decode_or_hang
program.main()
"""


def test_probing_many_clips(clips):
    memory, files = [], []
    for block in range(10):
        for path in clips[block * 1000 : block * 1000 + 1000]:
            assert probe(path).frames == 12
        memory.append(resident("self"))
        files.append(open_files("self"))
    assert max(memory[3:]) < memory[2] + MORE_MEMORY, memory
    assert max(files) == files[0]
