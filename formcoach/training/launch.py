"""The trainer's command line."""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from formcoach import processes
from formcoach.command import command_parser, importing
from formcoach.config import PROJECT
from formcoach.errors import UserError
from formcoach.training.flags import add_training_flags, refuse_model_parallelism

if TYPE_CHECKING:
    from formcoach.training.plan import Plan
    from formcoach.training.run import Prepared

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
    args = parse_flags(arguments)
    wanted = processes.wanted_processes()
    if wanted is not None:
        return processes.run_processes(wanted, str(SCRIPT), arguments)
    processes.interrupt_on_terminate()
    place = processes.place()
    try:
        prepared = _prepare(args, place, began)
    except (UserError, KeyboardInterrupt) as error:
        return processes.tell_once(error, place, processes.PATIENCE)
    if prepared is not None:
        from formcoach.training.run import train

        try:
            train(prepared)
        except UserError as error:
            return processes.tell_once(error, place, processes.SHORT_PATIENCE)
    return 0


def parse_flags(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the parsed command line; a mistake in it ends the process.

    Raises:
        UserError: a flag asks for what is not available.
    """
    parser = command_parser(DESCRIPTION, EXAMPLE)
    add_training_flags(parser)
    args = parser.parse_args(arguments)
    refuse_model_parallelism(args)
    return args


def plan_training(args: argparse.Namespace, place: processes.Place, began: float) -> "Plan | None":
    """Return the training that the command line asks for; None if there is none, which has been told.

    Args:
        args: from `parse_flags`.
        place: this process.
        began: `time.monotonic` when the command started.

    Raises:
        UserError: a flag, a file or a clip is wrong.
    """
    with importing():
        from formcoach.models import family_of
        from formcoach.training.plan import is_finished, make_plan
        from formcoach.training.run_directory import finish

    if args.dry_run:
        from formcoach.training.dry_run import tell

        args.dset_cache_dir = None  # nothing is written
        return tell(make_plan(args, place, began))
    plan = make_plan(args, place, began)
    if not is_finished(plan):
        return plan
    if place.rank == 0:
        finish(plan.resume.folder.parent, family_of(plan.config.model).runs.last)
        print(f"{plan.resume.folder} is the end of this run: nothing is left to train")
    return None


def _prepare(args: argparse.Namespace, place: processes.Place, began: float) -> "Prepared | None":
    """Return what is to be trained; None if there is nothing to train."""
    plan = plan_training(args, place, began)
    if plan is None:
        return None
    with importing():
        from formcoach.training.out_of_memory import told_if_out_of_memory
        from formcoach.training.run import prepare

    with told_if_out_of_memory(plan):
        return prepare(plan)
