"""How many tokens each sample has, measured without decoding its clip."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formcoach.command import progress
from formcoach.data.augment import allowed, longest, mirror_text, timeline
from formcoach.data.dataset import Sample
from formcoach.data.video import VideoInfo
from formcoach.errors import UserError

PORTION = 256  # samples that a thread takes at a time


@dataclass(frozen=True)
class Length:
    """A sample's tokens.

    Args:
        text: of the prompt, without the visual ones.
        visual: placeholders of what the model sees.
        answer: those with a label, the answer's and the one that closes it.
    """

    text: int
    visual: int
    answer: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.text + self.visual + self.answer


@dataclass(frozen=True)
class Measured:
    """All that a sample's length depends on besides the processor; samples that repeat share it.

    Args:
        question: of the sample.
        answer: of the sample.
        frames: of its clip.
        fps: of its clip.
        augmentations: what may be done to the clip.
    """

    question: str
    answer: str
    frames: int
    fps: float
    augmentations: tuple[str, ...]


def measure(
    samples: Sequence[Sample],
    infos: Mapping[Path, VideoInfo],
    processor: Any,
    threads: int,
    cache_dir: Path | None,
) -> list[Length]:
    """Return each sample's length; of one that is augmented while training, the longest that it can get.

    Args:
        samples: those whose clips are in `infos`.
        infos: what each clip's file says.
        processor: the model's.
        threads: samples measured side by side.
        cache_dir: keeps lengths for the next time; None: nothing is kept.

    Raises:
        UserError: a sample has a text that the model cannot take.
    """
    wanted = [_what_counts(sample, infos[sample.clip]) for sample in samples]
    names = dict(zip(reversed(wanted), (sample.id for sample in reversed(samples)), strict=True))
    new = list(names)

    def work(portion: Sequence[Measured]) -> list[Length]:
        return [_measure(one, names[one], processor) for one in portion]

    portions = [new[first : first + PORTION] for first in range(0, len(new), PORTION)]
    known: dict[Measured, Length] = {}
    pool = ThreadPoolExecutor(threads)
    try:
        results = progress(pool.map(work, portions), len(portions), "samples measured")
        for portion, lengths in zip(portions, results, strict=True):
            known.update(zip(portion, lengths, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    return [known[one] for one in wanted]


def _what_counts(sample: Sample, info: VideoInfo) -> Measured:
    return Measured(sample.question, sample.answer, info.frames, info.fps, sample.augmentations)


def _measure(what: Measured, name: str, processor: Any) -> Length:
    """Return the length of a sample, or the longest that it can get by augmentation."""
    possible = longest(allowed(what.augmentations, (what.question, what.answer))) if what.augmentations else [{}]
    try:
        return max((_changed(what, changes, processor) for changes in possible), key=lambda length: length.total)
    except UserError as error:
        raise UserError(f"sample {name}: {error}") from None


def _changed(what: Measured, changes: Mapping[str, float], processor: Any) -> Length:
    """Return the length of a sample that is augmented in one way."""
    shown = len(timeline(changes, what.frames)) if changes else what.frames
    frames = len(processor.select_frames(shown, what.fps))
    question, answer = mirror_text(what.question, changes), mirror_text(what.answer, changes)
    return Length(*processor.sample_lengths(question, frames, shown / what.fps, answer))
