"""Derive altered clips from a dataset's: mirrored, turned, faster, darker, ... with labels that stay true.

They go to augmented/ in the dataset folder and into its manifest.json. Their labels follow from those of their sources
whenever the dataset is read. An interrupted run goes on where it stopped.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.command import add_folders, command_parser, progress, run, usable_cores

if TYPE_CHECKING:
    from formcoach.data.augment_plan import DerivationPlan

NAMED = 3  # how many bad clips a message names


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, delete, or plan and make."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.dry_run and args.preview:
        parser.error("--dry-run does not go with --preview, which changes no clip")
    if args.remove:
        _remove(args)
    elif args.preview is not None:
        _preview(args)
    else:
        _make(args)
    return 0


def _remove(args: argparse.Namespace) -> None:
    from formcoach.data.augment_clips import derived_clips, remove_derived

    if args.dry_run:
        print(f"{len(derived_clips(args.dataset_dir))} derived clips would be deleted from {args.dataset_dir}")
    else:
        print(f"{remove_derived(args.dataset_dir)} derived clips deleted from {args.dataset_dir}")
        _tell_next(args)


def _preview(args: argparse.Namespace) -> None:
    from formcoach.data.augment_plan import find_sources
    from formcoach.data.augment_sheet import write_sheet

    names = _names(args.augmentations)
    clip = find_sources(args.dataset_dir, args.output_dir, args.labels).clips[0].path
    write_sheet(args.dataset_dir / clip, names, args.preview)
    print(f"{clip} under each augmentation: {args.preview}")


def _names(written: str | None) -> tuple[str, ...]:
    from formcoach.data.augment import DEFAULT, check_names

    if written is None:
        return DEFAULT
    return check_names([name.strip() for name in written.split(",") if name.strip()], "--augmentations")


def _make(args: argparse.Namespace) -> None:
    from formcoach.data.augment_clips import check_disk, make_clips, still_to_make

    folder, plan = args.dataset_dir, _plan(args)
    missing = still_to_make(folder, plan.derived)
    size = check_disk(folder, missing)
    there = f", {len(plan.derived) - len(missing)} of them are there" if len(missing) < len(plan.derived) else ""
    print(f"{len(plan.derived)} derived clips{there}; about {size / 1e9:.2f} GB to write")
    if not args.dry_run:
        made = make_clips(folder, missing, args.workers or usable_cores())
        errors = [one.error for one in progress(made, len(missing), "clips") if one.error is not None]
        _tell_bad(sorted({str(error) for error in errors}), args.skip_bad_clips)
        _tell_next(args)


def _plan(args: argparse.Namespace) -> "DerivationPlan":
    from formcoach.data.augment_plan import count_changes, derive_per_class, derive_per_clip, find_sources

    names = _names(args.augmentations)
    sources = find_sources(args.dataset_dir, args.output_dir, args.labels)
    for reason, count in sources.left_out.items():
        print(f"{count} clip{'s' if count > 1 else ''} left out: {reason}")
    if not sources.split:
        print("no splits yet: when they are made, clips derived from val's and test's are left out of them")
    if args.per_clip is not None:
        plan = derive_per_clip(sources.clips, names, args.seed, args.per_clip)
    else:
        plan = derive_per_class(sources.clips, names, args.seed, args.target_per_class)
    for exercise, missing in plan.short.items():
        print(f"{exercise}: {missing} fewer than asked for: there are no more variants that keep the labels true")
    for name, count in count_changes(plan.derived).items():
        print(f"  {name}: {count}")
    return plan


def _tell_next(args: argparse.Namespace) -> None:
    folders = f"--dataset-dir {args.dataset_dir} --output-dir {args.output_dir}"
    print(f"next: python utils/qved_from_fine_labels.py {folders}")


def _tell_bad(errors: list[str], skip: bool) -> None:
    from formcoach.errors import UserError

    if not errors:
        return
    named = "; ".join(errors[:NAMED]) + ("; ..." if len(errors) > NAMED else "")
    line = f"{len(errors)} clip{'s' if len(errors) > 1 else ''} cannot be read: {named}"
    if not skip:
        raise UserError(f"{line}. The others are done; replace these, or leave them out with --skip-bad-clips")
    print(f"left out: {line}")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__doc__, "python utils/augment_videos.py --target-per-class 200")
    add = parser.add_argument
    add_folders(parser, "the clips and their labels", "where splits are, of which only train is augmented")
    add("--labels", type=Path, metavar="FILE", help="the label file (default: the one in the dataset folder)")
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
    add("--dry-run", action="store_true", help="only say what would be made or deleted")
    add("--skip-bad-clips", action="store_true", help="leave out clips that cannot be read")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


if __name__ == "__main__":
    run(main)
