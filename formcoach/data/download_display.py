"""How far a download is: a bar of bytes on a terminal, elsewhere a line now and then."""

import sys
import threading
import time
from typing import Self

from formcoach.command import QUIET_SECONDS
from formcoach.data.arrivals import gigabytes


class Display:
    """Tells how far a download is: a bar of bytes on a terminal, elsewhere a line now and then."""

    def __init__(self) -> None:
        self._files = self._size = 0
        self._done = self._came = 0
        self._tenth, self._last = 0, time.monotonic()
        self._lock = threading.Lock()
        self._bar = None

    def expect(self, files: int, size: int) -> None:
        """Say how many files and bytes have to come."""
        self._files, self._size = files, size

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._size, desc=self._files_done(), unit="B", unit_scale=True, leave=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def say(self, line: str) -> None:
        """Print a line without harming the bar."""
        with self._lock:
            if self._bar is None:
                print(line, file=sys.stderr, flush=True)
            else:
                self._bar.write(line, file=sys.stderr)

    def advance(self, size: int) -> None:
        """Count bytes that came; a negative number takes some back."""
        with self._lock:
            self._came += size
            if self._bar is not None:
                self._bar.update(size)

    def file_done(self) -> None:
        """Count a file that is in place."""
        with self._lock:
            self._done += 1
            if self._bar is not None:
                self._bar.set_description(self._files_done(), refresh=False)
                return
            tenth, now = self._done * 10 // max(self._files, 1), time.monotonic()
            if tenth > self._tenth and now - self._last > QUIET_SECONDS:
                self._tenth, self._last = tenth, now
                came, size = gigabytes(self._came), gigabytes(self._size)
                print(f"{self._files_done()}, {came} of {size}", file=sys.stderr, flush=True)

    def _files_done(self) -> str:
        return f"{self._done}/{self._files} files"
