"""Which clips are good enough to learn from, and the reasons why the others are rejected."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from formcoach.data.annotations import ManifestEntry, parse_label
from formcoach.data.clip_index import NOT_A_CLASS, ClipIndex, find_clips
from formcoach.data.exercise_motion import MOVING, ExerciseMotion
from formcoach.data.kept import Cleaned
from formcoach.data.qevd import LABEL_FILES, check_folder, manifest_entries, read_folder
from formcoach.data.quality import Quality
from formcoach.data.similarity import Signed, find_duplicates
from formcoach.data.thresholds import Thresholds
from formcoach.errors import ClipError, UserError

# Words of labels that tell that somebody does not move, which is then what the clip is to teach.
STANDSTILL = ("stop", "paus", "still", "resting", "holding", "not mov", "no mov", "not perform", "not do")
UNREADABLE, DUPLICATE, SOURCE = "unreadable", "duplicate", "source rejected"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a clip is rejected.

    Args:
        kind: a word or two, the same for all clips, e.g. `sharpness`.
        text: with numbers, e.g. `sharpness 12 is below 50`.
    """

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Subject:
    """What is known about a clip before it is measured.

    Args:
        exercise: from its label, else the manifest, else its folder; may be empty.
        labelled: a label file names it.
        known: how many of an official split and a person are stated.
        source: the clip that it was derived from.
        stands_still: its labels say that somebody stops or does not move.
    """

    exercise: str
    labelled: bool = False
    known: int = 0
    source: str | None = None
    stands_still: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a clip.

    Args:
        path: relative to the dataset folder.
        subject: what was known about it.
        quality: what was measured; None if it cannot be read.
        reasons: why it is rejected; none if it is kept.
    """

    path: str
    subject: Subject
    quality: Quality | None
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What cleaning found.

    Args:
        verdicts: of all clips, in the order of their paths.
        duplicates: groups of clips that show the same.
    """

    verdicts: list[Verdict]
    duplicates: list[list[str]]

    @property
    def rejected(self) -> dict[str, list[str]]:
        """Rejected clips with their reasons."""
        return {
            verdict.path: [reason.text for reason in verdict.reasons] for verdict in self.verdicts if verdict.reasons
        }

    def by_kind(self) -> list[tuple[str, int]]:
        """Return how many clips each kind of reason rejects, the most frequent first; a clip may have several."""
        counts = Counter(kind for verdict in self.verdicts for kind in {reason.kind for reason in verdict.reasons})
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))

    def cleaned(self, set_aside: Mapping[str, Sequence[str]]) -> Cleaned:
        """Return what the next step reads; clips that were set aside before stay rejected."""
        earlier = {path: list(reasons) for path, reasons in set_aside.items()}
        kept = [verdict.path for verdict in self.verdicts if not verdict.reasons]
        return Cleaned(kept, dict(sorted({**earlier, **self.rejected}.items())), self.duplicates)


def find_subjects(dataset_dir: Path, labels: Path | None = None) -> dict[str, Subject]:
    """Return what is known about each clip of a folder.

    Args:
        dataset_dir: holds the clips; a label file and a manifest are read if they are there.
        labels: the label file, when it is not one of the usual names in that folder.

    Raises:
        UserError: there is no folder or no clip, or a file is malformed.
    """
    check_folder(dataset_dir)
    paths = find_clips(dataset_dir)
    if not paths:
        raise UserError(f"{dataset_dir}: holds no clips. Put some there (see dataset/README.md)")
    entries = {path: entry for path, _, entry in manifest_entries(dataset_dir, ClipIndex(dataset_dir, paths))}
    subjects = {path: _unlabelled(path, entries.get(path, ManifestEntry())) for path in paths}
    if labels is not None or any((dataset_dir / name).exists() for name in LABEL_FILES):
        for clip in read_folder(dataset_dir, labels).clips:
            if clip.path in subjects:
                known = (clip.split is not None) + (clip.person is not None)
                source = subjects[clip.path].source or clip.source
                subjects[clip.path] = Subject(clip.exercise, True, known, source, _stands_still(clip.labels))
    return subjects


def _unlabelled(path: str, entry: ManifestEntry) -> Subject:
    folder = PurePosixPath(path).parent.name
    exercise = entry.class_ or ("" if folder in NOT_A_CLASS else folder)
    return Subject(exercise.replace("_", " "), source=entry.source)


def _stands_still(labels: Iterable[str]) -> bool:
    seen = " ".join(parse_label(label)[1] for label in labels).casefold()
    return any(word in seen for word in STANDSTILL)


