"""What a split looks like: sizes, people and exercises of each part, and what was checked."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from formcoach.data.annotations import LabelledClip
from formcoach.data.clip_facts import ClipFacts
from formcoach.data.qevd import LabelledFolder
from formcoach.data.splits import Settings, Splitting
from formcoach.data.together import MEANINGS, Ties

UNUSABLE, UNLISTED = "missing, damaged or unlabelled", "without a record"
KINDS = {  # how a reason begins -> what kind of reason it is
    "no record names it": UNLISTED,
    "rejected by cleaning": "rejected by cleaning",
    "is derived from": "derived from clips that are not trained on",
    "shares people or pictures": "tied to clips of another split",
    "has no feedback": "without feedback",
    "has no questions": "without questions",
    "has no answer": "without an answer",
}


@dataclass(frozen=True)
class SplitCounts:
    """The size of a split.

    Args:
        clips: how many.
        people: known ones among them.
        exercises: different ones.
        seconds: of video.
        derived: clips that were made from others.
    """

    clips: int
    people: int
    exercises: int
    seconds: float
    derived: int


@dataclass(frozen=True)
class SplitSummary:
    """What was written.

    Args:
        label_file: where the labels come from.
        settings: ratios, seed and how official splits were treated.
        splits: by name.
        exercises: clips of each exercise in each split.
        checked: how many people, files, ... were found in more than one clip, none of them in two splits; by kind.
        nameless: clips of which nobody says who is in them.
        official: clips whose split the label file says.
        left_out: clips that are in no split, with the reason.
        unlisted: clips on disk that no record names; they are among those left out.
        bad: how many of those left out are missing, damaged or unlabelled.
        notices: what else is worth knowing.
        written: the files.
        skipped: the file that lists what was left out, if anything was.
    """

    label_file: Path
    settings: Settings
    splits: dict[str, SplitCounts]
    exercises: dict[str, dict[str, int]]
    checked: dict[str, int]
    nameless: int
    official: int
    left_out: dict[str, str]
    unlisted: list[str]
    bad: int = 0
    notices: list[str] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    skipped: Path | None = None

    @property
    def reasons(self) -> dict[str, int]:
        """How many clips were left out for each kind of reason."""
        kinds = (
            next((kind for start, kind in KINDS.items() if reason.startswith(start)), UNUSABLE)
            for reason in self.left_out.values()
        )
        return dict(Counter(kinds).most_common())

    @property
    def by_choice(self) -> dict[str, int]:
        """The same without clips that are bad or that no record names."""
        return {kind: number for kind, number in self.reasons.items() if kind not in (UNUSABLE, UNLISTED)}

    @property
    def shared(self) -> dict[str, int]:
        """How many people, files, ... are in several clips, in words."""
        return {MEANINGS[kind]: number for kind, number in self.checked.items()}

    @property
    def uneven(self) -> list[str]:
        """Exercises that some split lacks, although they have a clip for each."""
        return [
            name
            for name, counts in self.exercises.items()
            if sum(counts.values()) >= len(self.splits) and len(counts) < len(self.splits)
        ]

    def to_json(self) -> bytes:
        """Return what is saved beside the splits; the same for the same splits."""
        content = {
            "label_file": str(self.label_file),
            "ratios": list(self.settings.ratios),
            "seed": self.settings.seed,
            "official_splits": 0 if self.settings.resplit else self.official,
            "splits": {name: vars(counts) for name, counts in self.splits.items()},
            "exercises": self.exercises,
            "shared_by_several_clips": self.shared,
            "shared_by_two_splits": 0,
            "clips_of_unknown_people": self.nameless,
            "left_out": self.reasons,
        }
        return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def summarise(
    folder: LabelledFolder,
    splitting: Splitting,
    facts: Mapping[str, ClipFacts],
    settings: Settings,
    ties: Ties,
    left_out: Mapping[str, str],
) -> SplitSummary:
    """Count what the splits hold.

    Args:
        folder: where the clips come from.
        splitting: the splits, in which nothing is shared.
        facts: of the clips' files.
        settings: that they were made with.
        ties: what clips share.
        left_out: all clips that are in no split, with the reason.
    """
    splits = splitting.splits
    everyone = [clip for clips in splits.values() for clip in clips]
    exercises: dict[str, dict[str, int]] = defaultdict(dict)
    for name, clips in splits.items():
        for exercise, number in Counter(clip.exercise for clip in clips).items():
            exercises[exercise][name] = number
    shared = Counter(one for clip in everyone for one in set(ties[clip.path]))
    return SplitSummary(
        label_file=folder.label_file,
        settings=settings,
        splits={name: _counts(clips, facts) for name, clips in splits.items()},
        exercises=dict(sorted(exercises.items())),
        checked={kind: sum(number > 1 and one[0] == kind for one, number in shared.items()) for kind in MEANINGS},
        nameless=sum(clip.person is None for clip in everyone),
        official=sum(clip.split is not None for clip in everyone),
        left_out=dict(left_out),
        unlisted=folder.unlisted,
    )


def _counts(clips: Sequence[LabelledClip], facts: Mapping[str, ClipFacts]) -> SplitCounts:
    return SplitCounts(
        clips=len(clips),
        people=len({clip.person for clip in clips} - {None}),
        exercises=len({clip.exercise for clip in clips}),
        seconds=round(sum(facts[clip.path].duration for clip in clips), 3),
        derived=sum(clip.source is not None for clip in clips),
    )
