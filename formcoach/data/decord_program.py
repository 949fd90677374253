"""The program of a process that decodes clips with decord, asked line by line; see `formcoach.data.decord_process`.

It imports nothing of this package, so that it is there at once.
"""

import json
import signal
import sys

import decord
import numpy as np


def main() -> None:
    """Answer each line of the standard input: the frames' shape as a line of JSON, then their bytes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, asked["seconds"])  # its signal ends the process, whatever it is doing
        frames = decode(asked["path"], asked["wanted"], asked["total"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.buffer.write(json.dumps(None if frames is None else frames.shape).encode() + b"\n")
        if frames is not None:
            sys.stdout.buffer.write(memoryview(frames).cast("B"))
        sys.stdout.buffer.flush()


def decode(path: str, wanted: list[int], total: int) -> np.ndarray | None:
    """Return frames (T, H, W, 3), or None if decord cannot read the clip or counts its frames in another way."""
    decord.logging.set_level(decord.logging.QUIET)  # what goes wrong is raised as well
    try:
        video = decord.VideoReader(path, num_threads=1)
        return np.ascontiguousarray(video.get_batch(wanted).asnumpy()) if len(video) == total else None
    except (decord.DECORDError, RuntimeError):
        return None


if __name__ == "__main__":
    main()
