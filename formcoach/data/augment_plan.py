"""Which clips to derive from which, and by which changes: decided by seed, source and number alone."""

import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from formcoach.data.annotations import PREPARE, LabelledClip, ManifestEntry
from formcoach.data.augment import allowed, draw, mirror_text
from formcoach.data.kept import read_cleaned
from formcoach.data.qevd import ALL, FEEDBACK, FEEDBACK_ONLY, LABEL_FILES, QUESTIONS, QUESTIONS_ONLY, read_folder
from formcoach.errors import UserError
from formcoach.files import read_bytes

FOLDER = "augmented"  # in the dataset folder
TRAIN = "qevd_fit_300k_train.jsonl"  # in the output folder, once the splits are made
BARREN_ROUNDS = 20  # through a class's clips without a new variant: there are no more


@dataclass(frozen=True)
class DerivedClip:
    """A clip to make of another.

    Args:
        path: of the new clip, relative to the dataset folder.
        entry: what `manifest.json` says about it.
        seed: decides its noise.
    """

    path: str
    entry: ManifestEntry
    seed: tuple[int, int, int]


@dataclass(frozen=True)
class Sources:
    """The clips that others may be derived from.

    Args:
        clips: in the order of their paths.
        left_out: how many others there are, by the reason.
        split: whether the splits are made already.
    """

    clips: list[LabelledClip]
    left_out: dict[str, int]
    split: bool


@dataclass(frozen=True)
class DerivationPlan:
    """What to derive.

    Args:
        derived: the new clips.
        short: of each exercise for which there are not as many variants as asked for, how many are missing.
    """

    derived: list[DerivedClip]
    short: dict[str, int]


class _Line(msgspec.Struct):
    """What counts here of a line of the training file."""

    video: str


def find_sources(dataset_dir: Path, output_dir: Path, labels: Path | None = None) -> Sources:
    """Return the labelled clips that are no derived ones, that cleaning kept, and that are not in val or test.

    Args:
        dataset_dir: holds clips and labels.
        output_dir: holds the splits and cleaning's outcome, if they are made.
        labels: the label file, when it is not one of the usual names in the dataset folder.

    Raises:
        UserError: a file is missing or malformed, or no clip is left.
    """
    folder = read_folder(dataset_dir, labels, _answers(dataset_dir) if labels is None else ALL)
    cleaned = read_cleaned(output_dir)
    kept = set(cleaned.kept) if cleaned is not None else None
    train = _train_clips(output_dir / TRAIN)
    clips, left_out = [], Counter()
    for clip in folder.clips:
        if clip.source is not None or clip.path.startswith(f"{FOLDER}/"):
            continue
        if kept is not None and clip.path not in kept:
            left_out["rejected by cleaning"] += 1
        elif train is not None and clip.path not in train:
            left_out["not in the training split"] += 1
        elif train is None and clip.split == "test":
            left_out["test clips of the release"] += 1
        else:
            clips.append(clip)
    if not clips:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "there are none with labels"
        raise UserError(f"{dataset_dir}: no clip to derive others from ({why})")
    return Sources(clips, dict(left_out), train is not None)


def _answers(dataset_dir: Path) -> str:
    """Return which texts to read: all there are, for each of them must stay true."""
    if not any((dataset_dir / name).exists() for name in LABEL_FILES):
        for file, answers in ((FEEDBACK, FEEDBACK_ONLY), (QUESTIONS, QUESTIONS_ONLY)):
            if (dataset_dir / file).exists():
                return answers
    return ALL


def _train_clips(path: Path) -> set[str] | None:
    """Return the clips of the training split, or None if the splits are not made."""
    if not path.exists():
        return None
    try:
        lines = read_bytes(path, PREPARE).split(b"\n")
        return {msgspec.json.decode(line, type=_Line).video for line in lines if line.strip()}
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}. {PREPARE}") from None


def derive_per_clip(clips: Sequence[LabelledClip], names: Sequence[str], seed: int, count: int) -> DerivationPlan:
    """Plan as many variants of each clip.

    Args:
        clips: the sources.
        names: of augmentations.
        seed: decides what is drawn.
        count: variants of each clip.
    """
    derived, short = [], Counter()
    for clip in clips:
        variants = _Variants(clip, names, seed)
        found = [variant for number in range(1, count + 1) if (variant := variants.draw(number)) is not None]
        derived += found
        short[clip.exercise] += count - len(found)
    return DerivationPlan(derived, {exercise: missing for exercise, missing in short.items() if missing})


def derive_per_class(clips: Sequence[LabelledClip], names: Sequence[str], seed: int, target: int) -> DerivationPlan:
    """Plan variants of small classes, until each has `target` clips, its own included.

    A flip that makes another exercise of a clip ("tricep stretch (right arm)") is left to that exercise's clips.

    Args:
        clips: the sources.
        names: of augmentations.
        seed: decides what is drawn.
        target: clips of each exercise.
    """
    by_exercise: dict[str, list[LabelledClip]] = defaultdict(list)
    for clip in clips:
        by_exercise[clip.exercise].append(clip)
    derived, short = [], {}
    for exercise, own in sorted(by_exercise.items()):
        missing = target - len(own)
        found = list(_rounds(own, names, seed, missing)) if missing > 0 else []
        derived += found
        if len(found) < missing:
            short[exercise] = missing - len(found)
    return DerivationPlan(derived, short)


def _rounds(clips: Sequence[LabelledClip], names: Sequence[str], seed: int, wanted: int) -> Iterator[DerivedClip]:
    """Yield up to `wanted` variants of a class's clips, one of each clip in turn."""
    variants = [_Variants(clip, names, seed) for clip in clips]
    number, barren = 0, 0
    while wanted > 0 and barren < BARREN_ROUNDS:
        number, barren = number + 1, barren + 1
        for clip, one in zip(clips, variants, strict=True):
            found = one.draw(number)
            if found is None or found.entry.class_ != clip.exercise:
                continue
            yield found
            wanted, barren = wanted - 1, 0
            if wanted == 0:
                return


class _Variants:
    """The variants of one clip, no two of them alike."""

    def __init__(self, clip: LabelledClip, names: Sequence[str], seed: int) -> None:
        self._clip = clip
        questions = [text for pair in clip.questions for text in pair]
        self._names = allowed(names, [*clip.labels, clip.answer, clip.feedback, clip.exercise, *questions])
        self._seed = (seed % 2**32, zlib.crc32(clip.path.encode("utf-8", "surrogateescape")))
        self._seen: list[dict[str, float]] = []

    def draw(self, number: int) -> DerivedClip | None:
        """Return a variant, or None where labels forbid all changes or the drawn ones were drawn before."""
        seed = (*self._seed, number)
        changes = draw(self._names, np.random.default_rng(seed), at_least_one=True)
        if not changes or changes in self._seen:
            return None
        self._seen.append(changes)
        clip = self._clip
        entry = ManifestEntry(mirror_text(clip.exercise, changes), clip.path, changes)
        return DerivedClip(_derived_path(clip.path, number), entry, seed)


def _derived_path(source: str, number: int) -> str:
    return f"{FOLDER}/{source.removesuffix('.mp4')}_{number}.mp4"  # of `0001.mov` it is `0001.mov_1.mp4`


def count_changes(derived: Sequence[DerivedClip]) -> dict[str, int]:
    """Return how many of the clips are changed by each parameter, the most frequent first."""
    counts = Counter(name for clip in derived for name in clip.entry.augmentations)
    return dict(counts.most_common())
