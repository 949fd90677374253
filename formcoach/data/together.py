"""Which clips must stay in one split, and whether they did: same person, same file, same pictures, same source."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from formcoach.data.annotations import LabelledClip

PERSON, SOURCE, FILE, LOOK = "person", "source", "file", "look"  # kinds of ties, see `tie`
MEANINGS = {
    PERSON: "people",
    SOURCE: "sources of derived clips",
    FILE: "byte-equal files",
    LOOK: "groups of look-alikes",
}

Tie = tuple[str, str]  # kind, and what is shared
Ties = Mapping[str, Sequence[Tie]]  # of each clip, by path


@dataclass(frozen=True)
class Leak:
    """Something that clips of several splits share.

    Args:
        kind: `person`, `source`, `file` or `look`.
        key: the person's name, or the first clip that has it.
        splits: which ones share it.
        clips: one of each of them.
    """

    kind: str
    key: str
    splits: tuple[str, ...]
    clips: tuple[str, ...]

    def __str__(self) -> str:
        what = {
            PERSON: f"person {self.key} is",
            SOURCE: f"{self.key} and clips derived from it are",
            FILE: "the same file is",
            LOOK: "clips that show the same are",
        }[self.kind]
        return f"{what} in {' and '.join(self.splits)} ({', '.join(self.clips)})"


def tie(
    clips: Sequence[LabelledClip], same_files: Iterable[Sequence[str]] = (), look_alikes: Iterable[Sequence[str]] = ()
) -> dict[str, list[Tie]]:
    """Return what each clip shares with others, by its path; a clip that shares nothing has an empty list.

    Args:
        clips: all of them.
        same_files: groups of byte-equal clips.
        look_alikes: groups of clips that show the same.
    """
    ties: dict[str, list[Tie]] = {clip.path: [] for clip in clips}
    for clip in clips:
        if clip.person is not None:
            ties[clip.path].append((PERSON, clip.person))
        if clip.source is not None:
            ties[clip.path].append((SOURCE, clip.source))
            if clip.source in ties:
                ties[clip.source].append((SOURCE, clip.source))
    for kind, groups in ((FILE, same_files), (LOOK, look_alikes)):
        for group in groups:
            here = sorted(path for path in group if path in ties)
            for path in here:
                ties[path].append((kind, here[0]))
    return ties


class Groups:
    """Clips that are tied to each other, directly or through others; grows clip by clip."""

    def __init__(self) -> None:
        self._parents: list[int] = []
        self._of_tie: dict[Tie, int] = {}
        self._of_clip: dict[str, int] = {}

    def neighbours(self, ties: Iterable[Tie]) -> set[int]:
        """Return the groups that have one of these ties."""
        return {self._root(self._of_tie[one]) for one in ties if one in self._of_tie}

    def add(self, path: str, ties: Sequence[Tie]) -> int:
        """Put a clip into the group that it is tied to; groups that it ties together become one. Return the group."""
        found = self.neighbours(ties)
        if found:
            root = min(found)
        else:
            root = len(self._parents)
            self._parents.append(root)
        for other in found:
            self._parents[other] = root
        for one in ties:
            self._of_tie[one] = root
        self._of_clip[path] = root
        return root

    def members(self) -> list[list[str]]:
        """Return the clips of each group, in the order in which they came."""
        by_root: dict[int, list[str]] = defaultdict(list)
        for path, group in self._of_clip.items():
            by_root[self._root(group)].append(path)
        return list(by_root.values())

    def _root(self, group: int) -> int:
        while self._parents[group] != group:
            self._parents[group] = self._parents[self._parents[group]]
            group = self._parents[group]
        return group


def find_leaks(splits: Mapping[str, Sequence[LabelledClip]], ties: Ties) -> list[Leak]:
    """Return everything that clips of different splits share, and clips that are in several."""
    seen: dict[Tie, dict[str, str]] = defaultdict(dict)
    for name, clips in splits.items():
        for clip in clips:
            for one in (*ties[clip.path], (FILE, clip.path)):
                seen[one].setdefault(name, clip.path)
    return [
        Leak(kind, key, tuple(where), tuple(where.values()))
        for (kind, key), where in sorted(seen.items())
        if len(where) > 1
    ]
