"""Report on predictions files: scores, a page to look at and a spreadsheet, of a base and a tuned model or of one."""

from collections.abc import Sequence
from pathlib import Path

from formcoach.command import command_parser, run
from formcoach.evaluation.options import add_score_flags, judge_of
from formcoach.inference.options import add_data_path, add_flag


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(
        __doc__, "python utils/generate_test_report.py --predictions my_run/evaluation/test_predictions.jsonl"
    )
    add_flag(parser, "--predictions", required=True, type=Path, metavar="FILE", help="answers of the tuned model")
    add_flag(
        parser, "--base_predictions", type=Path, metavar="FILE", help="answers of the base model to the same clips"
    )
    add_data_path(parser, "folder of the clips, to show them")
    add_flag(parser, "--output_dir", type=Path, metavar="DIR", help="for page and spreadsheet (default: beside FILE)")
    add_flag(parser, "--output", type=Path, metavar="FILE", help="write the scores there as JSON")
    add_score_flags(parser)
    args = parser.parse_args(argv)

    from formcoach.evaluation.evaluate import common_clips, present
    from formcoach.evaluation.report import check_same_clips
    from formcoach.evaluation.reports import write_reports
    from formcoach.inference.predictions import read_predictions

    judge = judge_of(args, args.predictions.parent)
    files = {"base": args.base_predictions} if args.base_predictions else {}
    files["tuned"] = args.predictions
    answers = {name: read_predictions(path) for name, path in files.items()}
    if len(answers) == 2:
        check_same_clips(answers["base"], answers["tuned"])
    common = common_clips(answers)
    evaluation = present(common, args.output, embed=not args.no_bert, judge=judge)
    if not args.data_path.is_dir():
        print(f"{args.data_path}: no such folder, so the page shows no frames; --data_path names the clips' folder")
    sources = [f"{name}: {path}" for name, path in files.items()]
    folder = args.output_dir or args.predictions.parent
    page, sheet = write_reports(folder, common, evaluation, args.data_path, sources)
    print(f"report: {page}\nspreadsheet: {sheet}")
    return 0


if __name__ == "__main__":
    run(main)
