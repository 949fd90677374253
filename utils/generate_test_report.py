"""Score predictions files: a base and a tuned model's side by side, or one alone."""

from collections.abc import Sequence
from pathlib import Path

from formcoach.command import command_parser, run
from formcoach.inference.options import add_flag, add_score_flags


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(
        __doc__, "python utils/generate_test_report.py --predictions my_run/evaluation/test_predictions.jsonl"
    )
    add_flag(parser, "--predictions", required=True, type=Path, metavar="FILE", help="answers of the tuned model")
    add_flag(
        parser, "--base_predictions", type=Path, metavar="FILE", help="answers of the base model to the same clips"
    )
    add_flag(parser, "--output", type=Path, metavar="FILE", help="write the scores there as JSON")
    add_score_flags(parser)
    args = parser.parse_args(argv)

    from formcoach.evaluation.evaluate import present
    from formcoach.evaluation.report import check_same_clips
    from formcoach.inference.predictions import read_predictions

    answers = {"tuned": read_predictions(args.predictions)}
    if args.base_predictions:
        answers = {"base": read_predictions(args.base_predictions)} | answers
        check_same_clips(answers["base"], answers["tuned"])
    present(answers, args.output, embed=not args.no_bert)
    return 0


if __name__ == "__main__":
    run(main)
