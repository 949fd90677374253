"""Short filmed scenes with texture, sensor noise and something that moves, and changes made to them."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

FPS = 15


def texture(rng, width, height, contrasts):
    """Return a smooth random picture with finer and finer detail: (height, width) float32."""
    layers = [(rng.random((cells * 3, cells * 4)).astype(np.float32), contrast) for cells, contrast in contrasts]
    return sum(cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC) * c for layer, c in layers)


def scene(room=0, seconds=2.0, size=(320, 240), sway=30.0, period=1.3, phase=0.0, noise=2.0, fps=FPS):
    """Return the gray frames of somebody (a textured board) who moves in a room: (H, W) float32 in 0..255 each.

    Args:
        room: seeds room and person; the noise depends on all arguments.
        seconds: of the clip.
        size: width and height.
        sway: in pixels.
        period: of the movement in seconds.
        phase: of the movement at the start, in periods.
        noise: standard deviation in grey levels.
        fps: frames a second.
    """
    width, height = size
    rng = np.random.default_rng(room)
    back = texture(rng, width, height, ((2, 110), (8, 50), (40, 30)))
    person = texture(rng, width // 5, height // 2, ((3, 120), (20, 60)))
    grain = np.random.default_rng((room, round(100 * sway), round(100 * period), round(100 * phase)))
    for number in range(round(seconds * fps)):
        angle = 2 * np.pi * (number / fps / period + phase)
        left, top = width * 0.4 + sway * np.sin(angle), height * 0.25 + 0.6 * sway * np.cos(angle)
        shift = np.float32([[1, 0, left], [0, 1, top]])  # by parts of pixels
        picture = back.copy()
        cv2.warpAffine(person, shift, (width, height), dst=picture, borderMode=cv2.BORDER_TRANSPARENT)
        yield picture + grain.normal(0, noise, picture.shape)


def film(path: Path, frames, fps=FPS, crf=23, full_range=False) -> Path:
    """Encode gray frames in 0..255 as H.264."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(crf), "preset": "veryfast"})
        stream.pix_fmt = "yuvj420p" if full_range else "yuv420p"
        for number, picture in enumerate(frames):
            height, width = picture.shape
            if number == 0:
                stream.width, stream.height = width, height
            luma = picture if full_range else picture * 219 / 255 + 16
            planes = np.full((height * 3 // 2, width), 128, np.uint8)
            planes[:height] = np.clip(luma.round(), 0, 255)
            frame = av.VideoFrame.from_ndarray(planes, format=stream.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def encode_again(source: Path, target: Path, size=None, crf=30, brighter=0.0, every=1) -> Path:
    """Encode a clip once more: in another size, quality or brightness, or every so many frames only."""
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        fps = stream.average_rate / every
        pictures = [frame.to_ndarray(format="gray").astype(np.float32) for frame in container.decode(stream)][::every]
    if size:
        pictures = [cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in pictures]
    return film(target, [picture + brighter for picture in pictures], fps, crf)
