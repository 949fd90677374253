"""Make a packaged tiny base model: pretrain a small model of either family on demo motion with plain descriptions.

Four stages: the vision tower learns to see a body's pose in single frames, the connector to pass on what matters of a
clip (the heads for both are thrown away), the language model to repeat random rows of ordinary words, which gives it
a vocabulary; then connector and language model learn to describe clips. On 2 CPU cores and
with 8 GB of memory it takes 50 minutes; on the same machine the same seed gives the same weights.
"""

from collections.abc import Sequence
from pathlib import Path

from formcoach.command import command_parser, run


def main(argv: Sequence[str] | None = None) -> int:
    """Pretrain, check on held-out people, and save."""
    parser = command_parser(__doc__, "python utils/pretrain_tiny.py --output formcoach/assets/tiny")
    parser.add_argument("--output", type=Path, default=Path("formcoach/assets/tiny"), help="folder of the model")
    parser.add_argument("--family", choices=("internvideo", "mobilevideogpt"), default="internvideo")
    parser.add_argument("--pose-steps", type=int, default=4000, help="steps of the first stage, 96 frames each")
    parser.add_argument("--motion-steps", type=int, default=400, help="of Mobile-VideoGPT's video tower, 8 clips each")
    parser.add_argument("--attribute-steps", type=int, default=1000, help="steps of the second stage, 32 clips each")
    parser.add_argument("--word-steps", type=int, default=800, help="steps of the third stage, 32 rows of words each")
    parser.add_argument("--clips", type=int, default=6000, help="clips to draw")
    parser.add_argument("--steps", type=int, default=1200, help="steps of the fourth stage, 16 clips each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check-clips", type=int, default=240, help="held-out clips on which each stage is checked")
    args = parser.parse_args(argv)

    from formcoach.pretraining.pretrain import pretrain
    from formcoach.pretraining.stages import Pretraining

    plan = Pretraining(
        seed=args.seed,
        clips=args.clips,
        pose_steps=args.pose_steps,
        motion_steps=args.motion_steps,
        attribute_steps=args.attribute_steps,
        word_steps=args.word_steps,
        steps=args.steps,
        checked=args.check_clips,
    )
    motion, pace = pretrain(args.family, plan, args.output)
    print(f"held-out people: right motion in {motion:.0%}, right motion and pace in {pace:.0%} of the descriptions")
    print(f"saved to {args.output}")
    return 0


if __name__ == "__main__":
    run(main)
