"""Look at manifest.json and label files as people have them, and repair what can be understood in one way only."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.command import command_parser, run
from formcoach.errors import UserError

if TYPE_CHECKING:
    from formcoach.data.repair import Repair

SHOWN = 10  # problems of a file


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the arguments, repair each file, say what was found."""
    args = parse(argv)
    from formcoach.data.repair import repair_file

    left = 0
    for path in args.files:
        repair = repair_file(path, args.dataset_dir, args.write)
        print_repair(repair)
        left += len(repair.findings.problems)
    if left:
        raise UserError(f"{left} places cannot be repaired without guessing, see above; correct them by hand")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line's values."""
    parser = command_parser(
        __doc__, "python utils/fix_manifest_format.py dataset/manifest.json dataset/ground_truth.json --write"
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="manifest.json, or a label file")
    parser.add_argument(
        "--dataset-dir", "--dataset_dir", type=Path, help="holds the clips (the folder that the file is in)"
    )
    parser.add_argument("--write", action="store_true", help="write the repaired file; the old one is kept as .bak")
    return parser.parse_args(argv)


def print_repair(repair: "Repair") -> None:
    """Print what a file has and what was done."""
    findings = repair.findings
    if not findings.changes and not findings.problems:
        print(f"{repair.path}: nothing to repair")
    for kind, count in findings.changes.items():
        examples = "; ".join(map(printable, findings.examples[kind]))
        print(f"{repair.path}: {count} x {kind}" + (f": {examples}" if examples else ""))
    for problem in findings.problems[:SHOWN]:
        print(f"{repair.path}: {printable(problem)}", file=sys.stderr)
    if len(findings.problems) > SHOWN:
        print(f"{repair.path}: ... and {len(findings.problems) - SHOWN} more places", file=sys.stderr)
    if findings.missing:
        print(f"notice: {repair.path}: {findings.missing} clips are not on disk; left as they are", file=sys.stderr)
    if repair.backup is not None:
        print(f"wrote {repair.path}; the file as it was is kept as {repair.backup}")
    elif repair.text is not None:
        print(f"{repair.path}: nothing was written; --write does it")


def printable(text: str) -> str:
    """Return text that harms no terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


if __name__ == "__main__":
    run(main)
