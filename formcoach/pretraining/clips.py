"""Drawn clips of people that no demo dataset shows, at the size that a tiny model needs."""

import multiprocessing
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor

from formcoach.command import progress
from formcoach.data.demo_descriptions import described_take
from formcoach.data.demo_motion import JOINTS
from formcoach.data.demo_picture import draw, project
from formcoach.pretraining.system import TinySystem

PICTURE = (320, 240)  # drawn at half the demo's size: the models see 128 x 128 or 140 x 140
HELD_OUT = 10_000_000  # samples from here on are for checking


@dataclass(frozen=True)
class Drawn:
    """Drawn clips.

    Attributes:
        samples: numbers of the clips in their stream.
        frames: (clips, frames, height, width, 3) uint8.
        joints: (clips, frames, 17, 2) as shares of the picture.
        poses: (clips, frames, 17, 3) metres in the person's own frame.
    """

    samples: range
    frames: Tensor
    joints: Tensor
    poses: Tensor


def _draw_clip(picture: tuple[int, int], clip: tuple[int, int, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Draw a clip (stream, sample, seconds) at the size `picture`: frames, joints and poses."""
    seed, sample, times = clip
    take = described_take(seed, sample).take
    width, height = PICTURE
    frames = np.stack([draw(take, time, width, height) for time in times])
    poses = np.stack([take.joints(time) for time in times])
    joints = np.stack([project(take, pose, width, height)[0] for pose in poses])
    small = [cv2.resize(frame, picture, interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack(small), (joints / np.array(PICTURE)).astype(np.float32), poses.astype(np.float32)


def draw_clips(seed: int, samples: range, system: TinySystem) -> Drawn:
    """Draw clips of the stream `seed` at the times and the size of a tiny model, on all cores."""
    width, height = system.picture
    frames = torch.empty(len(samples), system.frames, height, width, 3, dtype=torch.uint8)
    joints = torch.empty(len(samples), system.frames, len(JOINTS), 2)
    poses = torch.empty(len(samples), system.frames, len(JOINTS), 3)
    clips = ((seed, number, system.frame_times(described_take(seed, number).take)) for number in samples)
    with multiprocessing.get_context("spawn").Pool(initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        drawn = pool.imap(partial(_draw_clip, system.picture), clips, chunksize=16)
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
