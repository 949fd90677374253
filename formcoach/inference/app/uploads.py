"""Clips that visitors have sent: files of one folder, each looked at once and deleted then."""

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse

from formcoach.errors import UserError

MOST = 16  # files that wait to be looked at
SECONDS = 10 * 60.0  # after which nobody is going to: the visitor has left


class Uploads:
    """Takes files under names that nobody can guess, and gives each of them away once.

    Args:
        folder: holds nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._came: dict[str, float] = {}  # when, by name
        self._lock = threading.Lock()

    async def receive(self, request: Request) -> PlainTextResponse:
        """Store the body of a request; the answer is the name under which it is to be had."""
        name = self._new_name()
        if name is None:
            return PlainTextResponse("Too many clips are waiting. Try again in some minutes.", status_code=503)
        try:
            with (self._folder / name).open("xb") as file:
                async for chunk in request.stream():
                    await run_in_threadpool(file.write, chunk)
        except BaseException:  # the visitor has left, or the disk is full
            self._delete(name)
            raise
        return PlainTextResponse(name)

    @contextmanager
    def taken(self, name: str) -> Iterator[Path]:
        """Give an upload away, within the context; it is deleted then.

        Raises:
            UserError: there is none of that name, whatever else the machine has under it.
        """
        with self._lock:
            if self._came.pop(name, None) is None:
                raise UserError("The clip is not here any more. Drop it again.")
        path = self._folder / name
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _new_name(self) -> str | None:
        """Return the name of an upload that begins; None if too many are waiting."""
        late = time.monotonic() - SECONDS
        for name in [name for name, came in list(self._came.items()) if came < late]:
            self._delete(name)
        with self._lock:
            if len(self._came) >= MOST:
                return None
            name = secrets.token_hex(16)
            self._came[name] = time.monotonic()
            return name

    def _delete(self, name: str) -> None:
        with self._lock:
            self._came.pop(name, None)
        (self._folder / name).unlink(missing_ok=True)
