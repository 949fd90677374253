"""Which exercises move and which are held still: a JSON that users can edit, in front of the packaged one.

It maps names, or patterns with `*` and `?`, to `moving`, `still` or `any`. Upper case, text in parentheses, hyphens and
underscores do not count. A name wins over patterns, of patterns the first wins, and what a user's file does not name is
looked up in the packaged one.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import msgspec

from formcoach.errors import UserError
from formcoach.files import read_json, write_json

FILE = "exercise_motion.json"  # in the dataset folder
PACKAGED = Path(__file__).resolve().parents[1] / "assets" / FILE
FORM = 'It reads {"squats": "moving", "*plank*": "still", "warm up": "any"}'
MOVING, STILL, ANY = "moving", "still", "any"

Kind = Literal["moving", "still", "any"]


@dataclass(frozen=True)
class ExerciseMotion:
    """What files say about exercises.

    Args:
        files: of each file its names and patterns, normalised, with what they are; the first file decides first.
    """

    files: tuple[Mapping[str, Kind], ...]

    def kind(self, exercise: str) -> Kind | None:
        """Return what an exercise is, or None if no file names it."""
        name = _normal(exercise)
        for entries in self.files:
            if name in entries:
                return entries[name]
            for pattern, kind in entries.items():
                if fnmatchcase(name, pattern):
                    return kind
        return None

    def kinds(self, exercises: Iterable[str]) -> dict[str, Kind | None]:
        """Return what each of many exercises is, the same ones looked up once."""
        return {exercise: self.kind(exercise) for exercise in set(exercises)}


def read_exercise_motion(dataset_dir: Path, file: Path | None = None) -> ExerciseMotion:
    """Return what is known about exercises.

    Args:
        dataset_dir: may hold `exercise_motion.json`.
        file: to read instead of that.

    Raises:
        UserError: the file is missing where it was named, or malformed.
    """
    own = file or dataset_dir / FILE
    paths = [own, PACKAGED] if file is not None or own.exists() else [PACKAGED]
    return ExerciseMotion(tuple(_normalised(_read(path)) for path in paths))


def add_kinds(dataset_dir: Path, kinds: Mapping[str, Kind]) -> tuple[Path, int]:
    """Add the exercises that the dataset's file does not name, and return the file and how many there were."""
    path = dataset_dir / FILE
    entries = _read(path) if path.exists() else {}
    own = ExerciseMotion((_normalised(entries),))
    new = {name: kinds[name] for name in sorted(kinds) if own.kind(name) is None}
    write_json(path, {**entries, **new})
    return path, len(new)


def _normalised(entries: Mapping[str, Kind]) -> dict[str, Kind]:
    return {_normal(name): kind for name, kind in entries.items()}


def _read(path: Path) -> dict[str, Kind]:
    try:
        return msgspec.convert(read_json(path, FORM), dict[str, Kind])
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}. {FORM}") from None


def _normal(exercise: str) -> str:
    """Return `Tricep_Stretch (right arm)` as `tricep stretch`."""
    bare = re.sub(r"\([^()]*\)", " ", exercise.casefold())
    return " ".join(re.sub(r"[-_]", " ", bare).split())