def judge(
    measured: Mapping[str, Quality | ClipError],
    subjects: Mapping[str, Subject],
    thresholds: Thresholds,
    motion: ExerciseMotion,
    duplicates: bool = True,
) -> Outcome:
    """Decide about every clip; the order of `measured` does not matter.

    Args:
        measured: by path.
        subjects: what is known about each of them.
        thresholds: what they must reach.
        motion: which exercises move.
        duplicates: of clips that show the same, keep one.
    """
    kinds = motion.kinds(subject.exercise for subject in subjects.values())
    verdicts = {}
    for path in sorted(measured):
        quality, subject = measured[path], subjects[path]
        if isinstance(quality, ClipError):
            verdicts[path] = Verdict(path, subject, None, (Reason(UNREADABLE, quality.reason),))
        else:
            moving = kinds[subject.exercise] == MOVING and not subject.stands_still
            reasons = _shortcomings(quality, thresholds, moving, subject.stands_still)
            verdicts[path] = Verdict(path, subject, quality, tuple(reasons))
    groups = _reject_duplicates(verdicts) if duplicates else []
    _reject_derived(verdicts)
    return Outcome([*verdicts.values()], groups)


def _shortcomings(quality: Quality, thresholds: Thresholds, moving: bool, stands_still: bool) -> Iterable[Reason]:
    """Yield what a clip does not reach."""
    longer, shorter = max(quality.width, quality.height), min(quality.width, quality.height)
    if longer < thresholds.min_width or shorter < thresholds.min_height:
        least = f"{thresholds.min_width}x{thresholds.min_height}"
        yield Reason("resolution", f"resolution {quality.width}x{quality.height} is below {least}")
    yield from _below("duration", quality.duration, thresholds.min_duration, " s")
    yield from _above("duration", quality.duration, thresholds.max_duration, " s")
    yield from _below("brightness", quality.brightness, thresholds.min_brightness)
    yield from _above("brightness", quality.brightness, thresholds.max_brightness)
    yield from _below("sharpness", quality.sharpness, thresholds.min_sharpness)
    if moving:
        yield from _below("motion", 100 * quality.motion, 100 * thresholds.min_motion, " %")
    yield from _above("black stretch", quality.black, thresholds.max_black, " s")
    if not stands_still:
        yield from _above("frozen stretch", quality.frozen, thresholds.max_frozen, " s")


def _below(kind: str, value: float, limit: float, unit: str = "") -> Iterable[Reason]:
    if value < limit:
        yield Reason(kind, f"{kind} {_apart(value, limit)}{unit} is below {limit:g}{unit}")


def _above(kind: str, value: float, limit: float, unit: str = "") -> Iterable[Reason]:
    if value > limit:
        yield Reason(kind, f"{kind} {_apart(value, limit)}{unit} is above {limit:g}{unit}")


def _apart(value: float, limit: float) -> str:
    """Return a number with as many digits as show that it is not the limit."""
    texts = (f"{value:.{digits}f}" for digits in range(1, 9))
    text = next((text for text in texts if float(text) != limit), repr(value))
    return text.removesuffix(".0")


def _reject_duplicates(verdicts: dict[str, Verdict]) -> list[list[str]]:
    """Reject all but the best of the clips that show the same; return the groups.

    Derived clips are left out: they resemble their source on purpose, and go where it goes.
    """
    signed = [
        Signed(path, verdict.quality.duration, verdict.quality.digest, verdict.quality.signature)
        for path, verdict in verdicts.items()
        if verdict.quality is not None and verdict.subject.source is None
    ]
    groups = find_duplicates(signed)
    for group in groups:
        best = min(group, key=lambda path: _rank(verdicts[path]))
        for path in group:
            if path != best:
                _add(verdicts, path, Reason(DUPLICATE, f"shows the same as {best}"))
    return groups


def _rank(verdict: Verdict) -> tuple:
    """Return what puts the clip worth keeping first: in order, labelled, with split and person, large, sharp."""
    quality, subject = verdict.quality, verdict.subject
    pixels = quality.width * quality.height
    return bool(verdict.reasons), not subject.labelled, -subject.known, -pixels, -quality.sharpness, verdict.path


def _reject_derived(verdicts: dict[str, Verdict]) -> None:
    """Reject the clips that were derived from a rejected one, directly or by way of others."""
    for path in [*verdicts]:
        seen, source = {path}, verdicts[path].subject.source
        while source is not None and source in verdicts and source not in seen:
            if verdicts[source].reasons:
                _add(verdicts, path, Reason(SOURCE, f"is derived from {source}, which is rejected"))
                break
            seen.add(source)
            source = verdicts[source].subject.source


def _add(verdicts: dict[str, Verdict], path: str, reason: Reason) -> None:
    verdicts[path] = replace(verdicts[path], reasons=(*verdicts[path].reasons, reason))
