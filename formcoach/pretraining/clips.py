"""Drawn clips of people that no demo dataset shows, the way the tiny model sees them."""

import multiprocessing
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from formcoach.command import progress
from formcoach.data.demo_descriptions import described_take
from formcoach.data.demo_motion import JOINTS
from formcoach.data.demo_picture import Take, draw, project

FRAMES = 12
PICTURE = (320, 240)  # drawn at half the demo's size: the model sees 140 x 140
SIDE = 140
HELD_OUT = 10_000_000  # samples from here on are for checking


@dataclass(frozen=True)
class Drawn:
    """Drawn clips, the way the model sees them.

    Attributes:
        samples: numbers of the clips in their stream.
        frames: (clips, FRAMES, side, side, 3) uint8.
        joints: (clips, FRAMES, 17, 2) as shares of the picture.
        poses: (clips, FRAMES, 17, 3) metres in the person's own frame.
    """

    samples: range
    frames: Tensor
    joints: Tensor
    poses: Tensor


def _draw_clip(sample: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a clip of the stream `seed` at the model's size: frames, joints and poses."""
    take = described_take(*sample).take
    width, height = PICTURE
    times = frame_times(take)
    frames = np.stack([draw(take, time, width, height) for time in times])
    poses = np.stack([take.joints(time) for time in times])
    joints = np.stack([project(take, pose, width, height)[0] for pose in poses])
    small = [cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack(small), (joints / np.array(PICTURE)).astype(np.float32), poses.astype(np.float32)


def frame_times(take: Take) -> np.ndarray:
    """Return the seconds at which a model sees a clip: the middle of each of FRAMES equal parts."""
    return (np.arange(FRAMES) + 0.5) / FRAMES * take.duration


def draw_clips(seed: int, samples: range) -> Drawn:
    """Draw clips of the stream `seed`, on all cores."""
    frames = torch.empty(len(samples), FRAMES, SIDE, SIDE, 3, dtype=torch.uint8)
    joints = torch.empty(len(samples), FRAMES, len(JOINTS), 2)
    poses = torch.empty(len(samples), FRAMES, len(JOINTS), 3)
    with multiprocessing.get_context("spawn").Pool(initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        drawn = pool.imap(_draw_clip, ((seed, number) for number in samples), chunksize=16)
        for row, parts in enumerate(progress(drawn, len(samples), "clips drawn")):
            frames[row], joints[row], poses[row] = (torch.from_numpy(part) for part in parts)
    return Drawn(samples, frames, joints, poses)


_MIRRORED_JOINTS = [
    JOINTS.index(name[:-1] + {"l": "r", "r": "l"}[name[-1]]) if name[-2] == "_" else JOINTS.index(name)
    for name in JOINTS
]


def mirror(points: Tensor, width: float) -> Tensor:
    """Return joints (..., 17, 2 or 3) of the mirrored picture, whose left edge is 0 and right edge `width`."""
    points = points[..., _MIRRORED_JOINTS, :].clone()
    points[..., 0] = width - points[..., 0]
    return points
