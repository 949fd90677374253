#!/usr/bin/env python
"""From nothing, or from clips and labels, to training files: gets the data, cleans, augments, splits and shows it.

Without a choice it splits what is in the dataset folder; without any argument, on a terminal, it asks about the rest.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import qved_from_fine_labels

from formcoach.command import add_folders, command_parser, run

EXAMPLE = "python utils/initialize_dataset.py --download --videos-per-class 20 --clean --report --ratios 70/15/15"
FEW = 20  # clips a class that a first download takes where nobody says how many
LABELS = "ground_truth.json"


@dataclass(frozen=True)
class Step:
    """One command of the way.

    Args:
        title: what it does.
        main: its entry point.
        arguments: for it.
    """

    title: str
    main: Callable[[Sequence[str]], int | None]
    arguments: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the steps that are asked for, one after the other; the first that fails ends it."""
    asked = sys.argv[1:] if argv is None else list(argv)
    args, split = parse(asked)
    folders = ["--dataset-dir", str(args.dataset_dir), "--output-dir", str(args.output_dir)]
    qved_from_fine_labels.parse([*folders, *split])  # what is wrong is told before a long download
    if not asked_for_anything(asked) and sys.stdin.isatty() and sys.stdout.isatty() and not args.yes:
        ask(args)
    todo = steps(args, folders, split)
    for number, step in enumerate(todo, start=1):
        if len(todo) > 1:
            print(f"\n== {number}/{len(todo)} {step.title} ==", flush=True)
        code = step.main(step.arguments)
        if code:
            return code
    return 0


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return this command's values, and the arguments that are the split's."""
    parser = command_parser(__doc__, EXAMPLE)
    add_folders(parser, "clips and labels", "gets the .jsonl files, its parent diy_ft_data.json")
    getting = parser.add_argument_group("getting clips (utils/load_dataset.py)")
    getting.add_argument("--download", action="store_true", help="from the hub")
    getting.add_argument("--repo", metavar="OWNER/NAME", help="from this dataset repository on the hub")
    getting.add_argument("--revision", help="of the repository")
    getting.add_argument("--from-dir", "--from_dir", metavar="DIR", help="from an official QEVD download; linked")
    getting.add_argument("--copy", action="store_true", help="with --from-dir: copied instead")
    getting.add_argument("--videos-per-class", "--videos_per_class", metavar="N", help="so many of each class (all)")
    getting.add_argument("--classes", metavar="A,B", help="only these classes (all)")
    others = parser.add_argument_group("other steps")
    others.add_argument("--clean", action="store_true", help="measure every clip, leave out bad ones and doubles")
    others.add_argument("--augment", type=int, metavar="N", help="add N altered copies of every training clip")
    others.add_argument("--report", action="store_true", help="write a page and a picture that show what there is")
    others.add_argument("--yes", action="store_true", help="ask nothing")
    parser.add_argument_group("splitting", "all arguments of utils/qved_from_fine_labels.py, see its --help")
    return parser.parse_known_args(argv)


def asked_for_anything(argv: Sequence[str]) -> bool:
    """Tell whether a command line says more than where the folders are."""
    folders = ("--dataset-dir", "--dataset_dir", "--output-dir", "--output_dir")
    return any(word.startswith("-") and word.partition("=")[0] not in folders for word in argv)


def ask(args: argparse.Namespace) -> None:
    """Ask on the terminal what to do, and put the answers into `args`."""
    if not any(args.dataset_dir.glob("*.json")):
        print(f"{args.dataset_dir} holds no labels yet (dataset/README.md says how to write your own).")
        answer = input("Folder of a QEVD download, `hub` for the test dataset on the hub, Enter to stop: ").strip()
        args.download, args.from_dir = answer == "hub", None if answer in ("", "hub") else answer
        args.videos_per_class = str(FEW) if args.download else None
        if not answer:
            return
    args.clean = agrees("Measure every clip, and leave out those that are dark, blurred, still or doubled?")
    args.augment = 1 if agrees("Add an altered copy of every training clip?") else None
    args.report = agrees("Write a page that shows what there is?")


def agrees(question: str) -> bool:
    """Ask a question; anything but yes is no."""
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def steps(args: argparse.Namespace, folders: list[str], split: list[str]) -> list[Step]:
    """Return the steps in their order."""
    dataset = folders[:2]
    todo = []
    if wanted := getting(args):
        import load_dataset

        todo.append(Step("get clips and labels", load_dataset.main, [*dataset, *wanted]))
        if "--labels" not in split and not (args.dataset_dir / LABELS).exists():
            todo.append(Step("keep the labels of clips that came", keep_labels, folders))
    if args.clean:
        import clean_dataset

        todo.append(Step("clean", clean_dataset.main, [*folders, *labels(split)]))
    todo.append(Step("split", qved_from_fine_labels.main, [*folders, *split]))
    if args.augment is not None:
        import augment_videos

        copies = ["--per-clip", str(args.augment)]
        todo.append(Step("augment the training clips", augment_videos.main, [*folders, *copies]))
        todo.append(Step("add them to the split", qved_from_fine_labels.main, [*folders, *split]))
    if args.report:
        import dataset_report

        todo.append(Step("report", dataset_report.main, folders))
    return todo


def keep_labels(folders: Sequence[str]) -> int | None:
    """Write `ground_truth.json` without the records of clips that did not come."""
    import filter_ground_truth

    from formcoach.data.qevd import find_label_file

    dataset = Path(folders[1])
    file = find_label_file(dataset)
    how = ["--in-place"] if file.name == LABELS else ["--output", str(dataset / LABELS)]
    return filter_ground_truth.main([*folders, "--labels", str(file), *how])


def getting(args: argparse.Namespace) -> list[str]:
    """Return the arguments of the command that gets clips; none if there is nothing to get."""
    if not (args.download or args.repo or args.from_dir):
        return []
    named = {
        "--repo": args.repo,
        "--revision": args.revision,
        "--from-dir": args.from_dir,
        "--videos-per-class": args.videos_per_class,
        "--classes": args.classes,
    }
    arguments = [word for name, value in named.items() if value is not None for word in (name, value)]
    return [*arguments, *(["--copy"] if args.copy else []), "--yes"]


def labels(split: list[str]) -> list[str]:
    """Return the split's `--labels`, which cleaning reads, too."""
    named = qved_from_fine_labels.parse(split).labels
    return [] if named is None else ["--labels", str(named)]


if __name__ == "__main__":
    run(main)
