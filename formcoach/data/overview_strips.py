"""Sample clips as strips of frames: a few of each exercise, out of all splits."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from formcoach.data.overview_clips import SplitClip, draw
from formcoach.data.sampling import frame_indices
from formcoach.data.splits import SPLITS
from formcoach.data.video import read_clip
from formcoach.errors import UserError
from formcoach.files import inside

FRAMES = 6
OF_AN_EXERCISE = 3
WIDTH, HEIGHT = 128, 96  # of a frame at most


@dataclass(frozen=True)
class Strip:
    """A sample clip.

    Args:
        clip: what is known about it.
        frames: (FRAMES, H, W, 3) uint8 RGB, small; None if the clip does not open.
        reason: why it does not.
    """

    clip: SplitClip
    frames: np.ndarray | None
    reason: str = ""


def choose(clips: Sequence[SplitClip], number: int, seed: int) -> list[SplitClip]:
    """Draw sample clips: one of every exercise, then another, up to `OF_AN_EXERCISE`, in turn from each split.

    The choice depends on seed and paths, not on the order of the clips.

    Args:
        clips: of all splits.
        number: how many at most.
        seed: of the draw.

    Returns:
        The clips, those of an exercise beside each other.
    """
    drawn: dict[str, dict[str, list[SplitClip]]] = defaultdict(lambda: {name: [] for name in SPLITS})
    for clip in sorted(clips, key=lambda clip: draw(seed, clip.path), reverse=True):
        drawn[clip.exercise][clip.split].append(clip)
    exercises = sorted(drawn, key=lambda exercise: draw(seed, exercise))
    chosen: list[SplitClip] = []
    for turn in range(OF_AN_EXERCISE):
        for place, exercise in enumerate(exercises):
            left = [name for name in _rotated(place + turn) if drawn[exercise][name]]
            if left and len(chosen) < number:
                chosen.append(drawn[exercise][left[0]].pop())
    return sorted(chosen, key=lambda clip: (clip.exercise, SPLITS.index(clip.split), clip.path))


def _rotated(turn: int) -> tuple[str, ...]:
    first = turn % len(SPLITS)
    return SPLITS[first:] + SPLITS[:first]


def read_strips(dataset_dir: Path, clips: Sequence[SplitClip]) -> Iterator[Strip]:
    """Yield a strip for each clip, in turn; looks at several at a time."""
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        yield from pool.map(lambda clip: _strip(dataset_dir, clip), clips)
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C do not go through the rest


def _strip(dataset_dir: Path, clip: SplitClip) -> Strip:
    try:
        file = inside(dataset_dir, clip.path)
        frames = read_clip(file, lambda total, fps: frame_indices(total, FRAMES), "pyav").frames
    except UserError as error:
        return Strip(clip, None, getattr(error, "reason", "is not a path inside the dataset folder"))
    return Strip(clip, np.stack([small(frame) for frame in frames]))


def small(frame: np.ndarray, most: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """Shrink (H, W, 3) into a box of `most` pixels (width, height), that of a strip's frame."""
    import cv2

    height, width = frame.shape[:2]
    scale = min(most[0] / width, most[1] / height)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)


def jpeg(strip: np.ndarray, quality: int = 72) -> bytes:
    """Return frames (T, H, W, 3) side by side as one JPEG."""
    import cv2

    picture = np.concatenate(list(strip), axis=1)  # (T, H, W, 3) -> (H, T * W, 3)
    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"cannot encode a picture of {picture.shape}")
    return data.tobytes()
