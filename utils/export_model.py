"""Export a trained model: its adapter alone, or a whole checkpoint with the adapter merged in."""

from collections.abc import Sequence
from pathlib import Path

from formcoach.command import command_parser, run
from formcoach.inference.options import add_flag
from formcoach.models import EXPORTS, export_model


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(
        __doc__, "python utils/export_model.py --model_path work_dirs/my_run --format original --output my_model"
    )
    add_flag(parser, "--model_path", metavar="PATH", help="run, checkpoint or adapter (default: the newest run)")
    add_flag(parser, "--base_model", metavar="PATH", help="the adapter's base, where it is not what the adapter names")
    parser.add_argument(
        "--format",
        choices=EXPORTS,
        required=True,
        help="adapter: what was trained, for those who have the base. original: the whole model as the base's authors "
        "publish it, for all tools that read theirs. native: the whole model as this project saves it, quicker to load",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="a new folder")
    args = parser.parse_args(argv)

    from formcoach.inference.runs import newest_run

    model_path = args.model_path or str(newest_run())
    exported = export_model(model_path, args.format, args.output, base=args.base_model)
    merged = f", the adapter merged into {exported.merged} tensors" if exported.merged else ""
    print(f"{args.output}: {exported.files} files, {_size(exported.bytes)}{merged}")
    for note in exported.notes:
        print(note)
    return 0


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


if __name__ == "__main__":
    run(main)
