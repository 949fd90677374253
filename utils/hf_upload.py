"""Share a trained model on the Hugging Face hub: an adapter or an exported model, with a model card.

Only files of known names are uploaded; what resuming needs, logs and clips never are. docs/sharing.md has more.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.command import command_parser, run
from formcoach.errors import UserError
from formcoach.inference.options import add_flag

if TYPE_CHECKING:
    from formcoach.sharing.bundle import Bundle
    from formcoach.sharing.hub_upload import Repository

MESSAGE = "Upload a model made with formcoach"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = parse(argv)

    from formcoach.files import write_text
    from formcoach.inference.runs import newest_run
    from formcoach.sharing.bundle import CARD, collect, trained_model
    from formcoach.sharing.card import model_card
    from formcoach.sharing.hub_upload import sign_in
    from formcoach.sharing.origin import find_origin

    folder = trained_model(args.model_path or str(newest_run()))
    with tempfile.TemporaryDirectory() as store:
        bundle = collect(folder, args.base_model, Path(store))
        origin = find_origin(folder, args.run)
        account = "your-name" if args.dry_run else sign_in()
        repo = f"{args.org or account}/{args.repo_name}"
        write_text(Path(store, CARD), model_card(repo, bundle, origin))
        bundle.files[CARD] = Path(store, CARD)
        if origin is None:
            notice("the card says nothing of training and scores: name the run that this model comes from with --run")
        elif origin.scores is None:
            why = "its scores are older than this checkpoint" if origin.stale else "it was not evaluated"
            notice(f"the card has no scores: {why}; run scripts/run_inference.sh first")
        if args.dry_run:
            show(bundle, repo, args.private)
        else:
            share(args, repo, bundle)
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's values."""
    parser = command_parser(
        __doc__, "python utils/hf_upload.py --model_path work_dirs/my_run --repo_name my-coach --private --dry-run"
    )
    add_flag(
        parser,
        "--model_path",
        metavar="PATH",
        help="run, checkpoint, adapter or exported model (default: the newest run)",
    )
    add_flag(parser, "--repo_name", required=True, metavar="NAME", help="of the model repository; made if need be")
    parser.add_argument("--org", help="organisation that it belongs to (default: your account)")
    parser.add_argument("--private", action="store_true", help="only its members see it, if it is a new one")
    add_flag(
        parser,
        "--base_model",
        metavar="ID",
        help="owner/name[@revision] of the base on the hub, where the model does not say it",
    )
    parser.add_argument(
        "--run", type=Path, metavar="DIR", help="run that an exported model comes from, for the card (settings, scores)"
    )
    add_flag(parser, "--commit_message", default=MESSAGE, metavar="TEXT", help="default: %(default)s")
    parser.add_argument(
        "--dry-run",
        "--dry_run",
        action="store_true",
        help="show card, files and sizes; needs neither token nor network, and uploads nothing",
    )
    parser.add_argument("--yes", action="store_true", help="do not ask before something is made public")
    args = parser.parse_args(argv)
    check_name(parser, args)
    return args


def check_name(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Take `owner/name` as `--repo_name` too, and refuse what the hub would."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    owner, slash, name = args.repo_name.rpartition("/")
    if slash and args.org:
        parser.error(f"--repo_name {args.repo_name} names an owner already; leave --org out")
    args.org, args.repo_name = owner or args.org, name
    try:
        validate_repo_id(f"{args.org or 'owner'}/{name}")
    except HFValidationError:
        parser.error(
            f"--repo_name {name}: the hub takes letters, digits, single dashes, dots and underscores, 96 at most"
        )
    if not args.commit_message.strip():
        parser.error("--commit_message is empty")


def show(bundle: "Bundle", repo: str, private: bool) -> None:
    """Print what would be uploaded."""
    from formcoach.data.arrivals import gigabytes
    from formcoach.sharing.bundle import CARD

    print(bundle.files[CARD].read_text(encoding="utf-8"))
    print("-" * 80)
    sizes = {name: path.stat().st_size for name, path in sorted(bundle.files.items())}
    width = max(map(len, sizes))
    for name, size in sizes.items():
        print(f"{name:<{width}}  {gigabytes(size):>9}")
    if bundle.left_out:
        print(f"left out: {', '.join(bundle.left_out)}")
    seen = "private if it is new" if private else "public"
    print(f"{len(sizes)} files, {gigabytes(sum(sizes.values()))} would go to {repo} ({seen}); nothing was uploaded")


def share(args: argparse.Namespace, repo: str, bundle: "Bundle") -> None:
    """Upload what the repository does not have yet.

    Raises:
        UserError: it holds something else, is public against `--private`, or nobody agreed to make the model public.
    """
    from formcoach.data.arrivals import gigabytes
    from formcoach.sharing.hub_upload import address, commit, create, look_up

    there = look_up(repo)
    if there is not None:
        there.check_fits(bundle)
        if args.private and not there.private:
            raise UserError(
                f"{repo}: is public, which --private does not change; make it private at {address(repo)}/settings, "
                "or choose another --repo_name"
            )
    files = bundle.files if there is None else there.changed(bundle.files)
    if not files:
        print(f"{address(repo)} has all of it already; nothing was changed")
        return
    size = gigabytes(sum(path.stat().st_size for path in files.values()))
    private = args.private if there is None else there.private
    if there is not None and private and not args.private:
        notice(f"{repo} is private and stays so")
    if not private and not args.yes:
        ask(f"{len(files)} files, {size}, at {address(repo)}")
    if there is None:
        create(repo, private)
    print(f"uploading {len(files)} files, {size}: {', '.join(sorted(files))}", flush=True)
    made = commit(repo, files, args.commit_message)
    print_end(repo, there, files, bundle, made)


def ask(what: str) -> None:
    """Make sure that what everybody will be able to read is meant to be.

    Raises:
        UserError: nobody agreed.
    """
    if not sys.stdin.isatty():
        raise UserError(f"this would make public: {what}; add --yes if you mean it, or --private")
    if input(f"everybody will see {what}. Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise UserError("nothing was uploaded")


def print_end(repo: str, there: "Repository | None", files: Mapping[str, Path], bundle: "Bundle", made: str) -> None:
    """Say what was done and how the model is used now."""
    from formcoach.sharing.hub_upload import address

    kept = len(bundle.files) - len(files)
    same = f", {kept} were the same" if kept else ""
    new = " (new)" if there is None else ""
    print(f"{address(repo)}{new}: {len(files)} files at commit {made[:12]}{same}")
    print(f"python utils/infer_qved.py --model_path {repo} --video_path CLIP")


def notice(text: str) -> None:
    """Tell the user something that stops nothing."""
    print(f"notice: {text}", file=sys.stderr)


if __name__ == "__main__":
    run(main)
