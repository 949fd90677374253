"""Answer the held-out test split with a tuned model, with its base too if asked, and score the answers."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.command import command_parser, run
from formcoach.config import DEFAULT_WORK_DIR
from formcoach.inference.options import add_flag, add_model_flags, add_score_flags, add_test_flags

if TYPE_CHECKING:
    from formcoach.evaluation.evaluate import TestSet
    from formcoach.inference.predictions import Prediction


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__, "python utils/test_inference.py --model_path work_dirs/my_run --compare")
    add_model_flags(parser, "the newest run")
    add_flag(
        parser,
        "--work_dir",
        type=Path,
        default=Path(DEFAULT_WORK_DIR),
        metavar="DIR",
        help="without --model_path: the newest run there or at its repetitions _2, _3, ... (default: %(default)s)",
    )
    add_test_flags(parser)
    add_score_flags(parser)
    parser.add_argument("--report", action="store_true", help="write a page and a spreadsheet beside the results")
    parser.add_argument("--compare", action="store_true", help="answer with the base model (adapter off) as well")
    add_flag(parser, "--output_dir", type=Path, metavar="DIR", help="for all results (default: evaluation/ of the run)")
    add_flag(parser, "--output", type=Path, metavar="FILE", help="for the tuned model's answers alone (.jsonl)")
    parser.add_argument(
        "--frames",
        choices=("real", "blank", "swapped"),
        default="real",
        help="what the model sees: the clip, mid-grey frames, or another clip (controls; default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if args.output and (args.output_dir or args.compare):
        parser.error("--output names one model's file; use --output_dir for both, or leave --compare out")

    from formcoach.evaluation.checkpoint import Checkpoint
    from formcoach.evaluation.evaluate import answer_test_set, common_clips, present, read_test_set, refuse_failures
    from formcoach.evaluation.reports import write_reports
    from formcoach.inference.options import load_once
    from formcoach.inference.runs import newest_run

    if args.model_path is None:
        args.model_path = str(newest_run(args.work_dir))
        print(f"model: {args.model_path} (the newest run; --model_path names another)", flush=True)
    test_set = read_test_set(args.test_json, args.data_path, args.limit)
    checkpoint = Checkpoint.find(args.model_path, args.base_model)
    folder = args.output_dir or checkpoint.results
    control = "" if args.frames == "real" else f".{args.frames}"
    files = {"tuned": args.output or folder / f"test_predictions{control}.jsonl"}
    if args.compare:
        checkpoint.require_adapter()
        files = {"base": folder / f"base_predictions{control}.jsonl"} | files
    load = load_once(args, args.model_path, args.batch_size)
    answers: dict[str, list[Prediction]] = {}
    for name, path in files.items():
        is_base = name == "base"
        settings = checkpoint.settings(test_set, args.frames, args, base=is_base)
        answers[name] = answer_test_set(path, settings, test_set, load, base=is_base)
    scores = None if args.output else folder / f"scores{control}.json"
    common = common_clips(answers)
    evaluation = present(common, scores, embed=not args.no_bert)
    written = files | ({"scores": scores} if scores else {})
    if args.report:
        sources = [f"{name}: {files[name]}" for name in common]
        page, sheet = write_reports(folder, common, evaluation, test_set.root, sources, control)
        written |= {"report": page, "spreadsheet": sheet}
    for name, path in written.items():
        print(f"{name}: {path}")
    print(f"ask about a clip: {_next_command(args.model_path, test_set)}")
    refuse_failures(answers)
    return 0


def _next_command(model_path: str, test_set: "TestSet") -> str:
    clip = test_set.root / test_set.records[0].video
    words = ["python", "utils/infer_qved.py", "--model_path", model_path, "--video_path", str(clip)]
    return shlex.join(words)


if __name__ == "__main__":
    run(main)
