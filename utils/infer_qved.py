"""Ask a model about clips and print its answers."""

from collections.abc import Sequence

from formcoach.command import run
from formcoach.inference.infer import infer

EXAMPLES = (
    "python utils/infer_qved.py --model_path work_dirs/my_run --video_path dataset/squats/0001.mp4",
    "python utils/infer_qved.py --video_path dataset/squats dataset/lunges --json > answers.jsonl",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return infer(argv, __doc__, EXAMPLES)


if __name__ == "__main__":
    run(main)
