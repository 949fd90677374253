"""What is looked at before the first step, so that a training does not stop at a bad clip hours later.

Every clip is opened, and decoded where it is kept in memory or where bad clips shall be left out. Every sample is
measured in tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from formcoach.command import progress
from formcoach.data.dataset import ResizedClip, Sample, read_resized
from formcoach.data.video import VideoInfo, probe
from formcoach.errors import ClipError, UserError
from formcoach.training.lengths import measure

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


def open_clips(samples: Sequence[Sample], threads: int, skip_bad: bool) -> Opened:
    """Open every clip once, without decoding it.

    Args:
        samples: all of them.
        threads: clips looked at side by side.
        skip_bad: leave out samples whose clip is bad.

    Raises:
        UserError: a clip is missing, empty or not a video and `skip_bad` is off, or no clip is left.
    """
    clips = list(dict.fromkeys(sample.clip for sample in samples))
    infos, bad = _sort_out(_each(probe, clips, threads, "clips opened"), skip_bad)
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

    decoded, bad = _sort_out(_each(read, list(by_clip), threads, "clips decoded"), skip_bad)
    samples = [sample for sample in opened.samples if sample.clip in decoded]
    return Opened(samples, opened.infos, opened.bad + bad), decoded if keep else {}


def kept_bytes(opened: Opened, processor: Any) -> int:
    """Return how many bytes the resized frames of all clips take; measured on the first clip that can be decoded."""
    counts = {clip: len(processor.select_frames(info.frames, info.fps)) for clip, info in opened.infos.items()}
    for sample in opened.samples:
        try:
            frames = read_resized(sample, processor).frames
        except ClipError:
            continue
        return frames.nbytes // len(frames) * sum(counts.values())
    return 0


def check_lengths(opened: Opened, processor: Any, threads: int, max_length: int, datasets: str) -> list[int]:
    """Measure every sample, visual tokens included; none is ever truncated.

    Args:
        opened: the samples and what their clips' files say.
        processor: the model's.
        threads: samples measured side by side.
        max_length: most tokens of a sample.
        datasets: the file that lists the datasets, for the message.

    Returns:
        Each sample's tokens.

    Raises:
        UserError: a sample is longer than `max_length`, or has a text that the model cannot take.
    """
    try:
        lengths = measure(opened.samples, opened.infos, processor, threads, None)
    except UserError as error:
        raise UserError(f"{datasets}: {error}") from None
    for sample, length in zip(opened.samples, lengths, strict=True):
        if length.total > max_length:
            raise UserError(
                f"{datasets}: sample {sample.id} has {length.total} tokens, more than --max-length {max_length}; "
                "raise it, lower --max_num_frames or remove the sample"
            )
    return [length.total for length in lengths]


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
) -> dict[Item, Result | ClipError]:
    """Return the result or the `ClipError` of `work` for each item; several items at a time."""

    def attempt(item: Item) -> Result | ClipError:
        try:
            return work(item)
        except ClipError as error:
            return error

    pool = ThreadPoolExecutor(threads)
    try:
        results: Iterator[Result | ClipError] = progress(pool.map(attempt, items), len(items), what)
        return dict(zip(items, results, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
