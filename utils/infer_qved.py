"""Ask a model about one clip and print its answer."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from formcoach.command import command_parser, run
from formcoach.inference.options import add_flag, add_model_flags, load_once


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(
        __doc__, "python utils/infer_qved.py --model_path work_dirs/my_run --video_path dataset/squats/0001.mp4"
    )
    add_model_flags(parser, "the newest run")
    add_flag(parser, "--video_path", required=True, type=Path, metavar="FILE", help="the clip")
    add_flag(parser, "--prompt", metavar="TEXT", help="what is asked (default: the question of the training)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)

    from formcoach.data.convert import QUESTION
    from formcoach.data.video import probe
    from formcoach.inference.runs import newest_run

    probe(args.video_path)  # a wrong path is told before a model is loaded
    model_path = args.model_path or newest_run()
    predictor = load_once(args, model_path)()
    question = args.prompt or QUESTION
    clip = predictor.read(args.video_path)
    stream = sys.stdout.isatty() and not args.json
    start = time.perf_counter()
    answer = predictor.answer(clip, question, predictor.terminal_streamer() if stream else None)
    if args.json:
        told = {"model": str(model_path), "video": str(args.video_path), "prompt": question, "prediction": answer}
        told |= {"duration": clip.duration, "frames": clip.indices, "seconds": round(time.perf_counter() - start, 3)}
        print(json.dumps(told, ensure_ascii=False))
    elif not stream:
        print(answer)
    return 0


if __name__ == "__main__":
    run(main)
