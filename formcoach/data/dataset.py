"""Conversations about clips as the items of a training: tokens, labels and pixels."""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from formcoach.data.augment import Changes, allowed, changes_time, draw, mirror_text, timeline
from formcoach.data.augment_picture import PictureChange
from formcoach.data.sources import load_source, read_sources
from formcoach.data.video import read_clip
from formcoach.errors import ClipError, UserError


@dataclass(frozen=True)
class Sample:
    """A question about a clip and its answer.

    Args:
        id: names the conversation.
        clip: the file.
        question: what is asked.
        answer: what the model shall learn to say.
        reader: which library decodes the clip.
        augmentations: what may be done to the clip while training.
    """

    id: str
    clip: Path
    question: str
    answer: str
    reader: str
    augmentations: tuple[str, ...] = ()


@dataclass(frozen=True)
class ResizedClip:
    """The chosen frames of a clip at the size that the model sees.

    Args:
        frames: (T, side, side, 3) uint8 RGB.
        duration: seconds of the whole clip.
        aspect: width by height before the resize.
    """

    frames: np.ndarray
    duration: float
    aspect: float


def read_samples(datasets: Path, seed: int) -> list[Sample]:
    """Return the conversations of all data sets that a file like `data/diy_ft_data.json` lists.

    Args:
        datasets: the file.
        seed: decides what random sampling strategies take.

    Raises:
        UserError: a file is missing or damaged, or a clip's path leads out of its data set.
    """
    return [
        Sample(record.id, source.clip(record), record.question, record.answer, source.reader, source.augmentations)
        for source in read_sources(datasets)
        for record in load_source(source, seed)
    ]


def read_resized(sample: Sample, processor: Any, changes: Changes | None = None) -> ResizedClip:
    """Decode a sample's frames and resize them.

    Args:
        sample: whose clip to read.
        processor: the model's; chooses the frames and their size.
        changes: a record of augmentations, of which those of time decide which frames are shown.

    Raises:
        ClipError: the clip cannot be read.
    """
    duration = 0.0

    def select(frames: int, fps: float) -> list[int]:
        nonlocal duration
        shown = timeline(changes or {}, frames)
        duration = len(shown) / fps
        return [shown[index] for index in processor.select_frames(len(shown), fps)]

    clip = read_clip(sample.clip, select, sample.reader)
    height, width = clip.frames.shape[1:3]
    return ResizedClip(processor.resize(clip.frames), duration, width / height)


class ClipDataset(Dataset):
    """Samples as model inputs.

    An item holds ``input_ids (L)``, ``labels (L)``, ``pixel_values (T, 3, side, side)`` and ``id``, the sample's.

    Args:
        samples: the conversations.
        processor: the model's.
        kept: clips that are in memory already, by their file.
        seed: with the epoch and the sample's id, decides how samples with augmentations are changed; None changes none.
    """

    def __init__(
        self, samples: Sequence[Sample], processor: Any, kept: Mapping[Path, ResizedClip], seed: int | None = None
    ) -> None:
        self.samples = samples
        self.processor = processor
        self.kept = kept
        self._seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # a loader's processes live for many epochs
        self._repeats = _repeats(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch: samples are changed in another way than in the last; `accelerate` calls this by its name."""
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        """Return an item.

        Raises:
            UserError: its clip cannot be read; nothing takes its place.
        """
        sample = self.samples[index]
        changes, generator = self._draw(index)
        try:
            kept = None if changes_time(changes) else self.kept.get(sample.clip)
            clip = kept or read_resized(sample, self.processor, changes)
        except ClipError as error:
            # A loader's worker process hands over no exception with two arguments.
            raise UserError(f"sample {sample.id}: {error}") from None
        frames, question, answer = clip.frames, sample.question, sample.answer
        if changes:
            height, width = frames.shape[1:3]
            frames = PictureChange(changes, width, height, clip.aspect).all(frames, generator)
            question, answer = mirror_text(question, changes), mirror_text(answer, changes)
        inputs = self.processor(frames, question, clip.duration, answer)
        return {
            "input_ids": inputs["input_ids"][0],
            "labels": inputs["labels"][0],
            "pixel_values": inputs["pixel_values"],
            "id": sample.id,
        }

    def _draw(self, index: int) -> tuple[dict[str, float], np.random.Generator]:
        """Draw a sample's changes in this epoch: the same in every process, and in a resumed run."""
        sample = self.samples[index]
        if self._seed is None or not sample.augmentations:
            return {}, np.random.default_rng(0)
        key = (self._seed % 2**32, int(self._epoch), zlib.crc32(sample.id.encode()), self._repeats[index])
        generator = np.random.default_rng(key)
        return draw(allowed(sample.augmentations, (sample.question, sample.answer)), generator), generator


def _repeats(samples: Sequence[Sample]) -> list[int]:
    """Return how often each sample's id has occurred before it: what an epoch repeats shall differ."""
    seen: Counter[str] = Counter()
    repeats = []
    for sample in samples:
        repeats.append(seen[sample.id])
        seen[sample.id] += 1
    return repeats
