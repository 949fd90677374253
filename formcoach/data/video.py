"""Clips as arrays of frames: what a file holds, and the frames that somebody asks for.

`decord`, `opencv` and `pyav` are three readers of the same frames. They number them alike (in the order in which they
are shown, without those that an edit list hides) and return equal pixels, rotation metadata applied.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from formcoach.errors import ClipError, UserError

READERS = {"decord": "decord", "opencv": "cv2", "pyav": "av"}  # as users write it -> the module to import
HIDDEN = 2  # AVINDEX_DISCARD_FRAME of libavformat: stored, but an edit list hides it


@dataclass(frozen=True)
class VideoInfo:
    """What a file says about its video stream, without decoding it.

    Args:
        frames: number of frames that are shown.
        fps: average frames a second.
        width: in pixels, before rotation metadata.
        height: in pixels, before rotation metadata.
    """

    frames: int
    fps: float
    width: int
    height: int

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.fps


@dataclass(frozen=True)
class Clip:
    """Some frames of a clip.

    Args:
        frames: (T, H, W, 3) uint8 RGB.
        indices: (T) which frame of the file each one is.
        duration: seconds of the whole clip.
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
    with _opened(path, decode=False) as (container, stream):
        frames = _count_frames(path, container, stream)
        rate = stream.average_rate or stream.guessed_rate
        if frames == 0 or not rate:
            raise ClipError(path, "has no video frames")
        return VideoInfo(frames, float(rate), stream.codec_context.width, stream.codec_context.height)


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


def read_clip(path: str | Path, select: Callable[[int, float], Sequence[int]], reader: str = "decord") -> Clip:
    """Return the frames that `select` chooses.

    Nothing behind the last chosen frame is decoded.

    Args:
        path: the clip.
        select: from (number of frames, frames a second) to the frame numbers wanted, in any order, repeats allowed.
        reader: `decord`, `opencv` or `pyav`; one that is not installed gives way to `pyav`.

    Raises:
        ClipError: the clip is missing, damaged or not a video.
        UserError: there is no such reader.
    """
    if reader not in READERS:
        raise UserError(f"there is no reader of videos named {reader!r}; use one of {', '.join(READERS)}")
    info = probe(path)
    indices = [int(index) for index in select(info.frames, info.fps)]
    if not indices or min(indices) < 0 or max(indices) >= info.frames:
        raise ValueError(f"{path}: frames {indices} are not among its {info.frames}")
    wanted = sorted(set(indices))
    if importlib.util.find_spec(READERS[reader]) is None:
        reader = "pyav"
    read = {"decord": _read_with_decord, "opencv": _read_with_opencv, "pyav": _read_with_pyav}[reader]
    frames = read(path, wanted, info.frames)  # (unique, H, W, 3)
    if len(frames) < len(wanted):
        raise ClipError(path, f"is damaged: frame {wanted[len(frames)]} of {info.frames} cannot be decoded")
    frames = frames[np.searchsorted(wanted, indices)]  # (unique, H, W, 3) -> (T, H, W, 3)
    return Clip(frames, indices, info.duration, str(path))


def _read_with_pyav(path: str | Path, wanted: list[int], total: int) -> np.ndarray:
    import av

    frames = []
    with _opened(path) as (container, stream):
        stream.thread_type = "NONE"  # several clips are decoded at a time instead
        try:
            for index, frame in enumerate(container.decode(stream)):
                if index == wanted[len(frames)]:
                    frames.append(_upright(frame.to_ndarray(format="rgb24"), frame.rotation))
                    if len(frames) == len(wanted):
                        break
        except av.FFmpegError:
            pass  # the caller counts the frames and names the first that is missing
    return np.stack(frames) if frames else np.empty((0, 0, 0, 3), np.uint8)


def _upright(frame: np.ndarray, rotation: int) -> np.ndarray:
    """Turn (H, W, 3) as its metadata asks; `rotation` in degrees counter-clockwise."""
    return np.rot90(frame, rotation // 90 % 4) if rotation else frame


def _read_with_decord(path: str | Path, wanted: list[int], total: int) -> np.ndarray:
    import decord

    decord.logging.set_level(decord.logging.QUIET)  # what goes wrong is raised as well
    try:
        video = decord.VideoReader(str(path), num_threads=1)
        if len(video) == total:
            return video.get_batch(wanted).asnumpy()
    except (decord.DECORDError, RuntimeError):
        pass
    return _read_with_pyav(path, wanted, total)  # where decord fails or numbers the frames in another way


def _read_with_opencv(path: str | Path, wanted: list[int], total: int) -> np.ndarray:
    import cv2

    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    frames = []
    try:
        for index in range(wanted[-1] + 1):  # a seek costs more than to decode what lies between
            if not video.grab():
                break
            if index == wanted[len(frames)]:
                frames.append(cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB))
    finally:
        video.release()
    return np.stack(frames) if frames else np.empty((0, 0, 0, 3), np.uint8)


@contextmanager
def _opened(path: str | Path, decode: bool = True) -> Iterator[tuple]:
    """Yield PyAV's container and its video stream, which may be used to `decode` only if that is asked for."""
    import av

    file = Path(path)
    if not file.exists():
        raise ClipError(path, "no such file")
    if not file.is_file():
        raise ClipError(path, "is not a file")
    if file.stat().st_size == 0:
        raise ClipError(path, "is empty (0 bytes)")
    try:
        container = av.open(str(file)) if decode else _open_without_decoding(str(file))
    except (av.FFmpegError, OSError) as error:
        raise ClipError(path, f"is not a video or is damaged ({error.strerror})") from error
    with container:
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            raise ClipError(path, "has no video stream")
        if container.format.name.endswith("_pipe") or container.format.name == "image2":
            raise ClipError(path, "is a picture, not a video")
        yield container, streams[0]


def _open_without_decoding(file: str) -> object:
    """Open a file, four times as fast: libavformat decodes a frame while it looks at the streams if it may."""
    import av

    try:
        return av.open(file, stream_options=[{"skip_frame": "all"}])
    except ValueError:  # a format that names its streams only on the way (flv, mpg) takes no options for them
        return av.open(file)


def _is_cover(stream: object) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _count_frames(path: str | Path, container: object, stream: object) -> int:
    """Count what is shown: by the header's index where there is one, else packet by packet."""
    entries = list(stream.index_entries) if stream.frames else []
    if len(entries) != stream.frames or not entries:
        return sum(1 for packet in container.demux(stream) if packet.size and not packet.is_discard)
    size = Path(path).stat().st_size
    whole = sum(1 for entry in entries if entry.pos + entry.size <= size)
    if whole < len(entries):
        raise ClipError(path, f"is cut short: only {whole} of its {len(entries)} frames are in the file")
    return sum(1 for entry in entries if not entry.flags & HIDDEN)
