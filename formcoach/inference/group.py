"""Processes that answer a test set together, a share of the clips each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from formcoach.errors import UserError
from formcoach.processes import Place, is_lost_connection, leave_group

Item = TypeVar("Item")

_LONGEST = timedelta(days=30)  # that processes wait for the one with the longest share


@dataclass(frozen=True)
class Group:
    """A process among those that work together.

    Args:
        rank: its number, from 0.
        count: of processes.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that speaks, and that writes what is not a share."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return the process's share of `items`."""
        return items[self.rank :: self.count]

    def meet(self) -> None:
        """Wait until all processes have come here.

        Raises:
            UserError: one of them has ended.
        """
        if self.count == 1:
            return
        import torch

        try:
            torch.distributed.barrier()
        except RuntimeError as error:
            if not is_lost_connection(error):
                raise
            raise UserError("another process has ended, see what it says; run this again to go on") from None


ALONE = Group()


@contextmanager
def group_of(where: Place) -> Iterator[Group]:
    """Let the processes of a command meet, as long as the context lasts.

    Raises:
        UserError: they are on several machines.
    """
    if where.count == 1:
        yield ALONE
        return
    if where.local_count != where.count:
        raise UserError("a test set is answered on one machine: use NPROC_PER_NODE, without NNODES")
    import torch

    torch.distributed.init_process_group("gloo", timeout=_LONGEST)
    try:
        yield Group(where.rank, where.count)
    finally:
        leave_group()


def device_of(named: str, where: Place) -> str:
    """Return the device of a process: with several on GPUs, each has one of its own.

    Args:
        named: by the user, ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        where: this process.

    Raises:
        UserError: there are more processes than GPUs, or one GPU is named for all.
    """
    if where.local_count == 1 or named == "cpu":
        return named
    if named not in ("auto", "cuda"):
        raise UserError(f"--device {named} is one device for {where.local_count} processes; leave it out or use cuda")
    import torch

    if not torch.cuda.is_available():
        return named
    if where.local_count > torch.cuda.device_count():
        raise UserError(
            f"{where.local_count} processes need a GPU each, and there are {torch.cuda.device_count()}; start fewer"
        )
    return f"cuda:{where.local_rank}"
