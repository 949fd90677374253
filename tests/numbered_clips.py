"""Small real clips whose frames carry their number."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 8  # a frame's number as bright and dark stripes from left to right, the lowest bit first


def numbered_frame(number: int, width: int, height: int) -> np.ndarray:
    stripes = np.array([230 if number >> bit & 1 else 20 for bit in range(BITS)], np.uint8)
    row = stripes[np.arange(width) * BITS // width]
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def frame_numbers(frames: np.ndarray) -> list[int]:
    """Read the numbers back from upright frames (T, H, W, 3)."""
    columns = frames.mean(axis=(1, 3))
    centres = (np.arange(BITS) * 2 + 1) * columns.shape[1] // (2 * BITS)
    return ((columns[:, centres] > 125) << np.arange(BITS)).sum(axis=1).tolist()


@contextmanager
def clip_to_write(path: Path, **options) -> Iterator[av.container.OutputContainer]:
    """Open a clip to write, and keep the priority of the thread that writes it.

    SVT-AV1 gives the thread that opens it real-time priority where it may, which every process started later inherits:
    under it a browser and its driver starve all the others.
    """
    before = (os.sched_getscheduler(0), os.sched_getparam(0)) if sys.platform == "linux" else None
    try:
        with av.open(str(path), "w", **options) as container:
            yield container
    finally:
        if before:
            os.sched_setscheduler(0, *before)


def write_clip(
    path: Path,
    frames=20,
    fps=15,
    size=(64, 48),
    codec="libx264",
    pix_fmt="yuv420p",
    options=None,
    mux=None,
    times=None,
    picture=numbered_frame,
    tags=None,
) -> Path:
    """Write a clip.

    `times` are the frames' times in 1/90000 s, `picture` draws a frame from its number, width and height, `tags` are
    what the stream says of its colours.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with clip_to_write(path, options=mux or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        if times:
            stream.codec_context.time_base = Fraction(1, 90000)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
