"""A dataset in numbers: what its splits hold, by class, length, size, label and answer."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from formcoach.data.annotations import parse_label
from formcoach.data.kept import Cleaned, read_cleaned
from formcoach.data.overview_clips import (
    Measured,
    SavedSummary,
    SkippedClip,
    SplitClip,
    measure,
    read_skipped,
    read_split_clips,
    read_summary,
)
from formcoach.data.splits import SPLITS, TRAIN

FEW_CLIPS = 10  # a class with fewer is hardly learned, and its scores are chance
UNEVEN_SHARE = 0.10  # a class whose share in a split is farther than this from that of all clips is uneven
UNEVEN_CLIPS = 3  # and at least so many clips are in the wrong place
BINS = 24
NOT_VISIBLE = "not visible"
FAULTS_SHOWN = 10  # of each exercise

Count = tuple[str, int]


@dataclass(frozen=True)
class Numbers:
    """The size of a split, or of all.

    Args:
        clips: how many.
        derived: clips among them that were made from others.
        people: known ones.
        nameless: clips of which nobody says who is in them.
        exercises: different ones.
        seconds: of video.
        conversations: questions with their answers.
    """

    clips: int
    derived: int
    people: int
    nameless: int
    exercises: int
    seconds: float
    conversations: int


@dataclass(frozen=True)
class ClassNumbers:
    """An exercise in the splits.

    Args:
        name: the exercise.
        clips: in each split, in the order of `SPLITS`.
        originals: the same without derived clips, which are all in train.
        people: known ones.
        nameless: clips of which nobody says who is in them.
        seconds: of video.
        missing: splits that have none of it.
        uneven: whether its shares are far from those of all clips.
    """

    name: str
    clips: tuple[int, ...]
    originals: tuple[int, ...]
    people: int
    nameless: int
    seconds: float
    missing: tuple[str, ...]
    uneven: bool

    @property
    def total(self) -> int:
        """Clips in all splits."""
        return sum(self.clips)

    @property
    def marks(self) -> list[str]:
        """What is odd about it, in words."""
        marks = [f"not in {' and '.join(self.missing)}"] if self.missing else []
        if self.uneven and not self.missing:
            marks.append("uneven")
        if self.total < FEW_CLIPS:
            marks.append("few clips")
        if self.people == 1 and not self.nameless:
            marks.append("one person")
        return marks


@dataclass(frozen=True)
class Spread:
    """Where values lie.

    Args:
        least: the smallest.
        middle: the median.
        mean: the average.
        high: below which 95 % of them lie.
        most: the largest.
    """

    least: float
    middle: float
    mean: float
    high: float
    most: float


@dataclass(frozen=True)
class Histogram:
    """How often values fall between two edges.

    Args:
        edges: one more than there are bins.
        counts: of each bin, by split.
        more: how many values lie beyond the last edge; they are in the last bin.
        whole: whether the values are whole numbers.
        spreads: by split; a split without values has none.
    """

    edges: tuple[float, ...]
    counts: dict[str, tuple[int, ...]]
    more: int
    whole: bool
    spreads: dict[str, Spread]

    @property
    def bins(self) -> list[tuple[float, float]]:
        """The least and the largest value of each bin; without those beyond the last edge."""
        last = 1 if self.whole else 0
        return [(low, high - last) for low, high in pairwise(self.edges)]


@dataclass(frozen=True)
class Baseline:
    """How often a model is right word for word that never looks at a clip; shares are None where nothing is asked.

    Args:
        clips_answer: share of a split's conversations whose answer is the one most frequent in train.
        exercise_answer: the same for the answer most frequent in train for the clip's exercise.
        unseen: share of a split's answers that train never gives.
    """

    clips_answer: float | None
    exercise_answer: float | None
    unseen: float | None


@dataclass(frozen=True)
class Shared:
    """Something that is in several splits and must not be.

    Args:
        what: a name, a clip's path, or two paths.
        splits: which ones.
    """

    what: str
    splits: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.what}: {', '.join(self.splits)}"


@dataclass(frozen=True)
class Overview:
    """All that a report on a dataset shows but the pictures.

    Args:
        dataset_dir: the clips' folder.
        output_dir: the splits' folder.
        summary: what was saved when the splits were made.
        total: the size of everything.
        splits: the size of each split, by name.
        classes: the exercises, those with most clips first.
        durations: of the clips, in seconds.
        words: of the answers.
        characters: of the answers.
        sizes: widths and heights, the most frequent first.
        rates: frames a second, the most frequent first.
        measured: what the clips' files say.
        labels_per_clip: how many clips have how many labels.
        not_visible: clips with a label that says that something is not visible.
        faults: what labels say behind ` - ` and in how many clips, the most frequent first.
        faults_by_exercise: the most frequent ones of each exercise, with the number of all different ones.
        answers: and how many conversations end with each, the most frequent first.
        different_answers: how many there are.
        train_answer: the answer most frequent in train.
        baselines: by split.
        shared: people, clips, sources, files and look-alikes that are in several splits, by kind.
        skipped: clips that are in no split.
        cleaned: the outcome of cleaning, if it has run.
    """

    dataset_dir: Path
    output_dir: Path
    summary: SavedSummary | None
    total: Numbers
    splits: dict[str, Numbers]
    classes: list[ClassNumbers]
    durations: Histogram
    words: Histogram
    characters: Histogram
    sizes: list[Count]
    rates: list[Count]
    measured: Measured
    labels_per_clip: list[tuple[int, int]]
    not_visible: int
    faults: list[Count]
    faults_by_exercise: dict[str, tuple[int, list[Count]]]
    answers: list[Count]
    different_answers: int
    train_answer: str
    baselines: dict[str, Baseline]
    shared: dict[str, list[Shared]]
    skipped: list[SkippedClip]
    cleaned: Cleaned | None


def read_overview(dataset_dir: Path, output_dir: Path, seed: int) -> tuple[Overview, list[SplitClip]]:
    """Return a dataset in numbers, and its clips.

    Args:
        dataset_dir: the clips' folder.
        output_dir: the splits' folder.
        seed: draws the clips that are opened where too many were never opened.

    Raises:
        UserError: the splits are missing or empty, or one of the files is malformed.
    """
    clips, several = read_split_clips(dataset_dir, output_dir)
    measured = measure(dataset_dir, [clip.path for clip in clips], seed)
    cleaned = read_cleaned(output_dir)
    by_split = {name: [clip for clip in clips if clip.split == name] for name in SPLITS}
    answers = Counter(answer for clip in clips for _, answer in clip.pairs)
    train_answers = Counter(answer for clip in by_split[TRAIN] for _, answer in clip.pairs)
    faults, by_exercise = _faults(clips)
    overview = Overview(
        dataset_dir=dataset_dir,
        output_dir=output_dir,
        summary=read_summary(output_dir),
        total=_numbers(clips),
        splits={name: _numbers(members) for name, members in by_split.items()},
        classes=_classes(clips),
        durations=histogram({name: [clip.duration for clip in of] for name, of in by_split.items()}),
        words=histogram(_answer_sizes(by_split, lambda text: len(text.split())), whole=True),
        characters=histogram(_answer_sizes(by_split, len), whole=True),
        sizes=_ranked(f"{fact.width} x {fact.height}" for fact in measured.facts.values()),
        rates=_ranked(f"{fact.fps:.2f}".rstrip("0").rstrip(".") for fact in measured.facts.values()),
        measured=measured,
        labels_per_clip=sorted(Counter(len(clip.labels) for clip in clips).items()),
        not_visible=sum(any(NOT_VISIBLE in label.casefold() for label in clip.labels) for clip in clips),
        faults=faults,
        faults_by_exercise=by_exercise,
        answers=_first(answers, 100),
        different_answers=len(answers),
        train_answer=_first(train_answers, 1)[0][0] if train_answers else "",
        baselines=_baselines(by_split, train_answers),
        shared=_shared(clips, several, measured, cleaned),
        skipped=read_skipped(output_dir),
        cleaned=cleaned,
    )
    return overview, clips


def _numbers(clips: Sequence[SplitClip]) -> Numbers:
    return Numbers(
        clips=len(clips),
        derived=sum(clip.source is not None for clip in clips),
        people=len({clip.person for clip in clips} - {None}),
        nameless=sum(clip.person is None for clip in clips),
        exercises=len({clip.exercise for clip in clips}),
        seconds=sum(clip.duration for clip in clips),
        conversations=sum(len(clip.pairs) for clip in clips),
    )


def _classes(clips: Sequence[SplitClip]) -> list[ClassNumbers]:
    members: dict[str, list[SplitClip]] = defaultdict(list)
    for clip in clips:
        members[clip.exercise].append(clip)
    everything = _by_split(clip for clip in clips if clip.source is None)
    shares = [number / max(sum(everything), 1) for number in everything]
    numbers = [_class(name, of, shares) for name, of in members.items()]
    return sorted(numbers, key=lambda one: (-one.total, one.name))


def _class(name: str, clips: Sequence[SplitClip], shares: Sequence[float]) -> ClassNumbers:
    counts, originals = _by_split(clips), _by_split(clip for clip in clips if clip.source is None)
    known = sum(originals)
    return ClassNumbers(
        name=name,
        clips=counts,
        originals=originals,
        people=len({clip.person for clip in clips} - {None}),
        nameless=sum(clip.person is None for clip in clips),
        seconds=sum(clip.duration for clip in clips),
        missing=tuple(split for split, count, share in zip(SPLITS, counts, shares, strict=True) if share and not count),
        uneven=any(
            abs(count - known * share) >= max(UNEVEN_CLIPS, known * UNEVEN_SHARE)
            for count, share in zip(originals, shares, strict=True)
        ),
    )


def _by_split(clips: Iterable[SplitClip]) -> tuple[int, ...]:
    counts = Counter(clip.split for clip in clips)
    return tuple(counts[name] for name in SPLITS)


def histogram(values: Mapping[str, Sequence[float]], whole: bool = False) -> Histogram:
    """Count values in bins of a round width; the highest hundredth is in the last bin, however far it reaches.

    Args:
        values: by split.
        whole: whether they are whole numbers, so that a bin is not narrower than one.
    """
    arrays = {name: np.asarray(of, np.float64) for name, of in values.items()}
    everything = np.concatenate(list(arrays.values()))
    low, high = (everything.min(), np.percentile(everything, 99)) if len(everything) else (0.0, 1.0)
    width = _round_width((high - low) / BINS, whole)
    first = math.floor(low / width)
    bins = max(math.floor(high / width) - first + 1, 1)
    edges = np.round((first + np.arange(bins + 1)) * width, 9)
    counts = {}
    for name, of in arrays.items():
        places = np.clip(np.searchsorted(edges, of, "right") - 1, 0, bins - 1)
        counts[name] = tuple(np.bincount(places, minlength=bins).tolist())
    return Histogram(
        edges=tuple(edges.tolist()),
        counts=counts,
        more=int((everything >= edges[-1] if whole else everything > edges[-1]).sum()),
        whole=whole,
        spreads={name: _spread(of) for name, of in arrays.items() if len(of)},
    )


def _spread(values: np.ndarray) -> Spread:
    numbers = (values.min(), np.median(values), values.mean(), np.percentile(values, 95), values.max())
    return Spread(*map(float, numbers))


def _round_width(width: float, whole: bool) -> float:
    """Return the next of 1, 2, 2.5, 5 and 10 times a power of ten; of whole numbers those alone."""
    if width <= 0 or (whole and width < 1):
        return 1.0
    power = 10.0 ** math.floor(math.log10(width))
    steps = (step * power for step in (1, 2, 2.5, 5, 10))
    return next(step for step in steps if step >= width * (1 - 1e-9) and not (whole and step % 1))


def _answer_sizes(by_split: Mapping[str, Sequence[SplitClip]], size: Callable[[str], int]) -> dict[str, list[int]]:
    return {name: [size(answer) for clip in of for _, answer in clip.pairs] for name, of in by_split.items()}


def _faults(clips: Sequence[SplitClip]) -> tuple[list[Count], dict[str, tuple[int, list[Count]]]]:
    """Return what labels say behind ` - `: in all clips, and by exercise."""
    everywhere: Counter[str] = Counter()
    by_exercise: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in clips:
        for seen in {seen for _, seen in map(parse_label, clip.labels) if seen}:
            everywhere[seen] += 1
            by_exercise[clip.exercise][seen] += 1
    return _ranked(everywhere), {
        exercise: (len(counts), _first(counts, FAULTS_SHOWN)) for exercise, counts in by_exercise.items()
    }


def _ranked(values: Iterable[str] | Counter[str]) -> list[Count]:
    return sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))


def _first(counts: Counter[str], number: int) -> list[Count]:
    return _ranked(counts)[:number]


def _baselines(by_split: Mapping[str, Sequence[SplitClip]], train: Counter[str]) -> dict[str, Baseline]:
    if not train:
        return dict.fromkeys(by_split, Baseline(None, None, None))
    best = _first(train, 1)[0][0]
    of_exercise: dict[str, Counter[str]] = defaultdict(Counter)
    for clip in by_split[TRAIN]:
        of_exercise[clip.exercise].update(answer for _, answer in clip.pairs)
    best_of = {exercise: _first(answers, 1)[0][0] for exercise, answers in of_exercise.items()}
    baselines = {}
    for name, clips in by_split.items():
        given = [(clip.exercise, answer) for clip in clips for _, answer in clip.pairs]
        if given:
            baselines[name] = Baseline(
                sum(answer == best for _, answer in given) / len(given),
                sum(answer == best_of.get(exercise, best) for exercise, answer in given) / len(given),
                sum(answer not in train for _, answer in given) / len(given),
            )
        else:
            baselines[name] = Baseline(None, None, None)
    return baselines


def _shared(
    clips: Sequence[SplitClip], several: Mapping[str, tuple[str, ...]], measured: Measured, cleaned: Cleaned | None
) -> dict[str, list[Shared]]:
    """Return what several splits share; asked of the split files themselves, however they were made."""
    split_of = {clip.path: clip.split for clip in clips}
    people = _in_several((clip.person, clip.split) for clip in clips if clip.person is not None)
    sources = _in_several(
        pair
        for clip in clips
        if clip.source is not None
        for pair in ((clip.source, clip.split), (clip.source, split_of.get(clip.source, clip.split)))
    )
    look_alikes = cleaned.duplicates if cleaned else []
    return {
        "people": people,
        "clips": [Shared(path, splits) for path, splits in sorted(several.items())],
        "sources": sources,
        "files": _torn(_same_files(measured), split_of),
        "looks": _torn(look_alikes, split_of),
        "derived": [Shared(clip.path, (clip.split,)) for clip in clips if clip.source and clip.split != TRAIN],
    }


def _in_several(pairs: Iterable[tuple[str, str]]) -> list[Shared]:
    splits: dict[str, set[str]] = defaultdict(set)
    for what, split in pairs:
        splits[what].add(split)
    return [
        Shared(what, tuple(name for name in SPLITS if name in found))
        for what, found in sorted(splits.items())
        if len(found) > 1
    ]


def _same_files(measured: Measured) -> Iterable[list[str]]:
    """Return the groups of files of equal size whose first and last bytes are equal, too."""
    groups: dict[str, list[str]] = defaultdict(list)
    for path, fact in measured.facts.items():
        groups[fact.content].append(path)
    return groups.values()


def _torn(groups: Iterable[Sequence[str]], split_of: Mapping[str, str]) -> list[Shared]:
    """Return those groups of clips that are in several splits, with the first clip of each."""
    torn = []
    for group in groups:
        first: dict[str, str] = {}
        for path in sorted(group, reverse=True):
            if path in split_of:
                first[split_of[path]] = path
        if len(first) > 1:
            splits = tuple(name for name in SPLITS if name in first)
            torn.append(Shared(" and ".join(first[name] for name in splits), splits))
    return sorted(torn, key=lambda shared: shared.what)
