"""What a clip looks like in numbers, measured while it is decoded once.

Brightness and sharpness are those of the luma plane in full range (0..255), as OpenCV's gray pictures are.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import msgspec
import numpy as np

from formcoach.data.clip_file import open_clip
from formcoach.data.file_cache import FileCache
from formcoach.data.similarity import MOMENTS, signature
from formcoach.data.video import VideoInfo
from formcoach.data.workers import spread
from formcoach.errors import ClipError

if TYPE_CHECKING:
    import av

CACHE, VERSION = "quality", 1
SAMPLES = 5  # frames a second that are looked at
REACH = 2  # frames by which a sample may move to one that is decoded in any case
CLIP_SECONDS = 60.0  # that measuring one clip may take
SMALL = 40, 30  # width and height that pictures are compared at; 16 x 16 pixels of 640 x 480 become one
LIMITED_SCALE = 255 / 219  # luma is stored as 16..235 unless a stream says otherwise
EIGHT_BIT_LUMA = frozenset({"gray", "nv12", "nv21"} | {f"yuv{j}{s}p" for j in ("", "j") for s in (420, 422, 444)})
FULL_RANGE = 2  # AVCOL_RANGE_JPEG

# Found on drawn exercises and on a textured scene with sensor noise. Noise of standard deviation 8 makes pictures of
# `SMALL` differ by up to 3.4 in one place, which is under 0.01 on average when differences below 3 are left out.
# Somebody who sways by 3 pixels makes 0.13, the exercises of the demo 0.2 to 3, but for their turning points.
NOISE = 3.0  # grey levels
ACTIVE = 0.1  # grey levels on average
BLACK, BLACK_SHARE = 25.0, 0.98  # a picture is black if this share of it is darker than that


class Quality(msgspec.Struct, frozen=True, array_like=True):
    """What was measured on a clip.

    Args:
        width: in pixels, as shown.
        height: in pixels, as shown.
        duration: in seconds.
        brightness: mean luma, 0..255.
        sharpness: variance of the Laplacian of full-size pictures; the median over moments of the clip.
        motion: share of the pairs of pictures, 0.2 s apart, between which something moves.
        movement: mean difference of these pairs in grey levels, noise left out; the median.
        black: seconds of the longest black stretch.
        frozen: seconds of the longest stretch without any change.
        digest: of the file's bytes.
        signature: see `formcoach.data.similarity`.
    """

    width: int
    height: int
    duration: float
    brightness: float
    sharpness: float
    motion: float
    movement: float
    black: float
    frozen: float
    digest: bytes
    signature: bytes


def measure_all(
    root: Path, paths: Sequence[str], workers: int, seconds: float = CLIP_SECONDS
) -> Iterator[tuple[str, Quality | ClipError]]:
    """Yield every clip with its measures or, if it cannot be read, with the reason; what is known already comes first.

    Args:
        root: the dataset folder; it gets the cache of measures.
        paths: clips relative to it.
        workers: processes to use.
        seconds: that one clip may take.
    """
    cache = FileCache(root, CACHE, Quality, VERSION)
    unknown = []
    for path in paths:
        known = cache.get(path)
        if known is None:
            unknown.append(path)
        else:
            yield path, known
    try:
        for path, result in spread(partial(_measure_in, str(root)), unknown, workers, seconds):
            if isinstance(result, Quality):
                cache.put(path, result)
            yield path, result
    finally:
        cache.save()


def _measure_in(root: str, path: str) -> Quality:
    cv2.setNumThreads(1)  # there is a process for each core
    try:
        return measure(Path(root) / path)
    except ClipError as error:
        raise ClipError(path, error.reason) from None


def measure(path: Path) -> Quality:
    """Decode a clip and measure it.

    Raises:
        ClipError: it is missing, damaged or not a video.
    """
    with open_clip(path) as file:
        info, wanted = file.info, sample_numbers(file.info)
        moments = {_moment(share, wanted) for share in range(MOMENTS)}
        numbers = sorted({*moments, *file.cheapest(set(wanted) - moments, REACH)})
        pictures, sharpness, turned = [], {}, False
        for number, frame in file.frames(numbers, CLIP_SECONDS):
            luma, scale = _luma(frame)
            pictures.append(_small(luma, scale, frame.rotation))
            turned = frame.rotation % 180 != 0
            if number in moments:
                deviation = cv2.meanStdDev(cv2.Laplacian(luma, cv2.CV_16S))[1].item()
                sharpness[number] = (deviation * scale) ** 2
        shown = file.times
    times = [shown[number] for number in numbers]
    changes = [_change(before, after) for before, after in pairwise(pictures)]
    return Quality(
        width=info.height if turned else info.width,
        height=info.width if turned else info.height,
        duration=info.duration,
        brightness=float(np.mean([picture.mean() for picture in pictures])),
        sharpness=float(np.median([*sharpness.values()])),
        motion=float(np.mean([change > ACTIVE for change in changes])) if changes else 0.0,
        movement=float(np.median(changes)) if changes else 0.0,
        black=_longest(_black_stretches(pictures), times, info.duration),
        frozen=_longest(_frozen_stretches(pictures), times, info.duration),
        digest=_digest(path),
        signature=signature([pictures[numbers.index(_moment(share, wanted))] for share in range(MOMENTS)]),
    )


def sample_numbers(info: VideoInfo) -> list[int]:
    """Return which frames are looked at: `SAMPLES` a second at equal distances, but `MOMENTS` if there are as many.

    They are taken from a grid of about 15 frames a second, which a copy with every second frame has, too.
    """
    step = max(1, round(info.fps / 15)) if info.frames >= 4 * MOMENTS else 1
    frames = info.frames // step
    count = min(frames, max(MOMENTS, round(info.duration * SAMPLES)))
    return [(2 * place + 1) * frames // (2 * count) * step for place in range(count)]


def _moment(share: int, numbers: Sequence[int]) -> int:
    return numbers[(2 * share + 1) * len(numbers) // (2 * MOMENTS)]


def _luma(frame: "av.VideoFrame") -> tuple[np.ndarray, float]:
    """Return a frame's gray picture, (H, W) uint8, and what its differences are to be multiplied by for full range."""
    name = frame.format.name
    if name not in EIGHT_BIT_LUMA:
        return cv2.cvtColor(frame.to_ndarray(format="rgb24"), cv2.COLOR_RGB2GRAY), 1.0
    plane = frame.planes[0]
    luma = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
    full = name.startswith("yuvj") or name == "gray" or frame.color_range == FULL_RANGE
    return luma, 1.0 if full else LIMITED_SCALE


