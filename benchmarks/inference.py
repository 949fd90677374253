"""Time the answers to a test set: clips in batches, the next ones decoded meanwhile, against one clip at a time.

The model is loaded once, before any time is taken, and all settings go through the same loop, `Predictor.predict`, in
turn; each time is the best of some runs. The baseline is a batch of 1. The last column counts answers that differ from
the baseline's.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from machine import describe_machine

from formcoach.command import command_parser, positive, run
from formcoach.inference.options import add_flag, add_model_flags, add_test_flags, load_once

if TYPE_CHECKING:
    from formcoach.evaluation.evaluate import TestSet
    from formcoach.inference.predict import Predictor


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(
        __doc__, "python benchmarks/inference.py --model_path work_dirs/qevd_fit_300k_internvideo2_5_r16"
    )
    add_model_flags(parser, "the newest run")
    add_test_flags(parser)
    add_flag(parser, "--batch_sizes", type=positive, nargs="+", default=[4, 8, 16, 32], metavar="N", help="to compare")
    parser.add_argument("--repeat", type=positive, default=3, metavar="N", help="runs of each (default: %(default)s)")
    args = parser.parse_args(argv)

    from formcoach.evaluation.evaluate import read_test_set
    from formcoach.inference.runs import newest_run

    test_set = read_test_set(args.test_json, args.data_path, args.limit)
    predictor = load_once(args, args.model_path or newest_run())()
    print(f"machine: {describe_machine(str(predictor.model.device))}")
    print(
        f"settings: {len(test_set.wanted)} clips, {predictor.model.dtype}, up to {args.max_new_tokens} new tokens, "
        f"best of {args.repeat} runs, in turn; the default batch is {predictor.default_batch}"
    )
    sizes = [args.batch_size] if args.batch_size else args.batch_sizes
    print_times(predictor, test_set, list(dict.fromkeys([1, *sizes])), args)
    return 0


def print_times(predictor: "Predictor", test_set: "TestSet", sizes: Sequence[int], args: argparse.Namespace) -> None:
    """Print a line for each batch size."""
    best = dict.fromkeys(sizes, float("inf"))
    said: dict[int, list[str]] = {}
    for _ in range(args.repeat):
        for size in sizes:
            seconds, said[size] = answered(predictor, test_set, size)
            best[size] = min(best[size], seconds)
    print(f"{'batch':>5}{'s':>9}{'clips/s':>10}{'speed':>9}{'different':>11}")
    for size, seconds in best.items():
        different = sum(one != other for one, other in zip(said[size], said[1], strict=True))
        rate = len(test_set.wanted) / seconds
        print(f"{size:>5}{seconds:>9.2f}{rate:>10.1f}{best[1] / seconds:>8.2f}x{different:>11}")


def answered(predictor: "Predictor", test_set: "TestSet", size: int) -> tuple[float, list[str]]:
    """Return the seconds that a pass over the test set takes, and its answers."""
    from formcoach.inference.frames import REAL, frames_of

    read = frames_of(REAL, test_set.root, test_set.records, predictor.processor, predictor.reader)
    began = time.perf_counter()
    predictions = list(replace(predictor, batch_size=size).predict(test_set.wanted, read))
    return time.perf_counter() - began, [prediction.prediction for prediction in predictions]


if __name__ == "__main__":
    run(main)
