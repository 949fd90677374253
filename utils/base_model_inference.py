"""Ask the base model: about one clip (beside the tuned model, if one is named), or about the whole test split."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.command import command_parser, run
from formcoach.inference.options import add_flag, add_model_flags, add_test_flags, load_once

if TYPE_CHECKING:
    from formcoach.inference.predict import Predictor


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(
        __doc__, "python utils/base_model_inference.py --model_path work_dirs/my_run --video_path dataset/squats/01.mp4"
    )
    add_model_flags(parser, "the 8B on a GPU, else tiny")
    add_flag(parser, "--video_path", type=Path, metavar="FILE", help="one clip, instead of the test split")
    add_flag(parser, "--prompt", metavar="TEXT", help="what is asked about --video_path")
    parser.add_argument("--json", action="store_true", help="print the answers to --video_path as one JSON object")
    add_test_flags(parser)
    add_flag(parser, "--output", type=Path, metavar="FILE", help="the predictions file (.jsonl) of the test split")
    args = parser.parse_args(argv)
    if args.video_path is None and (args.prompt or args.json):
        parser.error("--prompt and --json need --video_path; the test split has its own questions")
    if args.video_path is not None and (args.output or args.limit):
        parser.error("--output and --limit are about the test split; leave --video_path out")

    from formcoach.models import default_model

    if args.model_path is None:
        args.model_path, line = default_model()
        print(line, flush=True)
    if args.video_path is not None:
        _one_clip(args)
    else:
        _test_split(args)
    return 0


def _one_clip(args: argparse.Namespace) -> None:
    """Print the base model's answer, and the tuned model's where the checkpoint is tuned."""
    from formcoach.data.convert import QUESTION
    from formcoach.data.video import probe

    probe(args.video_path)
    predictor = load_once(args, args.model_path)()
    answers = _both_answers(predictor, args.video_path, args.prompt or QUESTION)
    if args.json:
        print(json.dumps({"model": args.model_path, "video": str(args.video_path)} | answers, ensure_ascii=False))
        return
    for name, answer in answers.items():
        print(f"{name}: {answer}")


def _both_answers(predictor: "Predictor", path: Path, question: str) -> dict[str, str]:
    clip = predictor.read(path)
    with predictor.base():
        answers = {"base": predictor.answer(clip, question)}
    if predictor.has_adapter:
        answers["tuned"] = predictor.answer(clip, question)
    return answers


def _test_split(args: argparse.Namespace) -> None:
    """Answer the test split with the base model, print its scores and three example clips."""
    from formcoach.evaluation.checkpoint import Checkpoint
    from formcoach.evaluation.evaluate import answer_test_set, present, read_test_set, refuse_failures
    from formcoach.inference.frames import REAL

    test_set = read_test_set(args.test_json, args.data_path, args.limit)
    checkpoint = Checkpoint.find(args.model_path, args.base_model)
    path = args.output or checkpoint.results / "base_predictions.jsonl"
    settings = checkpoint.settings(test_set, REAL, args, base=True)
    answers = answer_test_set(path, settings, test_set, load_once(args, args.model_path, args.batch_size), base=True)
    present({"base": answers})
    print(f"answers: {path}")
    refuse_failures({"base": answers})


if __name__ == "__main__":
    run(main)
