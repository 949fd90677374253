"""Ask a model about clips and print its answers."""

from collections.abc import Sequence

from formcoach.command import command_parser, run
from formcoach.inference.options import add_clip_flags, add_model_flags


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(
        __doc__,
        "python utils/infer_qved.py --model_path work_dirs/my_run --video_path dataset/squats/0001.mp4\n"
        "  python utils/infer_qved.py --video_path dataset/squats dataset/lunges --json > answers.jsonl",
    )
    add_model_flags(parser, "the newest run")
    add_clip_flags(parser, "clips to ask about", required=True)
    args = parser.parse_args(argv)

    from formcoach.inference.asking import ask
    from formcoach.inference.runs import newest_run

    ask(args, newest_run)
    return 0


if __name__ == "__main__":
    run(main)
