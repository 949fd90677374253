"""Get clips and labels: from a dataset repository on the hub, or from an official QEVD download in a folder."""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.command import add_folders, command_parser, positive, run
from formcoach.errors import UserError

if TYPE_CHECKING:
    from formcoach.data.selection import Labels, Selection

DEFAULT_REPO = "EdgeVLM-Labs/QVED-Test-Dataset"
WORKERS = 8  # files fetched at once
SHOWN = 20  # classes in the summary


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments and get the clips."""
    args = parse(argv)
    if args.from_dir is not None:
        from_folder(args)
    else:
        from_hub(args)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's values."""
    parser = command_parser(
        __doc__,
        "python utils/load_dataset.py --videos-per-class 20\n  "
        "python utils/load_dataset.py --from-dir ~/QEVD-FIT-300k --classes 'squats,push ups'",
    )
    parser.add_argument("--repo", help=f"dataset repository on the hub, owner/name ({DEFAULT_REPO})")
    parser.add_argument("--revision", help="branch, tag or commit of the repository (main)")
    parser.add_argument(
        "--from-dir", "--from_dir", type=Path, metavar="DIR", help="take an official download: its clips are linked"
    )
    parser.add_argument("--copy", action="store_true", help="with --from-dir: copy the clips instead of linking them")
    parser.add_argument(
        "--videos-per-class",
        "--videos_per_class",
        type=positive,
        metavar="N",
        help="at most so many clips a class (all)",
    )
    parser.add_argument("--classes", type=names, default=(), metavar="A,B", help="only these classes (all)")
    parser.add_argument("--seed", type=int, default=42, help="of the choice; a larger N adds to it (%(default)s)")
    add_folders(parser, "where all goes")
    parser.add_argument("--workers", type=positive, metavar="N", help="files fetched at once (8)")
    parser.add_argument("--overwrite", action="store_true", help="replace files of another content that are in the way")
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="show what would come, and how much it is")
    parser.add_argument("--yes", action="store_true", help="do not ask before a download")
    args = parser.parse_args(argv)
    if args.from_dir is None and args.copy:
        parser.error("--copy is for --from-dir")
    if args.from_dir is not None and (args.repo or args.revision or args.workers):
        parser.error("--from-dir takes a folder; --repo, --revision and --workers are for the hub")
    return args


def names(text: str) -> tuple[str, ...]:
    """Return `a,b` as names."""
    found = tuple(filter(None, map(str.strip, text.split(","))))
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names no class")
    return found


def from_hub(args: argparse.Namespace) -> None:
    """Download."""
    from formcoach.data.arrivals import LOADING, check_space, check_target, free_space, gigabytes
    from formcoach.data.download_display import Display
    from formcoach.data.hub_dataset import download, list_files, plan_download, store_of
    from formcoach.data.hub_requests import HubDataset, check_repo
    from formcoach.data.selection import Wanted
    from formcoach.files import only_one

    repo, revision = args.repo or DEFAULT_REPO, args.revision or "main"
    check_repo(repo)
    check_target(args.dataset_dir)
    display = Display()
    hub = HubDataset(repo, display.say)
    commit, listed = list_files(hub, args.dataset_dir, revision, display)
    wanted = Wanted(args.videos_per_class, args.classes, args.seed)
    options = {"revision": revision, "wanted": wanted, "overwrite": args.overwrite, "display": display}
    if args.dry_run:
        with tempfile.TemporaryDirectory() as store:
            plan = plan_download(hub, commit, listed, args.dataset_dir, Path(store), **options)
        print_classes(plan.selection, plan.selection.counts)
        print_left_out(plan.selection, plan.labels)
        print(
            f"{repo} at {commit[:12]}: {len(plan.missing)} files, {gigabytes(plan.size)} would come; "
            "nothing was written"
        )
        return
    args.dataset_dir.mkdir(parents=True, exist_ok=True)
    with only_one(args.dataset_dir, LOADING):
        store = store_of(args.dataset_dir)
        plan = plan_download(hub, commit, listed, args.dataset_dir, store, **options)
        missing = plan.missing
        free = gigabytes(free_space(args.dataset_dir))
        print(
            f"{repo} at {commit[:12]}: {len(missing)} files, {gigabytes(plan.size)} to come, {free} free "
            f"in {args.dataset_dir}",
            flush=True,
        )
        check_space(args.dataset_dir, plan.size)
        if missing and not (args.yes or agreed()):
            raise UserError("nothing was downloaded")
        outcome = download(hub, plan, store, args.workers or WORKERS, display)
    print_classes(plan.selection, outcome.counts)
    print_left_out(plan.selection, plan.labels)
    for path in plan.edited:
        notice(f"{args.dataset_dir / path} was changed since it came and stays; --overwrite fetches it again")
    kept = len(plan.kept)
    print(
        f"{outcome.fetched} files, {gigabytes(outcome.size)} came in {outcome.seconds:.0f} s; {kept} were there already"
    )
    report_failed(outcome.failed)


