"""Conversations about clips as the items of a training: tokens, labels and pixels."""

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from formcoach.data.augment import Changes, allowed, changes_time, draw, mirror_text, timeline
from formcoach.data.augment_picture import PictureChange, in_sight
from formcoach.data.collate import NO_LOSS
from formcoach.data.sources import load_source, read_sources
from formcoach.data.video import read_clip
from formcoach.errors import ClipError, UserError

KEPT_TEXTS = 2000  # samples whose token ids stay in memory: 6 KB each at 400 tokens


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
        dataset: the data set's name.
    """

    id: str
    clip: Path
    question: str
    answer: str
    reader: str
    augmentations: tuple[str, ...] = ()
    dataset: str = ""


@dataclass(frozen=True)
class Pick:
    """A sample as a batch asks for it.

    Args:
        index: its place in the data.
        epoch: the pass over the data that it belongs to; decides how it is augmented.
        counts: whether its answer is part of the loss.
    """

    index: int
    epoch: int = 0
    counts: bool = True


@dataclass(frozen=True)
class View:
    """How a sample's clip is shown.

    Args:
        changes: the augmentations, as `formcoach.data.augment.draw` returns them; none: as it is.
        seeds: of the generator that draws what is random in them; empty where nothing is changed.
    """

    changes: Changes
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class VisualInputs:
    """What a model sees of a clip.

    Args:
        tensors: the model's arguments by name: its processor's, or in their place what its frozen part makes of them.
        frames: T, how many of the clip's frames they show.
        duration: seconds of the whole clip.
    """

    tensors: Mapping[str, Tensor]
    frames: int
    duration: float


class Features(Protocol):
    """Where the results of a model's frozen part are kept."""

    def read(self, sample: Sample, view: View) -> VisualInputs:
        """Return them for a clip."""


@dataclass(frozen=True)
class ResizedClip:
    """The chosen frames of a clip at the size that the model sees.

    Args:
        frames: (T, side, side, 3) uint8 RGB; some models see each frame in more than one way.
        count: how many frames of the clip they show.
        duration: seconds of the whole clip.
        aspect: width by height before the resize.
    """

    frames: np.ndarray
    count: int
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
        Sample(
            record.id,
            source.clip(record),
            record.question,
            record.answer,
            source.reader,
            source.augmentations,
            source.name,
        )
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
    return ResizedClip(processor.resize(clip.frames), len(clip.frames), duration, width / height)


class ClipDataset(Dataset):
    """Samples as model inputs.

    An item holds ``input_ids (L)``, ``labels (L)``, the processor's visual inputs or `features` in their place, and
    ``id``, the sample's. It is asked for by a `Pick`, or by its place alone.

    Args:
        samples: the conversations.
        processor: the model's.
        kept: clips that are in memory already, by their file.
        seed: with the epoch and the sample's id, decides how samples with augmentations are changed; None changes none.
        features: has what the model's frozen part makes of each clip, instead of `kept`; None: clips are read.
        variants: augment each sample in so many ways only, over and over; None: in a new way in each epoch.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        processor: Any,
        kept: Mapping[Path, ResizedClip],
        seed: int | None = None,
        features: Features | None = None,
        variants: int | None = None,
    ) -> None:
        self.samples = samples
        self.processor = processor
        self.kept = kept
        self.features = features
        self._seed = seed
        self._variants = variants
        self._repeats = _repeats(samples)
        self._texts: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, pick: int | Pick) -> dict[str, Tensor | str]:
        """Return an item.

        Raises:
            UserError: its clip cannot be read; nothing takes its place.
        """
        pick = pick if isinstance(pick, Pick) else Pick(pick)
        sample, view = self.samples[pick.index], self.view(pick)
        visual = self.look(sample, view)
        question, answer = mirror_text(sample.question, view.changes), mirror_text(sample.answer, view.changes)
        ids, labels = self._text(question, visual.frames, visual.duration, answer)
        if not pick.counts:
            labels = torch.full_like(labels, NO_LOSS)
        return {"input_ids": ids, "labels": labels, **visual.tensors, "id": sample.id}

    def _text(self, *about: Any) -> tuple[Tensor, Tensor]:
        """Return the processor's `text_inputs`; of a small data set they are kept, for epochs to come."""
        made = self._texts.get(about)
        if made is None:
            made = self.processor.text_inputs(*about)
            if len(self._texts) < KEPT_TEXTS:
                self._texts[about] = made
        return made

    def view(self, pick: Pick) -> View:
        """Draw how a sample is shown in an epoch: the same in every process, and in a resumed run."""
        sample = self.samples[pick.index]
        if self._seed is None or not sample.augmentations:
            return View({})
        epoch = pick.epoch if self._variants is None else pick.epoch % self._variants
        seeds = (self._seed % 2**32, epoch, zlib.crc32(sample.id.encode()), self._repeats[pick.index])
        changes = draw(allowed(sample.augmentations, (sample.question, sample.answer)), np.random.default_rng(seeds))
        return View(changes, seeds) if changes else View({})

    def look(self, sample: Sample, view: View) -> VisualInputs:
        """Return what the model sees of a clip, from `features` if there are.

        Raises:
            UserError: it cannot be read.
        """
        return self.read(sample, view) if self.features is None else self.features.read(sample, view)

    def read(self, sample: Sample, view: View) -> VisualInputs:
        """Return a clip as the processor prepares it.

        Raises:
            UserError: the clip cannot be read.
        """
        try:
            kept = None if changes_time(view.changes) else self.kept.get(sample.clip)
            clip = kept or read_resized(sample, self.processor, view.changes)
        except ClipError as error:
            # A loader's worker process hands over no exception with two arguments.
            raise UserError(f"sample {sample.id}: {error}") from None
        frames = self._changed(clip, view) if view.changes else clip.frames
        return VisualInputs(self.processor.visual_inputs(frames), clip.count, clip.duration)

    def _changed(self, clip: ResizedClip, view: View) -> np.ndarray:
        """Return a clip's frames with their pictures changed, each view of them as the whole picture is."""
        height, width = clip.frames.shape[1:3]
        generator = np.random.default_rng((*view.seeds, 1))  # another stream than that which drew the changes
        parts = []
        shown = self.processor.shown(clip.aspect)
        for frames, (across, down) in zip(np.split(clip.frames, len(shown)), shown, strict=True):
            changes = in_sight(view.changes, across, down)
            parts.append(PictureChange(changes, width, height, clip.aspect * across / down).all(frames, generator))
        return np.concatenate(parts)


def _repeats(samples: Sequence[Sample]) -> list[int]:
    """Return how often each sample's id has occurred before it: what an epoch repeats shall differ."""
    seen: Counter[str] = Counter()
    repeats = []
    for sample in samples:
        repeats.append(seen[sample.id])
        seen[sample.id] += 1
    return repeats
