"""Clean a dataset folder: measure its clips, judge them, and write what was found for the next step and to look at."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from formcoach.command import progress
from formcoach.data.cleaning import Outcome, Subject, find_subjects, judge
from formcoach.data.cleaning_report import CSV_FILE, HTML_FILE, write_csv, write_html
from formcoach.data.exercise_motion import ANY, MOVING, STILL, ExerciseMotion, Kind, read_exercise_motion
from formcoach.data.kept import write_cleaned
from formcoach.data.quality import Quality, measure_all
from formcoach.data.set_aside import aside
from formcoach.data.thresholds import Thresholds
from formcoach.errors import ClipError

SURELY_MOVING, SURELY_STILL = 0.4, 0.1  # median of `Quality.motion` of an exercise's clips


@dataclass(frozen=True)
class Cleaning:
    """What a run of cleaning found and wrote.

    Args:
        outcome: for every clip.
        set_aside: clips that an earlier run moved aside.
        written: files.
    """

    outcome: Outcome
    set_aside: int
    written: list[Path]


@dataclass(frozen=True)
class Movement:
    """How much the clips of an exercise move.

    Args:
        exercise: its name.
        clips: how many could be measured.
        motion: share of the clip in which something moves, the median of the clips.
        movement: grey levels that change in 0.2 s, the median of the clips.
        said: what the files say.
    """

    exercise: str
    clips: int
    motion: float
    movement: float
    said: Kind | None

    @property
    def seen(self) -> Kind | None:
        """What the clips say; None where they are not clear."""
        if self.motion >= SURELY_MOVING:
            return MOVING
        return STILL if self.motion <= SURELY_STILL else None

    @property
    def advice(self) -> Kind:
        """What to write down: what the clips say, else what the files say."""
        return self.seen or self.said or ANY

    @property
    def contradicts(self) -> bool:
        """Whether files and clips say opposite things."""
        return {self.said, self.seen} == {MOVING, STILL}


def clean_folder(
    dataset_dir: Path,
    output_dir: Path,
    labels: Path | None,
    thresholds: Thresholds,
    motion_file: Path | None,
    duplicates: bool,
    workers: int,
) -> Cleaning:
    """Measure and judge all clips; write `kept_clips.json` and the reports to `output_dir`.

    Args:
        dataset_dir: the clips' folder; only its cache of measures is written to.
        output_dir: gets the files.
        labels: the label file, when it is not one of the usual names; there need not be one.
        thresholds: what clips must reach.
        motion_file: which exercises move, when it is not `exercise_motion.json` in the dataset folder.
        duplicates: whether to look for clips that show the same.
        workers: processes to use.

    Raises:
        UserError: there are no clips, or a file is missing or malformed.
    """
    motion = read_exercise_motion(dataset_dir, motion_file)
    earlier = aside(dataset_dir)
    subjects = find_subjects(dataset_dir, labels)
    measured = _measure(dataset_dir, subjects, workers)
    outcome = judge(measured, subjects, thresholds, motion, duplicates)
    table, page = output_dir / CSV_FILE, output_dir / HTML_FILE
    write_csv(table, outcome.verdicts)
    write_html(page, dataset_dir, outcome, thresholds, motion, len(earlier), workers)
    kept = write_cleaned(output_dir, outcome.cleaned(earlier))
    return Cleaning(outcome, len(earlier), [kept, table, page])


def classify_motion(
    dataset_dir: Path, labels: Path | None, motion_file: Path | None, workers: int
) -> tuple[list[Movement], list[ClipError]]:
    """Return how much the clips of each exercise move, by exercise, and the clips that cannot be read.

    Raises:
        UserError: as `clean_folder`.
    """
    motion = read_exercise_motion(dataset_dir, motion_file)
    subjects = find_subjects(dataset_dir, labels)
    by_exercise: dict[str, list[Quality]] = {}
    unreadable = []
    for path, quality in _measure(dataset_dir, subjects, workers).items():
        if isinstance(quality, ClipError):
            unreadable.append(quality)
        elif subjects[path].exercise:
            by_exercise.setdefault(subjects[path].exercise, []).append(quality)
    return [*_movements(by_exercise, motion)], unreadable


def _movements(by_exercise: Mapping[str, Sequence[Quality]], motion: ExerciseMotion) -> Iterator[Movement]:
    for exercise, clips in sorted(by_exercise.items()):
        moves, movement = median(clip.motion for clip in clips), median(clip.movement for clip in clips)
        yield Movement(exercise, len(clips), moves, movement, motion.kind(exercise))


def _measure(dataset_dir: Path, subjects: Mapping[str, Subject], workers: int) -> dict[str, Quality | ClipError]:
    return dict(progress(measure_all(dataset_dir, [*subjects], workers), len(subjects), "clips"))
