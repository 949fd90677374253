"""Conversations about clips as the items of a training: tokens, labels and pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

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
    """

    id: str
    clip: Path
    question: str
    answer: str
    reader: str


@dataclass(frozen=True)
class ResizedClip:
    """The chosen frames of a clip at the size that the model sees.

    Args:
        frames: (T, side, side, 3) uint8 RGB.
        duration: seconds of the whole clip.
    """

    frames: np.ndarray
    duration: float


def read_samples(datasets: Path, seed: int) -> list[Sample]:
    """Return the conversations of all data sets that a file like `data/diy_ft_data.json` lists.

    Args:
        datasets: the file.
        seed: decides what random sampling strategies take.

    Raises:
        UserError: a file is missing or damaged, or a clip's path leads out of its data set.
    """
    return [
        Sample(record.id, source.clip(record), record.question, record.answer, source.reader)
        for source in read_sources(datasets)
        for record in load_source(source, seed)
    ]


def read_resized(sample: Sample, processor: Any) -> ResizedClip:
    """Decode a sample's frames and resize them.

    Args:
        sample: whose clip to read.
        processor: the model's; chooses the frames and their size.

    Raises:
        ClipError: the clip cannot be read.
    """
    clip = read_clip(sample.clip, processor.select_frames, sample.reader)
    return ResizedClip(processor.resize(clip.frames), clip.duration)


class ClipDataset(Dataset):
    """Samples as model inputs.

    An item holds ``input_ids (L)``, ``labels (L)``, ``pixel_values (T, 3, side, side)`` and ``id``, the sample's.

    Args:
        samples: the conversations.
        processor: the model's.
        kept: clips that are in memory already, by their file.
    """

    def __init__(self, samples: Sequence[Sample], processor: Any, kept: Mapping[Path, ResizedClip]) -> None:
        self.samples = samples
        self.processor = processor
        self.kept = kept

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        """Return an item.

        Raises:
            UserError: its clip cannot be read; nothing takes its place.
        """
        sample = self.samples[index]
        try:
            clip = self.kept.get(sample.clip) or read_resized(sample, self.processor)
        except ClipError as error:
            # A loader's worker process hands over no exception with two arguments.
            raise UserError(f"sample {sample.id}: {error}") from None
        inputs = self.processor(clip.frames, sample.question, clip.duration, sample.answer)
        return {
            "input_ids": inputs["input_ids"][0],
            "labels": inputs["labels"][0],
            "pixel_values": inputs["pixel_values"],
            "id": sample.id,
        }
