#!/usr/bin/env python
"""Look at a dataset: one HTML page and a picture that show what the splits hold and what is odd about it."""

from collections.abc import Sequence
from pathlib import Path

from formcoach.command import add_folders, command_parser, run

SHOWN_CONCERNS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Count, draw samples, write the page and the picture."""
    parser = command_parser(__doc__, "python utils/dataset_report.py --dataset-dir dataset")
    add_folders(parser, "clips", "the splits, as scripts/initialize_dataset.sh writes them")
    parser.add_argument("--report", type=Path, metavar="DIR", help="gets page and picture (the folder of the splits)")
    parser.add_argument("--clips", type=int, default=60, metavar="N", help="sample clips at most (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="draws the sample clips (%(default)s)")
    args = parser.parse_args(argv)
    if args.clips < 0:
        parser.error(f"--clips {args.clips}: must be 0 or more")

    from formcoach.data.overview_report import write_report

    report = write_report(args.dataset_dir, args.output_dir, args.report, args.clips, args.seed)
    total, concerns = report.overview.total, report.concerns
    print(f"{total.clips:,} clips of {total.exercises:,} exercises, {total.seconds / 60:,.1f} minutes")
    for concern in concerns[:SHOWN_CONCERNS]:
        print(f"{'warning' if concern.serious else 'notice'}: {concern.text}")
    if len(concerns) > SHOWN_CONCERNS:
        print(f"and {len(concerns) - SHOWN_CONCERNS} more on the page")
    print(f"wrote {report.page}")
    print(f"wrote {report.picture}")
    return 0


if __name__ == "__main__":
    run(main)
