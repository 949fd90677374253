"""How many tokens each sample has, measured without decoding its clip."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from formcoach.command import progress
from formcoach.data.augment import allowed, longest, mirror_text, timeline
from formcoach.data.dataset import Sample
from formcoach.data.video import VideoInfo
from formcoach.errors import UserError
from formcoach.training.length_cache import LengthCache

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


class Measurable(msgspec.Struct, frozen=True, array_like=True):
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
    wanted = [_measurable(sample, infos[sample.clip]) for sample in samples]
    names = {one: _name(sample) for one, sample in zip(reversed(wanted), reversed(samples), strict=True)}
    if cache_dir is None:
        known = dict(_measure_all(names, processor, threads))
    else:
        known = _measure_new(names, processor, threads, LengthCache(cache_dir, processor))
    return [known[one] for one in wanted]


def _name(sample: Sample) -> str:
    return f"{sample.dataset}: sample {sample.id}" if sample.dataset else f"sample {sample.id}"


def _measurable(sample: Sample, info: VideoInfo) -> Measurable:
    return Measurable(sample.question, sample.answer, info.frames, info.fps, sample.augmentations)


def _measure_new(
    names: Mapping[Measurable, str], processor: Any, threads: int, cache: LengthCache
) -> dict[Measurable, Length]:
    """Measure what a cache does not know."""
    known = {one: Length(*counts) for one, counts in cache.find(names).items()}
    try:
        for one, length in _measure_all({one: names[one] for one in names if one not in known}, processor, threads):
            known[one] = length
            cache.keep(one, (length.text, length.visual, length.answer))
    finally:
        cache.save()
    return known


def _measure_all(names: Mapping[Measurable, str], processor: Any, threads: int) -> Iterator[tuple[Measurable, Length]]:
    """Measure side by side; `names` are those of the samples, for messages."""
    ones = list(names)
    portions = [ones[first : first + PORTION] for first in range(0, len(ones), PORTION)]

    def work(portion: Sequence[Measurable]) -> list[tuple[Measurable, Length]]:
        return [(one, _measure(one, names[one], processor)) for one in portion]

    pool = ThreadPoolExecutor(threads)
    try:
        yield from progress(chain.from_iterable(pool.map(work, portions)), len(ones), "samples measured")
    finally:
        pool.shutdown(cancel_futures=True)


def _measure(what: Measurable, name: str, processor: Any) -> Length:
    """Return the length of a sample, or the longest that it can get by augmentation."""
    possible = longest(allowed(what.augmentations, (what.question, what.answer))) if what.augmentations else [{}]
    try:
        return max((_changed(what, changes, processor) for changes in possible), key=lambda length: length.total)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _changed(what: Measurable, changes: Mapping[str, float], processor: Any) -> Length:
    """Return the length of a sample that is augmented in one way."""
    shown = len(timeline(changes, what.frames)) if changes else what.frames
    frames = len(processor.select_frames(shown, what.fps))
    question, answer = mirror_text(what.question, changes), mirror_text(what.answer, changes)
    return Length(*processor.sample_lengths(question, frames, shown / what.fps, answer))
