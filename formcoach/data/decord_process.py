"""decord in a process of its own: it hangs inside of C++ on rare clips and slows down after many files.

A process decodes one clip after the other and is replaced after some hundreds of them, when it dies, or when a clip
takes too long: then its own alarm ends it, even if nobody is left to wait for it.
"""

import functools
import importlib.util
import io
import json
import os
import queue
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from formcoach.errors import ClipError

PROGRAM = Path(__file__).with_name("decord_program.py")
CLIPS = 500  # that a process decodes before another takes its place
HAS_ALARM = hasattr(signal, "alarm")  # Windows has none: there, decord runs without a guard


class DecordProcess:
    """A process that decodes clips with decord.

    Args:
        program: what it runs; `decord_program.py`.
    """

    def __init__(self, program: Path = PROGRAM) -> None:
        self.left = CLIPS
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=2**20
        )

    def decode(self, path: str | Path, wanted: list[int], total: int, seconds: float) -> np.ndarray | None:
        """Return frames (T, H, W, 3), or None if decord cannot read the clip or counts its frames in another way.

        Args:
            path: the clip.
            wanted: numbers of the frames.
            total: how many there are.
            seconds: after which the process is ended.

        Raises:
            ClipError: the process ended; it is of no more use.
        """
        self.left -= 1
        request = {"path": os.path.abspath(path), "wanted": wanted, "total": total, "seconds": seconds}  # noqa: PTH100
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            shape = json.loads(self._process.stdout.readline() or b"0")
            if shape is None:
                return None
            frames = np.empty(shape or 0, np.uint8)
            if shape and _fill(self._process.stdout, memoryview(frames).cast("B")):
                return frames
        except BrokenPipeError:
            pass
        self.left = 0
        code = self._process.wait()
        if HAS_ALARM and code == -signal.SIGALRM:
            raise ClipError(path, f"did not decode within {seconds:g} s")
        raise ClipError(
            path, f"ended the decoder with {_name(code)}; read it with video_read_type pyav, or leave it out"
        )

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def _fill(stream: io.BufferedReader, memory: memoryview) -> bool:
    """Read into all of `memory`; False if the stream ends before."""
    done = 0
    while done < len(memory):
        count = stream.readinto(memory[done:])
        if not count:
            return False
        done += count
    return True


def _name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


@functools.cache
def _idle(process: int) -> "queue.LifoQueue[DecordProcess]":
    """Return the processes that wait for work of one process, which must not share them with those it forks."""
    return queue.LifoQueue()


def decode_with_decord(path: str | Path, wanted: list[int], total: int, seconds: float) -> np.ndarray | None:
    """Decode frames in a process that is idle, or in a new one; arguments and results as for `DecordProcess.decode`."""
    if not HAS_ALARM:
        return _program().decode(str(path), wanted, total)
    idle = _idle(os.getpid())
    process = _take(idle)
    try:
        frames = process.decode(path, wanted, total, seconds)
    except BaseException:
        process.close()
        raise
    if process.left:
        idle.put(process)
    else:
        process.close()
    return frames


def _take(idle: "queue.LifoQueue[DecordProcess]") -> DecordProcess:
    """Return a process that is idle and alive, or a new one; somebody may have killed one, for its memory perhaps."""
    while not idle.empty():
        try:
            process = idle.get_nowait()
        except queue.Empty:  # another thread was faster
            break
        if process.is_alive:
            return process
        process.close()
    return DecordProcess()


@functools.cache
def _program() -> object:
    """Return the program as a module."""
    spec = importlib.util.spec_from_file_location("decord_program", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
