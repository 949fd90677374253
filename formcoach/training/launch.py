"""The trainer's command line."""

import sys
import time
from collections.abc import Sequence

from formcoach.command import EXIT_USER_ERROR, command_parser
from formcoach.config import PROJECT, add_training_flags, refuse_missing_features
from formcoach.errors import UserError
from formcoach.training import processes

DESCRIPTION = "Fine-tune a video language model with LoRA on exercise clips (flag names of the InternVideo2.5 recipe)."
EXAMPLE = "python unify_internvl2_train_r16.py --model tiny --datasets data/diy_ft_data.json --freeze-vit --epochs 3"
SCRIPT = PROJECT / "unify_internvl2_train_r16.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Train, in as many processes as asked for.

    Raises:
        UserError: something that the user can put right, found before anything is written wherever possible.
    """
    began = time.monotonic()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = command_parser(DESCRIPTION, EXAMPLE)
    add_training_flags(parser)
    args = parser.parse_args(arguments)
    refuse_missing_features(args)
    count = processes.wanted_processes()
    if count > 1:
        return processes.run_processes(count, str(SCRIPT), arguments)
    processes.interrupt_on_terminate()
    place = processes.place()
    from formcoach.training.plan import make_plan
    from formcoach.training.run import train

    try:
        plan = make_plan(args, place, began)
    except UserError:
        if place.rank == 0:
            raise
        return EXIT_USER_ERROR  # all processes find the same; the first one tells it
    return train(plan)
