"""Which clips are taken of each class: the same for the same seed, and more of them contain fewer."""

import difflib
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from formcoach.data.annotations import parse_label, read_labels
from formcoach.data.clip_index import NOT_A_CLASS, ClipIndex
from formcoach.errors import UserError

SPLIT_FOLDERS = frozenset({"train", "val", "valid", "validation", "test"})
PART = re.compile(r"(?i)(.*[ _.-])?part[ _.-]?\d+")  # QEVD comes in parts: `QEVD-FIT-300k-Part-1`
SESSIONS = "long_range"  # clips of minutes lie in `long_range_videos/`


@dataclass(frozen=True)
class Wanted:
    """Which clips are asked for.

    Args:
        per_class: at most so many of each class; None: all.
        classes: only these, however they are capitalised and with `_` for a blank or not; none named: all.
        seed: of the choice.
    """

    per_class: int | None = None
    classes: tuple[str, ...] = ()
    seed: int = 42


@dataclass(frozen=True)
class Selection:
    """The clips that were chosen.

    Args:
        clips: path -> class, in the order of the paths.
        available: class -> how many clips there are to choose from, of the chosen classes.
        unclassed: how many clips neither folder nor label gives a class; never chosen.
        sessions: how many clips are sessions of minutes; never chosen.
    """

    clips: dict[str, str]
    available: dict[str, int]
    unclassed: int
    sessions: int

    @property
    def counts(self) -> dict[str, int]:
        """Class -> how many clips were chosen."""
        chosen = Counter(self.clips.values())
        return {name: chosen[name] for name in self.available}


@dataclass(frozen=True)
class Labels:
    """What a label file says about the clips that there are.

    Args:
        exercises: path -> exercise of its first label; empty for a clip whose labels name none.
        missing: how many clips it names that there are not.
    """

    exercises: dict[str, str]
    missing: int


def select(paths: Sequence[str], exercises: Mapping[str, str], wanted: Wanted) -> Selection:
    """Choose clips.

    A clip's place in its class depends on seed and path only: neither on the order of `paths` nor on the other clips.

    Args:
        paths: of all clips, with forward slashes.
        exercises: path -> exercise, as far as labels tell.
        wanted: what is asked for.

    Raises:
        UserError: a class is asked for that is not there.
    """
    short = [path for path in paths if not _is_session(path)]
    by_class: dict[str, list[str]] = defaultdict(list)
    for path, name in classes_of(short, exercises).items():
        by_class[name].append(path)
    unclassed = len(by_class.pop("", []))
    names = pick_names(sorted(by_class), wanted.classes, "class") if wanted.classes else sorted(by_class)
    chosen = {path: name for name in names for path in _first(by_class[name], wanted)}
    return Selection(
        clips=dict(sorted(chosen.items())),
        available={name: len(by_class[name]) for name in names},
        unclassed=unclassed,
        sessions=len(paths) - len(short),
    )


def classes_of(paths: Sequence[str], exercises: Mapping[str, str]) -> dict[str, str]:
    """Return the class of each clip: its first folder below what all share, else its label's exercise, else empty.

    Folders that mix all exercises, parts of a release and splits are no classes. Where all clips lie in one folder,
    the labels decide, and that folder's name goes for clips without one.
    """
    cache: dict[str, list[str]] = {}
    for path in paths:
        folder = path.rpartition("/")[0]
        if folder not in cache:
            cache[folder] = [part for part in folder.split("/") if part and not _mixes(part)]
    shared = _shared(cache.values())
    only = shared[-1] if shared and all(len(parts) == len(shared) for parts in cache.values()) else ""
    classes = {}
    for path in paths:
        below = cache[path.rpartition("/")[0]][len(shared) :]
        classes[path] = below[0] if below else exercises.get(path) or only
    return classes


def match_labels(label_file: Path, index: ClipIndex) -> Labels:
    """Return the exercises of the clips that a label file names.

    Raises:
        UserError: the file is malformed, or a record's path is ambiguous or leads outside the folder; names it.
    """
    there = set(index.paths)
    exercises: dict[str, str] = {}
    missing = set()
    for number, record in enumerate(read_labels(label_file), start=1):
        try:
            path = index.find(record.video_path)
        except UserError as error:
            raise UserError(f"{label_file}: record {number} (counting from 1): {error}") from None
        if path not in there:
            missing.add(record.video_path)
        elif not exercises.get(path):
            exercises[path] = exercise_of(record.labels) or exercise_of(record.answer.split("\n"))
    return Labels(exercises, len(missing))


def exercise_of(labels: Sequence[str]) -> str:
    """Return the exercise of the first label that names one, as `exercise - what was seen`; empty if none does."""
    for exercise, seen in map(parse_label, labels):
        if exercise and seen:
            return exercise
    return ""


def pick_names(names: Sequence[str], asked: Sequence[str], what: str) -> list[str]:
    """Return those of `names` that are asked for, in their order; `Push ups` asks for `push_ups`.

    Raises:
        UserError: a name that is asked for is not there; lists the nearest.
    """
    spelled = defaultdict(list)
    for name in names:
        spelled[same_name(name)].append(name)
    for name in asked:
        if same_name(name) not in spelled:
            near = difflib.get_close_matches(same_name(name), spelled, n=3, cutoff=0.5) or sorted(spelled)[:5]
            listed = ", ".join(spelled[one][0] for one in near)
            raise UserError(f"{what} {name!r} is none of the {len(names)} there are; did you mean: {listed}?")
    wanted = {same_name(name) for name in asked}
    return [name for name in names if same_name(name) in wanted]


def same_name(name: str) -> str:
    """Return a spelling that does not depend on capitals, nor on `_` for a blank."""
    return " ".join(name.replace("_", " ").casefold().split())


def _mixes(folder: str) -> bool:
    return folder.lower() in NOT_A_CLASS | SPLIT_FOLDERS or PART.fullmatch(folder) is not None


def _shared(folders: Collection[Sequence[str]]) -> list[str]:
    """Return the folders that all paths begin with."""
    return [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))]


def _is_session(path: str) -> bool:
    return any(folder.lower().startswith(SESSIONS) for folder in path.split("/")[:-1])


def _first(paths: list[str], wanted: Wanted) -> list[str]:
    if wanted.per_class is None:
        return paths
    return sorted(paths, key=lambda path: (_rank(path, wanted.seed), path))[: wanted.per_class]


def _rank(path: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}:{path}".encode(), digest_size=8).digest()
