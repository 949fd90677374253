"""Make a packaged tiny base model: pretrain a small model of either family on demo motion with plain descriptions.

Four stages: the vision tower learns to see a body's pose in single frames, and one that sees whole clips in those; the
connector to pass on what matters of a clip (the heads for all of them are thrown away), the language model to repeat
random rows of ordinary words, which gives it the words and their spelling, and then both to describe what is seen.
Neither a coaching answer nor a person of a demo dataset is in any of them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from formcoach.command import command_parser, positive, run
from formcoach.models import FAMILIES

STAGES = {
    "--pose-steps": "of the first stage, 96 frames each",
    "--motion-steps": "of Mobile-VideoGPT's video tower, 8 clips each",
    "--attribute-steps": "of the second stage, 32 clips each",
    "--word-steps": "of the third stage, 32 rows of words each",
    "--steps": "of the fourth stage, 16 clips each",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Pretrain, check on held-out people, and save."""
    parser = command_parser(__doc__, "python utils/pretrain_tiny.py --family mobilevideogpt --output my_tiny")
    keys = [family.key for family in FAMILIES]
    parser.add_argument("--family", choices=keys, default=keys[0], help="default: %(default)s")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the model")
    for flag, what in STAGES.items():
        parser.add_argument(flag, type=positive, metavar="N", help=f"steps {what} (default: as the packaged one)")
    parser.add_argument("--clips", type=positive, metavar="N", help="clips to draw (default: likewise)")
    parser.add_argument("--check-clips", dest="checked", type=positive, metavar="N", help="held-out clips, likewise")
    parser.add_argument("--seed", type=int, help="of weights and samples")
    args = parser.parse_args(argv)

    from formcoach.pretraining.pretrain import SYSTEMS, pretrain

    plan = SYSTEMS[args.family].plan
    names = ("pose_steps", "motion_steps", "attribute_steps", "word_steps", "steps", "clips", "checked", "seed")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    motion, pace = pretrain(args.family, replace(plan, **given), args.output)
    print(f"held-out people: right motion in {motion:.0%}, right motion and pace in {pace:.0%} of the descriptions")
    print(f"saved to {args.output}")
    return 0


if __name__ == "__main__":
    run(main)
