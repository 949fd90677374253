"""The command that asks a model about clips; it has two names, one for each family's guide."""

from collections.abc import Sequence

from formcoach.command import command_parser
from formcoach.inference.options import add_clip_flags, add_model_flags


def infer(argv: Sequence[str] | None, description: str, examples: Sequence[str]) -> int:
    """Ask a model about clips and print its answers.

    Args:
        argv: the arguments; None: those of this process.
        description: of the command, for its help.
        examples: of its use, likewise.
    """
    parser = command_parser(description, "\n  ".join(examples))
    add_model_flags(parser, "the newest run")
    add_clip_flags(parser, "clips to ask about", required=True)
    args = parser.parse_args(argv)

    from formcoach.inference.asking import ask
    from formcoach.inference.runs import newest_run

    ask(args, newest_run)
    return 0
