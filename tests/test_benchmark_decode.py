"""The benchmark of the readers of frames runs and prints what it promises; how fast things are is not asserted."""

import re
import subprocess
import sys
from pathlib import Path

from formcoach.data.video import READERS

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "decode.py"


def benchmark(*arguments):
    command = [sys.executable, BENCHMARK, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    return done.returncode, done.stdout, done.stderr


def test_readers_side_by_side():
    code, output, errors = benchmark("--repeat", 1, "--clips", 20)
    assert code == 0, errors
    assert "cores" in output and "8 of 145 frames of 640x480" in output
    assert "other frames!" not in output
    for name in ("decord", "PyAV", "OpenCV", *(f"read_clip, {reader}" for reader in READERS)):
        assert len(re.findall(rf"^{name} +\d+\.\d +\d+\.\d\dx$", output, re.MULTILINE)) == 3
    assert "x264's default B-frames" in output and "no B-frames" in output
    assert re.search(r"^probing: \d+ clips/s in all, \d+ a second of a core's time$", output, re.MULTILINE)


def test_more_frames_than_there_are_are_refused():
    code, _, errors = benchmark("--frames", 146)
    assert code == 2 and len(errors.splitlines()) == 1 and "the clip has 145" in errors
