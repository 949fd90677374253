"""Make the demo dataset: drawn people doing six exercises, in correct form and with typical faults."""

from collections.abc import Sequence

from formcoach.command import add_folders, command_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Film the clips and write labels and a contact sheet."""
    parser = command_parser(__doc__, "python utils/make_demo_dataset.py --dataset-dir dataset --clips 360")
    add_folders(parser, "where it goes")
    parser.add_argument("--clips", type=int, default=360, help="how many clips (default: 360)")
    parser.add_argument("--people", type=int, default=24, help="how many people (default: 24)")
    parser.add_argument("--seed", type=int, default=7, help="same seed, same files (default: 7)")
    args = parser.parse_args(argv)

    from formcoach.data.demo import make_demo_dataset

    planned = make_demo_dataset(args.dataset_dir, args.clips, args.people, args.seed)
    exercises = len({clip.take.exercise.name for clip in planned})
    print(f"{len(planned)} clips of {args.people} people doing {exercises} exercises in {args.dataset_dir}")
    print(f"look at them all at once: {args.dataset_dir / 'contact_sheet.png'}")
    return 0


if __name__ == "__main__":
    run(main)
