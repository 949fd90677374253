"""Check that this Python has this checkout of formcoach and every package that it needs."""

from collections.abc import Sequence
from pathlib import Path

from formcoach.command import command_parser, run
from formcoach.config import PROJECT
from formcoach.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    command_parser(__doc__, "python utils/check_environment.py").parse_args(argv)

    from formcoach.verify import FAIL, check_packages, check_python

    checkout = Path(__file__).resolve().parents[1]
    if checkout != PROJECT:
        raise UserError(f"formcoach comes from {PROJECT}, not from {checkout}; run: bash scripts/setup_env.sh")
    for check in (check_python(), check_packages()):
        print(check)
        if check.mark == FAIL:
            raise UserError(str(check))
    return 0


if __name__ == "__main__":
    run(main)