def from_folder(args: argparse.Namespace) -> None:
    """Link or copy the clips of a folder."""
    from formcoach.data.arrivals import gigabytes
    from formcoach.data.release import import_release
    from formcoach.data.selection import Wanted

    outcome = import_release(
        args.from_dir,
        args.dataset_dir,
        Wanted(args.videos_per_class, args.classes, args.seed),
        copy=args.copy,
        overwrite=args.overwrite,
        dry_run=args.dry_run,
    )
    print_classes(outcome.selection, outcome.selection.counts)
    print_left_out(outcome.selection, outcome.labels)
    for line in outcome.notices:
        notice(line)
    done = ("would be " if args.dry_run else "") + ("copied" if args.copy else "linked")
    size = f" ({gigabytes(outcome.size)})" if outcome.size else ""
    print(
        f"{outcome.new} clips {done}{size} in {outcome.seconds:.0f} s; "
        f"{outcome.there} were there already; label files: {', '.join(outcome.label_files) or 'none'}"
    )
    report_failed(outcome.failed)


def agreed() -> bool:
    """Ask on a terminal; elsewhere nobody can answer, and the command itself is the answer."""
    return not sys.stdin.isatty() or input("go on? [Y/n] ").strip().lower() in ("", "y", "yes")


def print_classes(selection: "Selection", counts: Mapping[str, int]) -> None:
    """Print how many clips each class has; of very many classes the first."""
    width = max(map(len, counts), default=0)
    for name in [*counts][:SHOWN]:
        print(f"{name:<{width}}  {counts[name]:>7} of {selection.available[name]}")
    if len(counts) > SHOWN:
        print(f"... and {len(counts) - SHOWN} more classes")
    print(f"{sum(counts.values())} clips in {len(counts)} classes")


def print_left_out(selection: "Selection", labels: "Labels | None") -> None:
    """Say what cannot be used."""
    if selection.sessions:
        notice(f"{selection.sessions} clips are sessions of minutes, which are not trained on yet; left out")
    if selection.unclassed:
        notice(f"{selection.unclassed} clips are in no class's folder and have no label; left out")
    if labels is not None:
        unlabelled = sum(path not in labels.exercises for path in selection.clips)
        if unlabelled:
            notice(f"{unlabelled} of these clips have no label")
        if labels.missing:
            notice(f"{labels.missing} clips that labels name are not there")


def report_failed(failed: Mapping[str, str]) -> None:
    """Raise a `UserError` if files are missing."""
    if not failed:
        return
    for path in sorted(failed)[:SHOWN]:
        notice(f"{path}: {failed[path]}")
    first = min(failed)
    raise UserError(f"{len(failed)} files are missing, first {first}: {failed[first]}. Run this again")


def notice(text: str) -> None:
    """Tell the user something that stops nothing."""
    print(f"notice: {text}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
