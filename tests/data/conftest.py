"""Small real clips whose frames carry their number, and folders of them."""

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

BITS = 8  # a frame's number as bright and dark stripes from left to right, the lowest bit first


def numbered_frame(number: int, width: int, height: int) -> np.ndarray:
    stripes = np.array([230 if number >> bit & 1 else 20 for bit in range(BITS)], np.uint8)
    row = stripes[np.arange(width) * BITS // width]
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


@pytest.fixture(scope="session")
def frame_numbers() -> Callable[[np.ndarray], list[int]]:
    """Return a function that reads the numbers back from upright frames (T, H, W, 3)."""

    def read(frames: np.ndarray) -> list[int]:
        columns = frames.mean(axis=(1, 3))
        centres = (np.arange(BITS) * 2 + 1) * columns.shape[1] // (2 * BITS)
        return ((columns[:, centres] > 125) << np.arange(BITS)).sum(axis=1).tolist()

    return read


@pytest.fixture(scope="session")
def write_clip() -> Callable[..., Path]:
    """Return a function that writes a clip.

    `times` are the frames' times in 1/90000 s, `picture` draws a frame from its number, width and height, `tags` are
    what the stream says of its colours.
    """

    def write(
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
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", options=mux or {}) as container:
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

    return write


@pytest.fixture
def make_dataset(tmp_path: Path, write_clip) -> Callable[..., Path]:
    """Return a function that makes `dataset/` with clips and `ground_truth.json`, and returns the folder."""

    def make(records: list[dict], paths: list[str], name: str = "ground_truth.json") -> Path:
        dataset = tmp_path / "dataset"
        for path in paths:
            write_clip(dataset / path, frames=5)
        dataset.mkdir(exist_ok=True)
        (dataset / name).write_text(json.dumps(records), encoding="utf-8")
        return dataset

    return make
