"""Clips as arrays of frames: what a file holds, and the frames that somebody asks for.

`decord`, `opencv` and `pyav` are three readers of the same frames. They number them alike (in the order in which they
are shown, without those that an edit list hides) and return equal pixels, rotation metadata applied.
"""

import importlib.util
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from formcoach.data.clip_file import ClipFile, VideoInfo, open_clip
from formcoach.data.decord_process import decode_with_decord
from formcoach.errors import ClipError, UserError

if TYPE_CHECKING:
    import av

__all__ = ["READERS", "Clip", "VideoInfo", "iterate_frames", "probe", "probe_all", "read_clip"]

AUTO = "auto"
READERS = {"decord": "decord", "opencv": "cv2", "pyav": "av", AUTO: "av"}  # as users write it -> the module to import
DECORD_CODECS = frozenset({"h264", "hevc", "vp8", "vp9"})
SAME_MOMENT = 1e-6  # seconds; 0.1 as a user writes it and 3 / 30 as a file does
DECODE_SECONDS = 60.0  # a clip that takes longer is given up

Select = Callable[[int, float], Sequence[int]]


@dataclass(frozen=True)
class Clip:
    """Some frames of a clip.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        indices: (T) which frame of the file each one is.
        duration: seconds of the whole clip, or of the part that was asked for.
        path: the file.
    """

    frames: np.ndarray
    indices: list[int]
    duration: float
    path: str


def probe(path: str | Path) -> VideoInfo:
    """Return what the file says about its video, without decoding it.

    Raises:
        ClipError: missing, empty, cut short, or not a video.
    """
    with open_clip(path) as file:
        return file.info


def probe_all(paths: Sequence[str | Path]) -> Iterator[VideoInfo | ClipError]:
    """Yield for each path in turn what `probe` returns or, for a bad clip, its error; looks at several at a time."""
    pool = ThreadPoolExecutor(max_workers=min(32, 2 * (os.cpu_count() or 1)))
    try:
        yield from pool.map(_probe_or_error, paths)
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C do not go through the rest


def _probe_or_error(path: str | Path) -> VideoInfo | ClipError:
    try:
        return probe(path)
    except ClipError as error:
        return error


def read_clip(
    path: str | Path,
    select: Select,
    reader: str = AUTO,
    start: float | None = None,
    end: float | None = None,
    seconds: float = DECODE_SECONDS,
) -> Clip:
    """Return the frames that `select` chooses.

    Nothing behind the last chosen frame is decoded.

    Args:
        path: the clip.
        select: from (number of frames, frames a second) to the frame numbers wanted, in any order, repeats allowed.
        reader: `decord`, `opencv`, `pyav`, or `auto` for the fastest. One that is not installed, or would give other
            pixels, gives way to `pyav`.
        start: of the part of the clip to choose from, in seconds; the whole clip by default. Frames are numbered and
            counted within it.
        end: of that part.
        seconds: after which a clip that does not decode is given up.

    Raises:
        ClipError: the clip is missing, damaged or not a video, the part is not in it, or it takes too long to decode.
        UserError: there is no such reader.
    """
    if reader not in READERS:
        raise UserError(f"there is no reader of videos named {reader!r}; use one of {', '.join(READERS)}")
    with open_clip(path) as file:
        first, count, duration = _part(file, start, end)
        indices = [int(index) for index in select(count, file.info.fps)]
        if not indices or min(indices) < 0 or max(indices) >= count:
            raise ValueError(f"{path}: frames {indices} are not among its {count}")
        numbers = [first + index for index in indices]
        wanted = sorted(set(numbers))
        frames = _read(file, wanted, reader, seconds)  # (unique, H, W, 3)
    if wanted != numbers:
        frames = frames[np.searchsorted(wanted, numbers)]  # -> (T, H, W, 3)
    return Clip(frames, indices, duration, str(path))


