"""Which split a clip was in before, so that a larger dataset moves no old clip from training to test."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from formcoach.data.annotations import LabelledClip
from formcoach.errors import UserError
from formcoach.files import read_bytes

REMEDY = "Correct it, or delete it to split anew"


class Assignments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The splits of all clips that there ever were, and the settings that they were made with.

    Args:
        ratios: of train, val and test.
        seed: of the split.
        resplit: whether official splits were ignored.
        clips: the split of each clip, by path.
        people: of each person.
        files: of each file, by what identifies its content; finds a clip again that was renamed.
    """

    ratios: list[float]
    seed: int
    resplit: bool = False
    clips: dict[str, str] = {}
    people: dict[str, str] = {}
    files: dict[str, str] = {}

    def of(self, clip: LabelledClip, file: str | None) -> set[str]:
        """Return the splits that a clip, its person or its content was in; none for a new one."""
        known = {self.clips.get(clip.path), self.people.get(clip.person or ""), self.files.get(file or "")}
        return {split for split in known if split is not None}

    def with_splits(self, splits: Mapping[str, Sequence[LabelledClip]], files: Mapping[str, str]) -> "Assignments":
        """Return these assignments with those of `splits` added; `files` says what identifies each clip's content."""
        clips, people, contents = dict(self.clips), dict(self.people), dict(self.files)
        for name, members in splits.items():
            for clip in members:
                clips[clip.path] = name
                if clip.person is not None:
                    people[clip.person] = name
                if clip.path in files:
                    contents[files[clip.path]] = name
        return Assignments(self.ratios, self.seed, self.resplit, clips, people, contents)


def read_assignments(path: Path) -> Assignments | None:
    """Return the assignments that `path` holds, or None if there is no such file.

    Raises:
        UserError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(read_bytes(path, REMEDY), type=Assignments)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}. {REMEDY}") from None
