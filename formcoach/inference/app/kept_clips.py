"""The clips of the last visitors, so that another question may be asked about the same clip."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from formcoach.data.video import Clip
from formcoach.errors import UserError

MOST = 16  # clips, some 5 MB each for the 8B's 8 frames
SECONDS = 30 * 60.0


class KeptClips:
    """Keeps in memory one clip of each visitor, or what is wrong with it: the newest few, each for a while.

    Args:
        most: how many clips.
        seconds: how long after its last use a clip is kept.
        now: the clock.
    """

    def __init__(self, most: int = MOST, seconds: float = SECONDS, now: Callable[[], float] = time.monotonic) -> None:
        self._most, self._seconds, self._now = most, seconds, now
        self._clips: OrderedDict[str, tuple[Clip | UserError, float]] = (
            OrderedDict()
        )  # by visitor, the last one used at the end
        self._lock = threading.Lock()

    def keep(self, visitor: str, clip: Clip | UserError) -> None:
        """Keep a clip in place of the visitor's last one."""
        with self._lock:
            self._use(visitor, clip)
            while len(self._clips) > self._most:
                self._clips.popitem(last=False)

    def of(self, visitor: str) -> Clip | UserError | None:
        """Return the visitor's clip, if it is still kept."""
        with self._lock:
            self._drop_old()
            if visitor not in self._clips:
                return None
            clip, _ = self._clips[visitor]
            self._use(visitor, clip)
            return clip

    def forget(self, visitor: str) -> None:
        """Drop the visitor's clip, if there is one."""
        with self._lock:
            self._clips.pop(visitor, None)
            self._drop_old()

    def _use(self, visitor: str, clip: Clip | UserError) -> None:
        self._clips[visitor] = clip, self._now()
        self._clips.move_to_end(visitor)

    def _drop_old(self) -> None:
        late = self._now() - self._seconds
        for visitor, (_, used) in list(self._clips.items()):
            if used < late:
                del self._clips[visitor]
