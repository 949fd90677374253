"""What somebody should know before training on a dataset, in plain words."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from formcoach.data.overview import FEW_CLIPS, ClassNumbers, Overview
from formcoach.data.overview_clips import SplitClip, split_files
from formcoach.data.splits import SPLITS, TRAIN

SHORT, LONG = 1.0, 30.0  # seconds; QEVD's short clips have about 5
LONG_ANSWER = 150  # words; QEVD's answers have some 20
SMALL = 224  # pixels of the shorter side; the smallest picture that a model's encoder sees
NARROW = 2.5  # one side to the other
TIMES_THE_MEDIAN = 10  # clips of a class
FAR_FROM_RATIO = 0.05  # of a split's share
CONSTANT_ANSWER = 0.3  # share of a split that one answer gets right
EXAMPLES = 12
LEAKS = {  # kinds of `Overview.shared`, of one and of many
    "people": ("person is in several splits", "people are in several splits"),
    "clips": ("clip is in several splits", "clips are in several splits"),
    "sources": (
        "clip and those derived from it are in several splits",
        "clips and those derived from them are in several splits",
    ),
    "files": (
        "file is in several splits (equal size, first and last bytes)",
        "files are in several splits (equal size, first and last bytes)",
    ),
    "looks": (
        "group of look-alikes that cleaning found is in several splits",
        "groups of look-alikes that cleaning found are in several splits",
    ),
    "derived": ("derived clip is in val or test", "derived clips are in val or test"),
}
_VARYING = re.compile(r"\S*/[^\s,;]+|\S+\.[a-zA-Z]\w{1,3}\b|\d+(?:\.\d+)?")  # paths, file names, numbers


@dataclass(frozen=True)
class Concern:
    """Something worth knowing.

    Args:
        text: a sentence or two.
        serious: whether scores or trainings suffer, rather than somebody may want to look.
        examples: what it is about.
        more: how many more there are of them.
    """

    text: str
    serious: bool = False
    examples: tuple[str, ...] = ()
    more: int = 0


def find_concerns(overview: Overview, clips: Sequence[SplitClip]) -> list[Concern]:
    """Return what is worth knowing, the serious things first."""
    found = [
        *_leaks(overview),
        *_files(overview),
        *_splits(overview),
        *_classes(overview),
        *_people(overview),
        *_lengths(overview, clips),
        *_sizes(overview),
        *_answers(overview, clips),
        *_cleaning(overview, clips),
    ]
    return sorted(found, key=lambda concern: not concern.serious)


def _leaks(overview: Overview) -> Iterable[Concern]:
    for kind, (one, many) in LEAKS.items():
        shared = overview.shared[kind]
        if shared:
            yield _concern(
                f"{_count(len(shared), one, many)}: scores would be too good. scripts/initialize_dataset.sh makes "
                "splits that share nothing.",
                map(str, shared),
                serious=True,
            )


def _files(overview: Overview) -> Iterable[Concern]:
    measured = overview.measured
    if measured.bad:
        bad = _count(len(measured.bad), "clip does", "clips do")
        looked_at = len(measured.bad) + len(measured.facts)
        of = f" (of {looked_at:,} that were looked at)" if measured.unmeasured else ""
        yield _concern(
            f"{bad} not open{of}. bash scripts/initialize_dataset.sh --skip-bad-clips leaves such clips out.",
            (f"{path}: {measured.bad[path]}" for path in sorted(measured.bad)),
            serious=True,
        )
    if overview.summary is None:
        return
    written = Path(overview.summary.label_file)
    file = written if written.is_file() else overview.dataset_dir / written.name
    splits = split_files(overview.output_dir).values()
    if file.is_file() and file.stat().st_mtime > min(split.stat().st_mtime for split in splits):
        yield Concern(f"{file} is newer than the splits. Run scripts/initialize_dataset.sh to take up what changed.")


def _splits(overview: Overview) -> Iterable[Concern]:
    empty = [name for name, numbers in overview.splits.items() if not numbers.clips]
    if empty:
        yield Concern(f"{' and '.join(empty)} {'is' if len(empty) == 1 else 'are'} empty.", serious=True)
    summary = overview.summary
    if summary is None or summary.official_splits or len(summary.ratios) != len(SPLITS) or sum(summary.ratios) <= 0:
        return
    originals = [numbers.clips - numbers.derived for numbers in overview.splits.values()]
    wanted = [ratio / sum(summary.ratios) for ratio in summary.ratios]
    got = [number / max(sum(originals), 1) for number in originals]
    if any(abs(share - ratio) > FAR_FROM_RATIO for share, ratio in zip(got, wanted, strict=True)):
        yield Concern(
            f"The splits have {_percents(got)} of the clips; {_percents(wanted)} were asked for. People and equal "
            "clips stay together, so few people with many clips make it coarse."
        )


def _classes(overview: Overview) -> Iterable[Concern]:
    classes = overview.classes
    for split in SPLITS:
        lacking = [one for one in classes if split in one.missing]
        if lacking:
            them = "it" if len(lacking) == 1 else "them"
            why = f"no model can learn {them}" if split == TRAIN else f"{split} says nothing about {them}"
            yield _concern(
                f"{_count(len(lacking), 'class has', 'classes have')} no clip in {split}: {why}.", _names(lacking)
            )
    few = [one for one in classes if one.total < FEW_CLIPS]
    if few:
        yield _concern(f"{_count(len(few), 'class has', 'classes have')} fewer than {FEW_CLIPS} clips.", _names(few))
    uneven = [one for one in classes if one.uneven and not one.missing]
    if uneven:
        yield _concern(
            f"{_count(len(uneven), 'class is', 'classes are')} spread over the splits in another way than the rest.",
            (f"{one.name}: {' / '.join(map(str, one.clips))}" for one in uneven),
        )
    middle = float(np.median([one.total for one in classes])) if classes else 0.0
    large = [one for one in classes if one.total > TIMES_THE_MEDIAN * middle]
    if large:
        yield _concern(
            f"The classes are strongly unbalanced: {_count(len(large), 'class has', 'classes have')} more than "
            f"{TIMES_THE_MEDIAN} times the clips of the median class ({middle:g}).",
            _names(large),
        )
    yield from _alike(classes)


def _alike(classes: Sequence[ClassNumbers]) -> Iterable[Concern]:
    spellings: dict[str, list[str]] = defaultdict(list)
    for one in classes:
        spellings[re.sub(r"[\W_]+", " ", one.name.casefold()).strip() or one.name].append(one.name)
    alike = [names for names in spellings.values() if len(names) > 1]
    if alike:
        yield _concern(
            f"{_count(len(alike), 'class is', 'classes are')} spelled in several ways; is it the same exercise?",
            (" = ".join(sorted(names)) for names in alike),
        )


def _people(overview: Overview) -> Iterable[Concern]:
    total = overview.total
    if total.nameless == total.clips:
        yield Concern(
            "Nobody says who is in the clips. The same person may be in train and test, which makes scores too good; "
            "add worker_id to the label file if you can.",
            serious=True,
        )
    elif total.nameless:
        yield Concern(
            f"Nobody says who is in {total.nameless:,} of {total.clips:,} clips; those may share people with others."
        )
    for name, numbers in overview.splits.items():
        if numbers.clips and numbers.people == 1 and not numbers.nameless:
            yield Concern(f"All clips of {name} show one person: scores there say little about others.", serious=True)
    alone = [one for one in overview.classes if one.people == 1 and not one.nameless]
    if alone:
        yield _concern(
            f"{_count(len(alone), 'class is', 'classes are')} shown by one person only: a model may learn the person "
            "instead of the exercise.",
            _names(alone),
        )


def _lengths(overview: Overview, clips: Sequence[SplitClip]) -> Iterable[Concern]:
    short = sorted((clip.duration, clip.path) for clip in clips if clip.duration < SHORT)
    long = sorted(((clip.duration, clip.path) for clip in clips if clip.duration > LONG), reverse=True)
    for found, what in ((short, f"shorter than {SHORT:g} s"), (long, f"longer than {LONG:g} s")):
        if found:
            yield _concern(
                f"{_count(len(found), 'clip is', 'clips are')} {what}.",
                (f"{path}: {seconds:.2f} s" for seconds, path in found),
            )


def _sizes(overview: Overview) -> Iterable[Concern]:
    facts = overview.measured.facts
    sides = {
        path: (min(facts[path].width, facts[path].height), max(facts[path].width, facts[path].height))
        for path in sorted(facts)
    }
    for paths, what in (
        ([path for path, (low, _) in sides.items() if low < SMALL], f"smaller than {SMALL} pixels on a side"),
        ([path for path, (low, high) in sides.items() if high > NARROW * low], "very narrow or very wide"),
    ):
        if paths:
            yield _concern(
                f"{_count(len(paths), 'clip is', 'clips are')} {what}.",
                (f"{path}: {facts[path].width} x {facts[path].height}" for path in paths),
            )


def _answers(overview: Overview, clips: Sequence[SplitClip]) -> Iterable[Concern]:
    long = sorted({(-len(answer.split()), clip.path) for clip in clips for _, answer in clip.pairs if _is_long(answer)})
    if long:
        yield _concern(
            f"{_count(len(long), 'answer has', 'answers have')} more than {LONG_ANSWER} words; --max-length of the "
            "training may cut them.",
            (f"{path}: {-words} words" for words, path in long),
        )
    empty = sorted({clip.path for clip in clips for _, answer in clip.pairs if not answer.strip()})
    if empty:
        yield _concern(f"{_count(len(empty), 'clip has', 'clips have')} an empty answer.", empty, serious=True)
    constant = [
        f"{_percent(baseline.clips_answer)} of {name}"
        for name, baseline in overview.baselines.items()
        if baseline.clips_answer is not None and baseline.clips_answer > CONSTANT_ANSWER
    ]
    if constant:
        yield Concern(
            f"A model that always gives one answer is right for {', '.join(constant)}; a score counts only beyond that."
        )


def _is_long(answer: str) -> bool:
    return len(answer) > LONG_ANSWER and len(answer.split()) > LONG_ANSWER


def _cleaning(overview: Overview, clips: Sequence[SplitClip]) -> Iterable[Concern]:
    cleaned = overview.cleaned
    if overview.skipped:
        yield _concern(
            f"{_count(len(overview.skipped), 'clip was', 'clips were')} left out when the splits were made.",
            (f"{reason}: {number:,}" for reason, number in reasons(clip.reason for clip in overview.skipped)),
        )
    if cleaned is None:
        yield Concern(
            "The clips were not cleaned: nobody looked for dark, blurred, frozen or repeated ones. "
            "utils/clean_dataset.py does."
        )
        return
    rejected = [clip.path for clip in clips if clip.path in cleaned.rejected]
    if rejected:
        yield _concern(
            f"{_count(len(rejected), 'clip that cleaning rejected is', 'clips that cleaning rejected are')} still in "
            "the splits. Run scripts/initialize_dataset.sh again.",
            rejected,
            serious=True,
        )
    known = {*cleaned.kept, *cleaned.rejected}
    new = [clip.path for clip in clips if clip.path not in known and clip.source not in known]
    if new:
        yield _concern(
            f"{_count(len(new), 'clip came', 'clips came')} after cleaning. Run utils/clean_dataset.py again.", new
        )


def reasons(texts: Iterable[str]) -> list[tuple[str, int]]:
    """Return how often each reason is given, the most frequent first.

    Reasons that differ only in numbers and paths are one; what differs is shown as `...`.
    """
    alike: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for text in texts:
        alike[tuple(_VARYING.split(text))][text] += 1
    counts = {_common(fixed, list(given)): given.total() for fixed, given in alike.items()}
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _common(fixed: Sequence[str], texts: Sequence[str]) -> str:
    """Return what texts have in common: the fixed parts, and the numbers and paths that are the same in all."""
    varying = [set(found) for found in zip(*map(_VARYING.findall, texts), strict=True)]
    return fixed[0] + "".join(
        (found.pop() if len(found) == 1 else "...") + part for found, part in zip(varying, fixed[1:], strict=True)
    )


def _concern(text: str, examples: Iterable[str], serious: bool = False) -> Concern:
    listed = list(examples)
    return Concern(text, serious, tuple(listed[:EXAMPLES]), max(len(listed) - EXAMPLES, 0))


def _count(number: int, one: str, many: str) -> str:
    return f"1 {one}" if number == 1 else f"{number:,} {many}"


def _names(classes: Iterable[ClassNumbers]) -> Iterable[str]:
    return (f"{one.name} ({one.total:,})" for one in classes)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _percents(shares: Sequence[float]) -> str:
    return " / ".join(_percent(share) for share in shares)
