"""Ask the base model: about clips (beside the tuned model, if one is named), or about the whole test split."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from formcoach.command import command_parser, run
from formcoach.inference.options import add_clip_flags, add_flag, add_model_flags, add_test_flags, load_once, test_file
from formcoach.processes import Place, in_processes

_OF_TEST_SPLIT = ("test_json", "splits_dir", "data_path", "limit", "batch_size", "output")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(
        __doc__, "python utils/base_model_inference.py --model_path work_dirs/my_run --video_path dataset/squats/01.mp4"
    )
    add_model_flags(parser, "the 8B on a GPU, else tiny")
    add_clip_flags(parser, "clips to ask about, instead of the test split")
    add_test_flags(parser)
    add_flag(parser, "--output", type=Path, metavar="FILE", help="the predictions file (.jsonl) of the test split")
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(arguments)
    if args.video_path is None:
        if args.prompt or args.json:
            parser.error("--prompt and --json need --video_path; the test split has its own questions")
        return in_processes(lambda where: _test_split(args, where), __file__, arguments)
    for name in _OF_TEST_SPLIT:
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name} is about the test split; leave it or --video_path out")

    from formcoach.inference.asking import ask

    ask(args, _default_model, both=True)
    return 0


def _default_model(*, tell: bool = True) -> str:
    from formcoach.models import default_model

    model, line = default_model()
    if tell:
        print(line, file=sys.stderr, flush=True)
    return model


def _test_split(args: argparse.Namespace, where: Place) -> int:
    """Answer the test split with the base model; the first process prints its scores and three example clips."""
    from formcoach.evaluation.checkpoint import Checkpoint
    from formcoach.evaluation.evaluate import answer_test_set, present, read_test_set, refuse_failures
    from formcoach.inference.frames import REAL
    from formcoach.inference.group import group_of

    args.model_path = args.model_path or _default_model(tell=where.rank == 0)
    test_set = read_test_set(test_file(args, args.model_path), args.data_path, args.limit)
    checkpoint = Checkpoint.find(args.model_path, args.base_model)
    path = args.output or checkpoint.results / "base_predictions.jsonl"
    settings = checkpoint.settings(test_set, REAL, args, base=True)
    load = load_once(args, args.model_path, args.batch_size)
    with group_of(where) as group:
        answers = answer_test_set(path, settings, test_set, load, base=True, group=group)
    if where.rank == 0:
        present({"base": answers})
        print(f"answers: {path}")
        refuse_failures({"base": answers})
    return 0


if __name__ == "__main__":
    run(main)
