"""What is looked at before the first step, so that a training does not stop at a bad clip hours later.

Every clip is opened, and decoded where it is kept in memory or where bad clips shall be left out. Every sample is
measured in tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from formcoach.command import progress
from formcoach.config import TrainingConfig
from formcoach.data.dataset import ResizedClip, Sample, read_resized
from formcoach.data.video import VideoInfo, probe
from formcoach.errors import ClipError, UserError
from formcoach.training.headers import Headers
from formcoach.training.lengths import Length, measure

# Resized clips are kept in memory if all that are needed again fit in here. 1 GiB holds 216 clips of 12 frames at
# 140 x 140 seven times over, or as many of 8 frames at 448 x 448.
KEEP_BYTES = 2**30
NAMED = 3  # how many bad clips a message names

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Opened:
    """The samples whose clips can be opened.

    Args:
        samples: in their order.
        infos: what each clip's file says about it.
        bad: why each other clip cannot be read.
    """

    samples: list[Sample]
    infos: Mapping[Path, VideoInfo]
    bad: list[ClipError]


def open_clips(samples: Sequence[Sample], threads: int, skip_bad: bool, headers: Headers | None = None) -> Opened:
    """Open every clip once, without decoding it.

    Args:
        samples: all of them.
        threads: clips looked at side by side.
        skip_bad: leave out samples whose clip is bad.
        headers: knows clips that need not be opened again, and gets the others; None: all are opened.

    Raises:
        UserError: a clip is missing, empty or not a video and `skip_bad` is off, or no clip is left.
    """
    clips = list(dict.fromkeys(sample.clip for sample in samples))
    headers = headers or Headers((), None)
    found: dict[Path, VideoInfo | ClipError] = {clip: info for clip in clips if (info := headers.get(clip)) is not None}
    try:
        for clip, result in _each(probe, [clip for clip in clips if clip not in found], threads, "clips opened"):
            found[clip] = result
            if isinstance(result, VideoInfo):
                headers.put(clip, result)
    finally:
        headers.save()
    infos, bad = _sort_out(found, skip_bad)
    return Opened([sample for sample in samples if sample.clip in infos], infos, bad)


def decode_clips(
    opened: Opened, processor: Any, threads: int, keep: bool, skip_bad: bool
) -> tuple[Opened, dict[Path, ResizedClip]]:
    """Decode every clip once.

    Args:
        opened: their samples.
        processor: the model's; chooses the frames and their size.
        threads: clips decoded side by side.
        keep: whether to keep the resized frames, see `kept_bytes`.
        skip_bad: as for `open_clips`.

    Returns:
        The samples that are left, and the clips kept.

    Raises:
        UserError: as `open_clips`.
    """
    by_clip = {sample.clip: sample for sample in opened.samples}

    def read(clip: Path) -> ResizedClip | None:
        resized = read_resized(by_clip[clip], processor)
        return resized if keep else None

    decoded, bad = _sort_out(dict(_each(read, list(by_clip), threads, "clips decoded")), skip_bad)
    samples = [sample for sample in opened.samples if sample.clip in decoded]
    return Opened(samples, opened.infos, opened.bad + bad), decoded if keep else {}


def kept_bytes(opened: Opened, processor: Any) -> int:
    """Return how many bytes the resized frames of all clips take; measured on the first clip that can be decoded."""
    counts = {clip: len(processor.select_frames(info.frames, info.fps)) for clip, info in opened.infos.items()}
    for sample in opened.samples:
        try:
            clip = read_resized(sample, processor)
        except ClipError:
            continue
        return clip.frames.nbytes // clip.count * sum(counts.values())
    return 0


@dataclass(frozen=True)
class Lengths:
    """The tokens of a training's samples.

    Args:
        train: of the training samples.
        val: of the validation samples, which are never augmented.
    """

    train: Mapping[Sample, Length]
    val: Mapping[Sample, Length]


def measure_samples(train: Opened, val: Opened | None, processor: Any, threads: int, cache_dir: Path | None) -> Lengths:
    """Measure every sample, see `formcoach.training.lengths.measure`.

    Args:
        train: the training samples.
        val: the validation samples, if there are any.
        processor: the model's.
        threads: samples measured side by side.
        cache_dir: keeps lengths for the next time.

    Raises:
        UserError: a sample has a text that the model cannot take.
    """
    ours, theirs = list(dict.fromkeys(train.samples)), list(dict.fromkeys(val.samples)) if val is not None else []
    plain = [replace(sample, augmentations=()) for sample in theirs]
    infos = {**train.infos, **(val.infos if val is not None else {})}
    lengths = measure(ours + plain, infos, processor, threads, cache_dir)
    return Lengths(
        dict(zip(ours, lengths[: len(ours)], strict=True)), dict(zip(theirs, lengths[len(ours) :], strict=True))
    )


def check_all_lengths(
    config: TrainingConfig, train: Opened, val: Opened | None, lengths: Lengths
) -> tuple[Opened, Opened | None, list[str]]:
    """Find training and validation samples that are too long, see `check_lengths`.

    Returns:
        The training samples that are left, the validation samples that are, and lines for the user.
    """
    limits = Limit(config.max_length, config.max_length_of), config.skip_bad_clips
    train, lines = check_lengths(train, lengths.train, *limits, config.datasets)
    if val is not None:
        val, more = check_lengths(val, lengths.val, *limits, str(config.val_datasets))
        lines += more
    return train, val, lines


@dataclass(frozen=True)
class Limit:
    """How long a sample may be.

    Args:
        most: --max-length, tokens.
        of: which are counted: ``all``, or ``text``: those of question and answer, but not the visual ones.
    """

    most: int
    of: str = "all"

    def count(self, length: Length) -> int:
        """Return the tokens of a sample that are counted."""
        return length.total if self.of == "all" else length.text + length.answer

    def __str__(self) -> str:
        return f"--max-length {self.most}"


def check_lengths(
    opened: Opened, lengths: Mapping[Sample, Length], limit: Limit, skip_long: bool, datasets: str
) -> tuple[Opened, list[str]]:
    """Find samples that are too long; none is ever truncated.

    Args:
        opened: the samples.
        lengths: of each.
        limit: how long a sample may be.
        skip_long: leave them out.
        datasets: the file that lists the data sets, for messages.

    Returns:
        The samples that are left, and lines for the user.

    Raises:
        UserError: a sample is longer than `limit` and `skip_long` is off, or no sample is left.
    """
    counts = {sample: limit.count(length) for sample, length in lengths.items()}
    long = _longer(opened, counts, str(limit), limit.most)
    if long is None:
        return opened, []
    remedy = "raise it, lower --max_num_frames" if limit.of == "all" else "raise it, shorten them"
    if not skip_long:
        raise UserError(f"{datasets}: {long}; {remedy}, or leave them out with --skip-bad-clips")
    left = [sample for sample in opened.samples if counts[sample] <= limit.most]
    if not left:
        raise UserError(f"{datasets}: no sample is left: {long}; {remedy}")
    infos = {sample.clip: opened.infos[sample.clip] for sample in left}
    return Opened(left, infos, opened.bad), [f"{datasets}: left out: {long}"]


def long_rows(opened: Opened, lengths: Mapping[Sample, Length], most: int) -> list[str]:
    """Return a line on samples that are longer than a packed row, if there are any.

    Args:
        opened: the samples.
        lengths: of each.
        most: --pack-max-length, tokens of a row.
    """
    counts = {sample: length.total for sample, length in lengths.items()}
    long = _longer(opened, counts, f"--pack-max-length {most}", most)
    return [f"{long}; each gets a row of its own"] if long is not None else []


def _longer(opened: Opened, counts: Mapping[Sample, int], limit: str, most: int) -> str | None:
    """Tell how many samples have more than `most` tokens and which the first are; None if there are none."""
    long = [sample for sample in dict.fromkeys(opened.samples) if counts[sample] > most]
    if not long:
        return None
    names = ", ".join(f"{sample.id} ({counts[sample]})" for sample in long[:NAMED])
    count = "1 sample has" if len(long) == 1 else f"{len(long)} samples have"
    return f"{count} more than {limit} tokens: {names}{', ...' if len(long) > NAMED else ''}"


def _sort_out(found: Mapping[Path, Result | ClipError], skip_bad: bool) -> tuple[dict[Path, Result], list[ClipError]]:
    """Separate clips that can be read from those that cannot."""
    bad = [result for result in found.values() if isinstance(result, ClipError)]
    good = {clip: result for clip, result in found.items() if not isinstance(result, ClipError)}
    if bad and not skip_bad:
        named = "; ".join(str(error) for error in bad[:NAMED])
        more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        count = "1 clip" if len(bad) == 1 else f"{len(bad)} clips"
        raise UserError(f"{count} cannot be read: {named}{more}. Replace them, or leave them out with --skip-bad-clips")
    if not good:
        raise UserError(f"none of the {len(bad)} clips can be read, the first: {bad[0]}")
    return good, bad


def _each(
    work: Callable[[Item], Result], items: Sequence[Item], threads: int, what: str
) -> Iterator[tuple[Item, Result | ClipError]]:
    """Yield each item with the result or the `ClipError` of `work`; several items at a time."""

    def attempt(item: Item) -> tuple[Item, Result | ClipError]:
        try:
            return item, work(item)
        except ClipError as error:
            return item, error

    pool = ThreadPoolExecutor(threads)
    try:
        yield from progress(pool.map(attempt, items), len(items), what)
    finally:
        pool.shutdown(cancel_futures=True)
