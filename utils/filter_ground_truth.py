"""Write a filtered copy of a label file: clips on disk, some exercises or splits, what is visible or clean."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from formcoach.command import add_folders, command_parser, positive, run


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, filter, print what was dropped and why."""
    args = parse(argv)
    from formcoach.data.label_filter import Criteria, filter_labels

    criteria = Criteria(
        exercises=args.exercises,
        exclude=args.exclude_exercises,
        splits=args.split,
        drop_not_visible=args.drop_not_visible,
        min_clips=args.min_clips_per_exercise,
        cleaned=args.output_dir if args.kept else None,
    )
    done = filter_labels(args.dataset_dir, args.labels, None if args.in_place else args.output, criteria)
    print(f"{done.label_file}: {done.before} records")
    for reason, count in done.dropped.items():
        print(f"  - {count:>7} {reason}")
    if args.drop_not_visible:
        print(f"  {done.labels_dropped} labels that end in 'not visible' dropped from records that are left")
    print(f"wrote {done.output}: {done.records} records of {done.clips} clips")
    if done.backup is not None:
        print(f"the file as it was is kept as {done.backup}")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's values."""
    parser = command_parser(
        __doc__,
        "python utils/filter_ground_truth.py --labels dataset/fine_grained_labels.json --drop-not-visible "
        "--output dataset/ground_truth.json",
    )
    add_folders(parser, "holds the clips", "where clean_dataset.py wrote its outcome, for --kept")
    parser.add_argument("--labels", type=Path, help="label file (the one that the dataset folder's splits come from)")
    parser.add_argument("--output", type=Path, help="file to write")
    parser.add_argument(
        "--in-place", "--in_place", action="store_true", help="write to the label file itself; it is kept as .bak"
    )
    parser.add_argument("--exercises", type=names, default=(), metavar="A,B", help="only these (all)")
    parser.add_argument(
        "--exclude-exercises", "--exclude_exercises", type=names, default=(), metavar="A,B", help="not these (none)"
    )
    parser.add_argument(
        "--drop-not-visible",
        "--drop_not_visible",
        action="store_true",
        help="drop labels that end in 'not visible', and records with no other label",
    )
    parser.add_argument(
        "--min-clips-per-exercise",
        "--min_clips_per_exercise",
        type=positive,
        default=1,
        metavar="N",
        help="drop exercises that have fewer clips then (%(default)s)",
    )
    parser.add_argument("--kept", action="store_true", help="only clips that clean_dataset.py kept")
    parser.add_argument("--split", type=names, default=(), metavar="A,B", help="only these, e.g. train (all)")
    args = parser.parse_args(argv)
    if (args.output is None) != args.in_place:
        parser.error("name a file with --output, or pass --in-place (one of the two)")
    return args


def names(text: str) -> tuple[str, ...]:
    """Return `a,b` as names."""
    found = tuple(filter(None, map(str.strip, text.split(","))))
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} has no name")
    return found


if __name__ == "__main__":
    run(main)
