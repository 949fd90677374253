#!/usr/bin/env python
"""Split a labelled folder of clips into train, val and test, and write the training files."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.command import add_folders, command_parser, run

SHOWN_EXERCISES = 3

if TYPE_CHECKING:
    from formcoach.data.split_summary import SplitSummary


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, write the splits, print a table of them."""
    args = parse(argv)
    from formcoach.data.prepare import Choices, write_splits

    choices = Choices(
        answers=args.answers,
        ratios=args.ratios,
        seed=args.seed,
        resplit=args.resplit,
        drop_leaks=args.drop_leaks,
        duplicates=args.duplicates == "on",
        skip_bad_clips=args.skip_bad_clips,
    )
    print_summary(write_splits(args.dataset_dir, args.output_dir, labels=args.labels, choices=choices), args)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's values."""
    parser = command_parser(__doc__, "python utils/qved_from_fine_labels.py --dataset-dir dataset --ratios 70/15/15")
    add_folders(parser, "clips and labels", "gets the .jsonl files, its parent diy_ft_data.json")
    parser.add_argument("--labels", type=Path, help="label file (ground_truth.json in the dataset folder)")
    parser.add_argument(
        "--answers",
        choices=["labels", "feedback", "questions", "all"],
        default="labels",
        help="what the model shall learn to say: the labels, or what a coach said (feedbacks_short_clips.json), or the "
        "answers to questions about the clip (questions.json), or all of it (%(default)s)",
    )
    parser.add_argument(
        "--ratios",
        type=ratios,
        metavar="TRAIN/VAL/TEST",
        help="sizes of the splits (as the last time, at first 60/20/20)",
    )
    parser.add_argument("--seed", type=int, help="of the split (as the last time, at first 42)")
    parser.add_argument(
        "--resplit",
        action=argparse.BooleanOptionalAction,
        help="ignore the splits that the label file states (they are kept; a missing val comes out of train)",
    )
    parser.add_argument(
        "--drop-leaks",
        "--drop_leaks",
        action="store_true",
        help="where the label file puts the same person or clip into train and test, leave the training clips out",
    )
    parser.add_argument(
        "--duplicates",
        choices=["on", "off"],
        default="on",
        help="keep byte-equal clips, and look-alikes that cleaning found, in one split (%(default)s)",
    )
    parser.add_argument(
        "--skip-bad-clips",
        "--skip_bad_clips",
        action="store_true",
        help="leave out clips that are missing, damaged or unlabelled, and list them, instead of refusing",
    )
    return parser.parse_args(argv)


def ratios(text: str) -> tuple[float, ...]:
    """Return `60/20/20` as three numbers."""
    try:
        numbers = tuple(float(part) for part in text.split("/"))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(0 < number < float("inf") for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers above 0 like 60/20/20")
    return numbers


def print_summary(summary: "SplitSummary", args: argparse.Namespace) -> None:
    """Print a line a split; notices go to stderr."""
    total = sum(split.clips for split in summary.splits.values())
    print(f"{summary.label_file}: {count(total)}")
    print(f"{'split':<6}{'clips':>8}{'share':>8}{'people':>8}{'exercises':>11}{'minutes':>9}")
    for name, split in summary.splits.items():
        people = split.people or "-"
        print(
            f"{name:<6}{split.clips:>8}{split.clips / total:>8.1%}{people:>8}{split.exercises:>11}"
            f"{split.seconds / 60:>9.1f}"
        )
    if derived := sum(split.derived for split in summary.splits.values()):
        print(f"{derived} of train are altered copies, and not part of the ratios")
    if summary.official and not summary.settings.resplit:
        print(f"the label file's own splits were kept for {count(summary.official)} (--resplit ignores them)")
    checked = ", ".join(f"{number} {what}" for what, number in summary.shared.items() if number)
    print(f"leak check: nothing is in two splits ({checked or 'no clip shares anything with another'})")
    for path in summary.written:
        print(f"wrote {path}")
    print_notices(summary, total, args.dataset_dir)


def print_notices(summary: "SplitSummary", total: int, dataset_dir: Path) -> None:
    """Print what is worth knowing and stops nothing."""
    if summary.bad:
        notice(f"left out {count(summary.bad)} that cannot be used; see {summary.skipped}")
    if summary.unlisted:
        notice(f"{count(len(summary.unlisted))} on disk without a label, first: {dataset_dir / summary.unlisted[0]}")
    others = summary.by_choice
    if others:
        listed = ", ".join(f"{number} {kind}" for kind, number in others.items())
        notice(f"left out {count(sum(others.values()))} ({listed}); see {summary.skipped}")
    if 0 < summary.nameless < total:
        notice(f"nobody says who is in {count(summary.nameless)} of {total}; each was split on its own")
    if summary.uneven:
        shown = ", ".join(summary.uneven[:SHOWN_EXERCISES]) + (", ..." if len(summary.uneven) > SHOWN_EXERCISES else "")
        notice(f"not in every split: {len(summary.uneven)} of {len(summary.exercises)} exercises ({shown})")
    for text in summary.notices:
        notice(text)


def count(clips: int) -> str:
    """Return `1 clip` or `5 clips`."""
    return f"{clips} clip" if clips == 1 else f"{clips} clips"


def notice(text: str) -> None:
    """Tell the user something that stops nothing."""
    print(f"notice: {text}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
