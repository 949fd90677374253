#!/usr/bin/env python
"""Find clips that are dark, blurred, frozen, damaged, doubled or otherwise no good, and say which to keep.

Nothing is deleted. What is found goes to a report and to kept_clips.json, which the next step reads; --apply moves the
rejected clips into .rejected/ in the dataset folder, --undo moves them back.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.command import add_folders, command_parser, positive, run, usable_cores
from formcoach.data.thresholds import Thresholds
from formcoach.errors import UserError

if TYPE_CHECKING:
    from formcoach.data.clean_folder import Cleaning
    from formcoach.data.set_aside import Moves

HELP = {
    "min_width": "pixels of the longer side",
    "min_height": "pixels of the shorter side",
    "min_duration": "seconds",
    "max_duration": "seconds",
    "min_brightness": "mean luma, 0 to 255",
    "max_brightness": "mean luma, 0 to 255",
    "min_sharpness": "variance of the Laplacian",
    "min_motion": "share of a clip, 0 to 1, in which something moves; for moving exercises only",
    "max_black": "seconds of the longest black stretch",
    "max_frozen": "seconds of the longest frozen stretch",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, clean the folder, print a summary."""
    args = parse(argv)
    from formcoach.data.clean_folder import clean_folder
    from formcoach.data.set_aside import put_back, set_aside

    if args.undo:
        if not args.dataset_dir.is_dir():
            raise UserError(f"{args.dataset_dir}: no such folder. Name the dataset folder with --dataset-dir")
        print_moves(put_back(args.dataset_dir), "back to their places")
        kept = args.output_dir / "kept_clips.json"
        if kept.exists():
            notice(
                f"{kept} still leaves rejected clips out; clean again with other thresholds, or delete it to use all"
            )
        return 0
    thresholds = Thresholds(**{field.name: getattr(args, field.name) for field in fields(Thresholds)})
    start = time.perf_counter()
    cleaning = clean_folder(
        args.dataset_dir,
        args.output_dir,
        args.labels,
        thresholds,
        args.motion_file,
        args.duplicates == "on",
        args.workers,
    )
    print_summary(cleaning, time.perf_counter() - start)
    if args.apply:
        print_moves(set_aside(args.dataset_dir, cleaning.outcome.rejected), "aside; --undo moves them back")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's values."""
    parser = command_parser(__doc__, "python utils/clean_dataset.py --dataset-dir dataset --min-sharpness 40")
    add_folders(parser, "clips and labels", "gets kept_clips.json and the reports")
    parser.add_argument("--labels", type=Path, help="label file (ground_truth.json in the dataset folder, if any)")
    parser.add_argument(
        "--motion-file",
        "--motion_file",
        type=Path,
        help="says which exercises move (exercise_motion.json in the dataset folder, then the packaged one)",
    )
    parser.add_argument("--duplicates", choices=("on", "off"), default="on", help="find clips that show the same (on)")
    parser.add_argument("--workers", type=positive, default=usable_cores(), help="processes (%(default)s)")
    moves = parser.add_mutually_exclusive_group()
    moves.add_argument("--apply", action="store_true", help="move rejected clips to .rejected/ in the dataset folder")
    moves.add_argument("--undo", action="store_true", help="move them back, and do nothing else")
    add_thresholds(parser)
    return parser.parse_args(argv)


def add_thresholds(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each threshold."""
    group = parser.add_argument_group("thresholds")
    for field in fields(Thresholds):
        flag = f"--{field.name}"
        whole = isinstance(field.default, int)
        group.add_argument(
            flag.replace("_", "-"),
            flag,
            type=pixels if whole else threshold,
            default=field.default,
            metavar="N",
            help=f"{HELP[field.name]} (%(default)g)",
        )


def threshold(text: str) -> float:
    """Return a number of at least 0."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return number


def pixels(text: str) -> int:
    """Return a whole number of at least 0."""
    return int(text) if text == "0" else positive(text)


def print_summary(cleaning: "Cleaning", seconds: float) -> None:
    """Print what was kept, what was rejected and why; notices go to stderr."""
    verdicts = cleaning.outcome.verdicts
    rejected = sum(1 for verdict in verdicts if verdict.reasons)
    print(f"{len(verdicts)} clips in {seconds:.1f} s ({len(verdicts) / seconds:.1f} clips/s)")
    print(f"kept      {len(verdicts) - rejected}")
    print(f"rejected  {rejected}")
    for kind, clips in cleaning.outcome.by_kind():
        print(f"  {kind:<16} {clips}")
    for path in cleaning.written:
        print(f"wrote {path}")
    if cleaning.set_aside:
        notice(f"clips set aside before, which stay rejected: {cleaning.set_aside}; --undo moves them back")


def print_moves(moves: "Moves", where: str) -> None:
    """Print how many clips were moved, and each that was not."""
    clips = "1 clip" if len(moves.moved) == 1 else f"{len(moves.moved)} clips"
    print(f"moved {clips} {where}")
    for sentence in moves.left:
        notice(sentence)


def notice(text: str) -> None:
    """Tell the user something that stops nothing."""
    print(f"notice: {text}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
