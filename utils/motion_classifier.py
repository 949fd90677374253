#!/usr/bin/env python
"""Show how much the clips of each exercise move, and where that contradicts what exercise_motion.json says.

Cleaning demands motion only of exercises that are called moving. --write makes exercise_motion.json in the dataset
folder, or adds the exercises that it does not name; what it says already stays.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.command import add_folders, command_parser, positive, run, usable_cores

if TYPE_CHECKING:
    from formcoach.data.clean_folder import Movement


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, measure, print a table, and write the file if asked to."""
    args = parse(argv)
    from formcoach.data.clean_folder import classify_motion
    from formcoach.data.exercise_motion import add_kinds

    movements, unreadable = classify_motion(args.dataset_dir, args.labels, args.motion_file, args.workers)
    print_table(movements)
    for error in unreadable:
        print(f"cannot be read: {error}")
    if args.write:
        path, added = add_kinds(args.dataset_dir, {movement.exercise: movement.advice for movement in movements})
        print(f"wrote {path}: {added} exercises added")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's values."""
    parser = command_parser(__doc__, "python utils/motion_classifier.py --dataset-dir dataset --write")
    add_folders(parser, "clips and labels")
    parser.add_argument("--labels", type=Path, help="label file (ground_truth.json in the dataset folder, if any)")
    parser.add_argument(
        "--motion-file",
        "--motion_file",
        type=Path,
        help="says which exercises move (exercise_motion.json in the dataset folder, then the packaged one)",
    )
    parser.add_argument("--workers", type=positive, default=usable_cores(), help="processes (%(default)s)")
    parser.add_argument("--write", action="store_true", help="make or complete exercise_motion.json")
    return parser.parse_args(argv)


def print_table(movements: Sequence["Movement"]) -> None:
    """Print a line an exercise, the ones that move most first."""
    width = max([len("exercise"), *(len(movement.exercise) for movement in movements)])
    print(f"{'exercise':<{width}}{'clips':>7}{'active':>8}{'change':>8}  {'seen':<7} said")
    for movement in sorted(movements, key=lambda movement: (-movement.motion, movement.exercise)):
        mark = "  <- contradicts the clips" if movement.contradicts else ""
        print(
            f"{movement.exercise:<{width}}{movement.clips:>7}{movement.motion:>8.0%}{movement.movement:>8.2f}  "
            f"{movement.seen or 'unclear':<7} {movement.said or '-'}{mark}"
        )


if __name__ == "__main__":
    run(main)
