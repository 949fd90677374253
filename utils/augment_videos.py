"""Derive altered clips from a dataset's: mirrored, turned, faster, darker, ... with labels that stay true.

They go to augmented/ in the dataset folder and into its manifest.json. Their labels follow from those of their sources
whenever the dataset is read. An interrupted run goes on where it stopped.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from formcoach.command import command_parser, progress, run

NAMED = 3  # how many bad clips a message names


def main(argv: Sequence[str] | None = None) -> int:
    """Plan, check, make."""
    args = _parser().parse_args(argv)

    from formcoach.data.augment import DEFAULT, check_names
    from formcoach.data.augment_clips import check_disk, make_clips, remove_derived, still_to_make, usable_cores
    from formcoach.data.augment_plan import count_changes, derive_per_class, derive_per_clip, find_sources
    from formcoach.errors import UserError

    if args.remove:
        print(f"{remove_derived(args.dataset_dir)} derived clips deleted from {args.dataset_dir}")
        return 0
    names = DEFAULT
    if args.augmentations is not None:
        wanted = [name.strip() for name in args.augmentations.split(",") if name.strip()]
        names = check_names(wanted, "--augmentations")
    sources = find_sources(args.dataset_dir, args.output_dir)
    for reason, count in sources.left_out.items():
        print(f"{count} clips left out: {reason}")
    if args.preview is not None:
        from formcoach.data.augment_sheet import write_sheet

        write_sheet(args.dataset_dir / sources.clips[0].path, names, args.preview)
        print(f"{sources.clips[0].path} under each augmentation: {args.preview}")
        return 0
    if not sources.split:
        print("no splits yet: when they are made, clips derived from val's and test's are left out of them")
    if args.per_clip is not None:
        plan = derive_per_clip(sources.clips, names, args.seed, args.per_clip)
    else:
        plan = derive_per_class(sources.clips, names, args.seed, args.target_per_class)
    for exercise, missing in plan.short.items():
        print(
            f"{exercise}: {missing} fewer than asked for, its clips have no more variants that keep their labels true"
        )
    missing = still_to_make(args.dataset_dir, plan.derived)
    size = check_disk(args.dataset_dir, missing)
    there = f", {len(plan.derived) - len(missing)} of them are there" if len(missing) < len(plan.derived) else ""
    print(
        f"{len(plan.derived)} derived clips of {len(sources.clips)}{there}; at most about {size / 1e9:.2f} GB to write"
    )
    if args.dry_run:
        for name, count in count_changes(plan.derived).items():
            print(f"  {name}: {count}")
        return 0
    made = progress(make_clips(args.dataset_dir, missing, args.workers or usable_cores()), len(missing), "clips")
    bad = {str(one.error): one for one in made if one.error is not None}
    if bad:
        more = "; ..." if len(bad) > NAMED else ""
        line = f"{len(bad)} clips cannot be read: {'; '.join(sorted(bad)[:NAMED])}{more}"
        if not args.skip_bad_clips:
            raise UserError(f"{line}. The others are done; replace these, or leave them out with --skip-bad-clips")
        print(f"left out: {line}")
    print(f"next: python utils/qved_from_fine_labels.py --dataset-dir {args.dataset_dir}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__, "python utils/augment_videos.py --target-per-class 200")
    add = parser.add_argument
    add("--dataset-dir", type=Path, default=Path("dataset"), help="the clips and their labels (default: dataset)")
    add(
        "--output-dir",
        type=Path,
        default=Path("data/annotaions"),
        help="where splits are, of which only train is augmented (default: data/annotaions)",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    count = {"type": _positive, "metavar": "N"}
    what.add_argument("--per-clip", **count, help="derive N clips of each")
    what.add_argument("--target-per-class", **count, help="derive clips of exercises that have fewer than N, up to N")
    what.add_argument("--preview", type=Path, metavar="FILE.png", help="draw the first clip under each augmentation")
    what.add_argument("--remove", action="store_true", help="delete all derived clips and their records")
    add(
        "--augmentations",
        metavar="A,B,...",
        help="which to draw from (default: all but vertical_flip and colour_inversion): horizontal_flip, "
        "vertical_flip, rotation, scale, translation, shear, blur, brightness, contrast, colour, colour_inversion, "
        "salt_and_pepper, jpeg, tempo, temporal_crop",
    )
    add("--seed", type=int, default=42, help="same seed, same clips (default: 42)")
    add("--workers", **count, help="clips made side by side (default: as many as there are cores)")
    add("--dry-run", action="store_true", help="only say what would be made")
    add("--skip-bad-clips", action="store_true", help="leave out clips that cannot be read")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


if __name__ == "__main__":
    run(main)
