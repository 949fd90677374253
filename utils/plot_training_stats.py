#!/usr/bin/env python
"""Draw how a training went: loss, learning rates, gradients, speed, waiting for data and memory; or compare several."""

from collections.abc import Sequence
from pathlib import Path

from formcoach.command import command_parser, run
from formcoach.inference.runs import add_run_folders, run_folders


def main(argv: Sequence[str] | None = None) -> int:
    """Read the runs' metrics, write the pictures, tell where they are."""
    parser = command_parser(__doc__, "python utils/plot_training_stats.py work_dirs/my_run")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run directory; several are compared")
    parser.add_argument("--run", action="append", default=[], type=Path, metavar="DIR", help="the same")
    add_run_folders(parser)
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="for the pictures (plots/ of the run; plots/compared/ of the first)"
    )
    args = parser.parse_args(argv)

    from formcoach.curves import newest_recorded_run, read_curves
    from formcoach.plots import write_plots

    folders = list(dict.fromkeys([*args.runs, *args.run])) or [newest_recorded_run(run_folders(args))]
    runs = [read_curves(folder) for folder in folders]
    for note in (note for one in runs for note in one.notes):
        print(f"notice: {note}")
    output = args.output or folders[0] / "plots" / ("compared" if len(runs) > 1 else "")
    *others, overview = write_plots(runs, output)
    print(f"wrote {', '.join(path.name for path in others)} in {output}")
    print(f"wrote {overview}")
    return 0


if __name__ == "__main__":
    run(main)
