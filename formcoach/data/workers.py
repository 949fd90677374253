"""Work on many clips in several processes, none of which can take the others down.

Decoders crash and hang on rare files, inside C code that no exception leaves. A process that dies or takes too long is
replaced, and only the clip that it had in hand is given up.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Generic, TypeVar

from formcoach.errors import ClipError

Result = TypeVar("Result")


def spread(
    work: Callable[[str], Result], paths: Iterable[str], workers: int, seconds: float
) -> Iterator[tuple[str, Result | ClipError]]:
    """Yield each path with what `work` returns for it, or with the reason why there is nothing; in no fixed order.

    Args:
        work: a function that a new process can import.
        paths: what to work on.
        workers: processes to use.
        seconds: that one path may take.
    """
    waiting = iter(paths)
    busy: list[_Worker[Result]] = []
    try:
        for path in waiting:
            busy.append(_Worker(work, seconds))
            busy[-1].begin(path)
            if len(busy) == workers:
                break
        while busy:
            _wait(busy)
            for place, worker in reversed([*enumerate(busy)]):
                path, result = worker.path, worker.result()
                if result is None:
                    continue
                following = next(waiting, None)
                if following is None:
                    busy.pop(place).end()
                else:
                    if not worker.alive:
                        busy[place] = _Worker(work, seconds)
                    busy[place].begin(following)
                yield path, result
    finally:
        for worker in busy:
            worker.end()


class _Worker(Generic[Result]):
    """A process that works on one path at a time."""

    def __init__(self, work: Callable[[str], Result], seconds: float) -> None:
        self.path = ""
        self.deadline = 0.0
        self.alive = True
        self._seconds = seconds
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, work), daemon=True)
        with _interrupts_held():
            self._process.start()
        theirs.close()

    def begin(self, path: str) -> None:
        """Start on a path."""
        self.path = path
        self.deadline = time.monotonic() + self._seconds
        with suppress(OSError):  # it died; `result` tells
            self.connection.send(path)

    def result(self) -> Result | ClipError | None:
        """Return what came of the path, or None if it is still being worked on."""
        if self.connection.poll():
            try:
                return self.connection.recv()
            except (EOFError, OSError):
                self.end()
                return ClipError(self.path, f"crashes the decoder ({_ending(self._process.exitcode)})")
        if time.monotonic() > self.deadline:
            self.end()
            return ClipError(self.path, f"is given up: it takes longer than {self._seconds:g} s to decode")
        return None

    def end(self) -> None:
        """End the process, whatever it is doing."""
        if self.alive:
            self.alive = False
            self._process.kill()
            self._process.join()
            self.connection.close()


def _wait(busy: list[_Worker]) -> None:
    """Return when a worker has something to tell, or has had its time."""
    earliest = min(worker.deadline for worker in busy)
    wait([worker.connection for worker in busy], timeout=max(0.0, earliest - time.monotonic()) + 0.01)


def _ending(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _serve(connection: Connection, work: Callable[[str], Result]) -> None:
    """Work on the paths that arrive until nobody sends any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends this process
    while True:
        try:
            path = connection.recv()
        except (EOFError, OSError):
            return
        try:
            result: object = work(path)
        except ClipError as error:
            result = error
        except Exception as error:
            result = ClipError(path, f"cannot be measured ({type(error).__name__}: {error})".replace("\n", " "))
        connection.send(result)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while a process starts, which would print a traceback of its imports."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
