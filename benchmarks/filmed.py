"""Clips of QEVD's size, as a camera would see them: somebody textured moves in a textured room, with sensor noise."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

WIDTH, HEIGHT, FPS, FRAMES, SEED = 640, 480, 30, 145, 7


def write_clip(path: Path, seed: int, noise: float = 2.0, options: Mapping[str, str] | None = None) -> Path:
    """Write a clip: H.264 by x264's default preset, with its default B-frames and one key frame.

    Args:
        path: the file.
        seed: of room, person and movement.
        noise: of the sensor, in grey levels.
        options: of x264, beyond its defaults.
    """
    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number, picture in enumerate(_pictures(seed, noise)):
            planes = np.full((HEIGHT * 3 // 2, WIDTH), 128, np.uint8)
            planes[:HEIGHT] = picture
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _pictures(seed: int, noise: float) -> Iterator["np.ndarray"]:
    """Yield luma planes (HEIGHT, WIDTH) uint8 of a board that moves in a room."""
    import cv2
    import numpy as np

    rng = np.random.default_rng((SEED, seed))

    def texture(width: int, height: int, contrasts: dict[int, float]) -> np.ndarray:
        layers = [(rng.random((cells * 3, cells * 4), np.float32), contrast) for cells, contrast in contrasts.items()]
        return sum(cv2.resize(c, (width, height), interpolation=cv2.INTER_CUBIC) * k for c, k in layers)

    room = texture(WIDTH, HEIGHT, {2: 110, 8: 50, 40: 30, 120: 20})
    person = texture(120, 280, {3: 120, 20: 60, 60: 30})
    period = rng.uniform(1.0, 2.5)
    for number in range(FRAMES):
        angle = 2 * np.pi * number / FPS / period
        left, top = int(260 + 60 * np.sin(angle)), int(100 + 36 * np.cos(angle))
        picture = room.copy()
        picture[top : top + 280, left : left + 120] = person
        picture += rng.normal(0, noise, picture.shape)
        yield np.clip(picture * 219 / 255 + 16, 16, 235)
