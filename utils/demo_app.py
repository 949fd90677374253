"""Try a model in a browser: drop or record a clip, see its frames and what base and tuned model answer.

Only this machine can open the page, unless --host says otherwise. Needs: pip install 'formcoach[demo]'
"""

import argparse
from collections.abc import Sequence

from formcoach.command import command_parser, positive, run
from formcoach.inference.options import add_flag, add_model_flags


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__, "python utils/demo_app.py --model_path work_dirs/my_run --port 8000")
    add_model_flags(parser, "the newest run, else the 8B on a GPU, else tiny")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=7860, metavar="N", help="default: %(default)s")
    add_flag(parser, "--max_upload_mb", type=positive, default=100, metavar="N", help="default: %(default)s")
    add_flag(
        parser,
        "--max_seconds",
        type=positive,
        default=120,
        metavar="N",
        help="longest clip that is accepted (default: %(default)s)",
    )
    args = parser.parse_args(argv)

    from formcoach.inference.app.server import serve

    serve(args)
    return 0


def _port(text: str) -> int:
    """Parse a port."""
    if positive(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port from 1 to 65535")
    return int(text)


if __name__ == "__main__":
    run(main)
