"""Check that training can start: packages, GPU, data, every clip, scripts and disk; one line a check."""

from collections.abc import Sequence
from pathlib import Path

from formcoach.command import add_folders, command_parser, run
from formcoach.config import DEFAULT_WORK_DIR, PROJECT
from formcoach.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__, "python utils/verify_setup.py --dataset-dir dataset")
    add_folders(parser, "labels and clips", "the three split files")
    parser.add_argument("--model", metavar="NAME", help="what shall be trained (default: the 8B on a GPU, else tiny)")
    parser.add_argument("--work-dir", type=Path, default=Path(DEFAULT_WORK_DIR), help="where runs are written")
    args = parser.parse_args(argv)

    from formcoach.verify import FAIL, Setup, checks

    failed = []
    for check in checks(Setup(PROJECT, args.dataset_dir, args.output_dir, args.model, args.work_dir)):
        print(check, flush=True)
        failed += [check.what] if check.mark == FAIL else []
    if failed:
        raise UserError(f"training cannot start: {', '.join(failed)} (lines marked {FAIL}); put that right first")
    print("training can start: bash scripts/finetune_qved.sh")
    return 0


if __name__ == "__main__":
    run(main)
