"""A picture that shows what each augmentation does to a clip, at both ends of its range."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from formcoach.data.augment import AUGMENTATIONS, Changes, timeline
from formcoach.data.augment_clips import changed_frames
from formcoach.data.video import probe
from formcoach.files import replacing

WIDTH = 200  # of a frame, in pixels


def write_sheet(clip: Path, names: Sequence[str], path: Path) -> None:
    """Write a PNG: the clip as it is, then a row for each augmentation: weakest or most negative, strongest.

    Args:
        clip: the source.
        names: of augmentations.
        path: the PNG.

    Raises:
        ClipError: the clip cannot be read.
    """
    rows = [_row(clip, "as it is", {}, {})]
    for name in names:
        ranges = AUGMENTATIONS[name].parameters
        low, high = ({parameter: ends[end] for parameter, ends in ranges.items()} for end in (0, 1))
        rows.append(_row(clip, name, low, high))
    half = (len(rows) + 1) // 2
    rows += [np.full_like(rows[0], 255)] * (2 * half - len(rows))
    sheet = np.hstack([np.vstack(rows[:half]), np.vstack(rows[half:])])
    with replacing(path) as temporary:
        temporary.write_bytes(cv2.imencode(".png", sheet[:, :, ::-1])[1].tobytes())


def _row(clip: Path, name: str, low: Changes, high: Changes) -> np.ndarray:
    """Return a title above four frames: (H, W, 3) uint8 RGB."""
    ends = [low] if low == high else [low, high]
    frames = [frame for changes in ends for frame in _moments(clip, changes, 4 // len(ends))]
    values = " | ".join(", ".join(f"{key} {value:g}" for key, value in changes.items()) for changes in ends if changes)
    title = np.full((24, WIDTH * 4, 3), 255, np.uint8)
    cv2.putText(title, f"{name}:  {values}", (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20), 1, cv2.LINE_AA)
    return np.vstack([title, np.hstack(frames)])


def _moments(clip: Path, changes: Changes, count: int) -> list[np.ndarray]:
    shown = len(timeline(changes, probe(clip).frames))
    wanted = {int((number + 0.5) / count * shown) for number in range(count)}
    frames = islice(changed_frames(clip, changes, (0,)), max(wanted) + 1)
    chosen = [frame for number, frame in enumerate(frames) if number in wanted]
    chosen += chosen[-1:] * (count - len(chosen))
    height, width = chosen[0].shape[:2]
    return [cv2.resize(frame, (WIDTH, WIDTH * height // width), interpolation=cv2.INTER_AREA) for frame in chosen]
