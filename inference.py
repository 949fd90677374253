"""Ask a model about clips and print its answers (the command of Mobile-VideoGPT's guide)."""

from collections.abc import Sequence

from formcoach.command import run
from formcoach.inference.infer import infer

EXAMPLES = (
    "python inference.py --model_path results/qved_finetune_mobilevideogpt_0.5B --video_path dataset/squats/0001.mp4 "
    '--prompt "Analyze this squats video and provide corrective feedback."',
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return infer(argv, __doc__, EXAMPLES)


if __name__ == "__main__":
    run(main)
