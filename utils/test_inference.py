"""Answer the held-out test split with a tuned model, with its base too if asked, and score the answers."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.command import command_parser, run
from formcoach.errors import UserError
from formcoach.evaluation.options import add_score_flags, judge_of
from formcoach.inference.options import add_flag, add_model_flags, add_test_flags
from formcoach.inference.runs import add_run_folders, run_folders
from formcoach.processes import Place, in_processes

if TYPE_CHECKING:
    from formcoach.evaluation.evaluate import TestSet
    from formcoach.inference.predictions import Prediction


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__, "python utils/test_inference.py --model_path work_dirs/my_run --compare")
    add_model_flags(parser, "the newest run")
    add_flag(parser, "--hf_repo", metavar="REPO", help="a model on the hub, owner/name[@revision], for --model_path")
    add_run_folders(parser)
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
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(arguments)
    if args.output and (args.output_dir or args.compare):
        parser.error("--output names one model's file; use --output_dir for both, or leave --compare out")
    if args.hf_repo and args.model_path:
        parser.error("--hf_repo and --model_path both name the model; leave one of them out")
    return in_processes(lambda where: _evaluate(args, where), __file__, arguments)


def _evaluate(args: argparse.Namespace, where: Place) -> int:
    """Answer the test split together with the other processes, if there are some; the first one scores the answers."""
    from formcoach.evaluation.checkpoint import Checkpoint
    from formcoach.evaluation.evaluate import answer_test_set, common_clips, present, read_test_set, refuse_failures
    from formcoach.evaluation.reports import write_reports
    from formcoach.inference.group import group_of
    from formcoach.inference.options import load_once, test_file

    model_path = _model_path(args, where)
    test_set = read_test_set(test_file(args, model_path), args.data_path, args.limit)
    checkpoint = Checkpoint.find(model_path, args.base_model)
    folder = args.output_dir or checkpoint.results
    control = "" if args.frames == "real" else f".{args.frames}"
    files = {"tuned": args.output or folder / f"test_predictions{control}.jsonl"}
    if args.compare:
        checkpoint.require_adapter()
        files = {"base": folder / f"base_predictions{control}.jsonl"} | files
    judge = judge_of(args, folder)
    load = load_once(args, model_path, args.batch_size)
    answers: dict[str, list[Prediction]] = {}
    with group_of(where) as group:
        for name, path in files.items():
            is_base = name == "base"
            settings = checkpoint.settings(test_set, args.frames, args, base=is_base)
            answers[name] = answer_test_set(path, settings, test_set, load, base=is_base, group=group)
    if where.rank > 0:
        return 0
    scores = None if args.output else folder / f"scores{control}.json"
    common = common_clips(answers)
    evaluation = present(common, scores, embed=not args.no_bert, judge=judge)
    written = files | ({"scores": scores} if scores else {})
    if args.report:
        sources = [f"{name}: {files[name]}" for name in common]
        page, sheet = write_reports(folder, common, evaluation, test_set.root, sources, control)
        written |= {"report": page, "spreadsheet": sheet}
    for name, path in written.items():
        print(f"{name}: {path}")
    print(f"ask about a clip: {_next_command(model_path, test_set)}")
    refuse_failures(answers)
    return 0


def _model_path(args: argparse.Namespace, where: Place) -> str:
    """Return the model that `--model_path` or `--hf_repo` names, else the newest run."""
    from formcoach.inference.runs import newest_run
    from formcoach.models.hub import HubName

    if args.hf_repo and HubName.parse(args.hf_repo) is None:
        raise UserError(f"--hf_repo {args.hf_repo} is not owner/name[@revision]; --model_path names what is on a disk")
    if args.hf_repo or args.model_path:
        return args.hf_repo or args.model_path
    found = str(newest_run(run_folders(args)))
    if where.rank == 0:
        print(f"model: {found} (the newest run; --model_path names another)", flush=True)
    return found


def _next_command(model_path: str, test_set: "TestSet") -> str:
    record = test_set.records[0]
    words = ["python", "utils/infer_qved.py", "--model_path", model_path]
    words += ["--video_path", str(test_set.root / record.video), "--prompt", record.question]
    return shlex.join(words)


if __name__ == "__main__":
    run(main)
