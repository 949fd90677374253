"""The processes of a training: one by default, more with NPROC_PER_NODE or under `torchrun`."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from formcoach.command import EXIT_USER_ERROR
from formcoach.errors import UserError

PATIENCE = 60  # seconds that the other processes wait for the first one's error message


@dataclass(frozen=True)
class Place:
    """Where a process stands among those of the training.

    Args:
        rank: its number, from 0.
        local_rank: its number on this machine, from 0.
        count: all processes.
        local_count: those on this machine.
    """

    rank: int = 0
    local_rank: int = 0
    count: int = 1
    local_count: int = 1


def place() -> Place:
    """Return where this process stands; `torchrun` sets the environment variables."""
    environment = os.environ
    if "RANK" not in environment:
        return Place()
    count = int(environment["WORLD_SIZE"])
    return Place(
        int(environment["RANK"]),
        int(environment.get("LOCAL_RANK", "0")),
        count,
        int(environment.get("LOCAL_WORLD_SIZE", count)),
    )


def wanted_processes() -> int:
    """Return how many processes NPROC_PER_NODE asks for; 1 inside one that is already started.

    Raises:
        UserError: it is not a number.
    """
    text = os.environ.get("NPROC_PER_NODE", "1")
    if "RANK" in os.environ:
        return 1
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"NPROC_PER_NODE={text} is not a number of processes; use 1, or the number of GPUs")
    return int(text)


def run_processes(count: int, script: str, arguments: Sequence[str]) -> int:
    """Run `script` in `count` processes through torchrun and return the first failure's exit code, or 0."""
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args
    from torch.distributed.run import run as torchrun

    logging.disable(logging.CRITICAL)  # each process reports its own errors
    try:
        torchrun(parse_args(["--standalone", "--nproc_per_node", str(count), script, *arguments]))
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    except SignalException:
        return EXIT_USER_ERROR
    return 0


def interrupt_on_terminate() -> None:
    """Let SIGTERM end the training as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def first_process_tells() -> bool:
    """Wait for the first process to report an error that all have found; it ends the others, quietly.

    Returns:
        False if it has not done so: then the error is this process's own.
    """
    try:
        time.sleep(PATIENCE)
    except KeyboardInterrupt:
        return True
    return False


def name_accelerator(cuda: bool) -> None:
    """Tell DeepSpeed what it computes on; other libraries import it too, and it would look around and warn."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if cuda else "cpu")


def prepare_deepspeed(where: Place, cuda: bool) -> None:
    """Make the process ready for DeepSpeed without its own launcher, MPI or a free port.

    Args:
        where: this process; a single one talks to nobody, so it needs no address.
        cuda: whether it has a GPU.
    """
    if where.count == 1:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ.update(alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    import deepspeed.ops
    import torch

    if not cuda:
        # DeepSpeed would compile a shared-memory all-reduce for CPUs at the first start: half a minute and a C++
        # compiler for something that one process does not need and gloo does as well. Its `ops` module keeps what is
        # available in this attribute and says that edits of it persist.
        deepspeed.ops.__compatible_ops__ = {}
    if where.count == 1:
        backend = "nccl" if cuda else "gloo"
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)


def leave_group() -> None:
    """Leave the process group, if there is one."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