def _small(luma: np.ndarray, scale: float, rotation: int) -> np.ndarray:
    """Return a picture of `SMALL` size in 0..255, upright: (H, W) uint8 -> (30, 40) float32, or (40, 30)."""
    half_way = SMALL[0] * 4, SMALL[1] * 4  # whole grey levels here, parts of them below
    while luma.shape[1] >= 2 * half_way[0] and luma.shape[0] >= 2 * half_way[1]:  # halving is what OpenCV is fast at
        luma = cv2.resize(luma, (luma.shape[1] // 2, luma.shape[0] // 2), interpolation=cv2.INTER_AREA)
    picture = cv2.resize(luma, half_way, interpolation=cv2.INTER_AREA).astype(np.float32)
    picture = cv2.resize(picture, SMALL, interpolation=cv2.INTER_AREA)
    if scale != 1.0:
        picture = np.clip((picture - 16) * scale, 0, 255)
    return np.ascontiguousarray(np.rot90(picture, rotation // 90 % 4))


def _change(before: np.ndarray, after: np.ndarray) -> float:
    difference = np.abs(after - before)
    return float(np.where(difference > NOISE, difference, 0).mean())


def _black_stretches(pictures: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Yield first and last picture of each black stretch."""
    first = None
    for place, picture in enumerate(pictures):
        if (picture < BLACK).mean() < BLACK_SHARE:
            first = None
        else:
            first = place if first is None else first
            yield first, place


def _frozen_stretches(pictures: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Yield first and last picture of each stretch in which none differs from the first: slow movements add up."""
    first = 0
    for place, picture in enumerate(pictures):
        if np.abs(picture - pictures[first]).max() > NOISE:
            first = place
        elif place > first:
            yield first, place


def _longest(stretches: Iterable[tuple[int, int]], times: Sequence[float], duration: float) -> float:
    """Return the seconds of the longest stretch; the first picture stands for the beginning, the last for the end."""
    ends = [0.0, *times[1:]], [*times[:-1], duration]
    return max((ends[1][last] - ends[0][first] for first, last in stretches), default=0.0)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).digest()