def iterate_frames(
    path: str | Path, select: Select, seconds: float = DECODE_SECONDS
) -> Iterator[tuple[int, "av.VideoFrame"]]:
    """Yield chosen frames as PyAV's, not converted and not turned upright, with their numbers and in their order.

    Args:
        path: the clip.
        select: as for `read_clip`; each frame comes once.
        seconds: after which a clip that does not decode is given up.

    Raises:
        ClipError: as `read_clip`.
    """
    with open_clip(path) as file:
        yield from file.frames(sorted(set(map(int, select(file.info.frames, file.info.fps)))), seconds)


def _part(file: ClipFile, start: float | None, end: float | None) -> tuple[int, int, float]:
    """Return the first frame, the number of frames and the seconds of a part of a clip."""
    info = file.info
    if start is None and end is None:
        return 0, info.frames, info.duration
    begin, stop = start or 0.0, info.duration if end is None else min(end, info.duration)
    inside = [
        number for number, time in enumerate(file.times) if begin <= time + SAME_MOMENT and time + SAME_MOMENT < stop
    ]
    if not inside or begin < 0:
        raise ClipError(
            file.path,
            f"has no frame from {begin:g} s to {stop:g} s; it lasts {info.duration:.2f} s. Correct start or end",
        )
    return inside[0], len(inside), stop - begin


def _read(file: ClipFile, wanted: list[int], reader: str, seconds: float) -> np.ndarray:
    """Return frames in the order of their numbers, (T, H, W, 3)."""
    found = None
    if _is_installed(READERS[reader]) and file.is_plain and _is_unicode(file.path):
        if reader == "decord" and _decord_seeks_right(file):
            found = decode_with_decord(file.path, wanted, file.info.frames, seconds)
        elif reader == "opencv":
            found = _read_with_opencv(file, wanted, seconds)
    return _read_with_pyav(file, wanted, seconds) if found is None else found


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # another thread is importing it: meanwhile OpenCV has no specification
        return True


def _is_unicode(path: str | Path) -> bool:
    """Tell whether a name is text; OpenCV crashes on others, and decord refuses them."""
    return not any("\ud800" <= character <= "\udfff" for character in str(path))


def _decord_seeks_right(file: ClipFile) -> bool:
    """Tell whether decord gives the frames that it is asked for.

    It takes every key frame for one that decoding may begin with, and miscounts behind one in MPEG and WMV.
    """
    return file.codec in DECORD_CODECS and (file.starts == 1 or (file.starts > 1 and file.codec != "hevc"))


def _read_with_pyav(file: ClipFile, wanted: list[int], seconds: float) -> np.ndarray:
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # keeps its tables from frame to frame
    frames: dict[int, np.ndarray] = {}
    for number, frame in file.frames(wanted, seconds):
        rgb = reformatter.reformat(frame, format="rgb24", threads=1)
        frames[number] = _upright(rgb.to_ndarray(), frame.rotation)
    return np.stack([frames[number] for number in wanted])


def _upright(frame: np.ndarray, rotation: int) -> np.ndarray:
    """Turn (H, W, 3) as its metadata asks, by quarters as all readers do; `rotation` in degrees counter-clockwise."""
    return np.rot90(frame, rotation // 90 % 4) if rotation and rotation % 90 == 0 else frame


def _read_with_opencv(file: ClipFile, wanted: list[int], seconds: float) -> np.ndarray | None:
    """Return frames, (T, H, W, 3), or None if not all of them can be decoded."""
    import cv2

    late = time.monotonic() + seconds
    path = os.path.abspath(file.path)  # noqa: PTH100 - a name may have a colon
    video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames: list[np.ndarray] = []
    try:
        for index in range(wanted[-1] + 1):  # a seek costs more than to decode what lies between
            if time.monotonic() > late:
                raise ClipError(file.path, f"did not decode within {seconds:g} s")
            if not video.grab():
                return None  # a codec that it has not got, or damage, which PyAV names
            if index == wanted[len(frames)]:
                frames.append(cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB))
    finally:
        video.release()
    return np.stack(frames)
