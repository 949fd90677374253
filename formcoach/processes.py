"""The processes of a command: one by default, more with NPROC_PER_NODE and NNODES or under `torchrun`."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from formcoach.command import EXIT_USER_ERROR
from formcoach.errors import UserError

LOST_CONNECTION = ("onnection closed by peer", "onnection reset by peer", "roken pipe")  # of gloo
PATIENCE = 60  # seconds that the other processes wait for the first one's error message
SHORT_PATIENCE = 5  # the same where they work in step
MEETING = 600  # seconds that machines wait for each other, torchrun's own limit


@dataclass(frozen=True)
class Place:
    """Where a process stands among those of the command.

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


@dataclass(frozen=True)
class Wanted:
    """The processes to start.

    Args:
        count: on this machine.
        machines: that take part.
        machine: which of them this is, from 0.
        address: of the first machine, as the others reach it.
        port: a free one there.
    """

    count: int
    machines: int = 1
    machine: int = 0
    address: str = "127.0.0.1"
    port: int = 29500

    @property
    def master(self) -> str:
        """The first machine as an error names it."""
        return f"MASTER_ADDR={self.address} MASTER_PORT={self.port}"


def wanted_processes() -> Wanted | None:
    """Return what NPROC_PER_NODE, NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT ask for.

    Returns:
        None: nothing is to be started, this process does the work.

    Raises:
        UserError: one of them is wrong or missing.
    """
    if "RANK" in os.environ:
        return None
    count = _number("NPROC_PER_NODE", 1, range(1, 1025), "a number of processes; use 1, or the number of GPUs")
    machines = _number("NNODES", 1, range(1, 65536), "a number of machines from 1 up")
    if machines == 1:
        return Wanted(count) if count > 1 else None
    needed = {"MASTER_ADDR": "the first machine's name or address", "NODE_RANK": "this machine's number, from 0"}
    for name, what in needed.items():
        if not os.environ.get(name):
            raise UserError(f"NNODES={machines} needs {name}, {what}; see docs/multi_gpu.md")
    machine = _number("NODE_RANK", 0, range(machines), f"a machine of NNODES={machines}; use 0 to {machines - 1}")
    port = _number("MASTER_PORT", Wanted.port, range(1, 65536), "a port; use a free one from 1024 to 65535")
    return Wanted(count, machines, machine, os.environ["MASTER_ADDR"], port)


def _number(name: str, default: int, accepted: range, what: str) -> int:
    """Return the value of an environment variable; `what` it is to be names it in an error."""
    text = os.environ.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or int(text) not in accepted:
        raise UserError(f"{name}={text} is not {what}")
    return int(text)


def in_processes(work: Callable[[Place], int], script: str, arguments: Sequence[str]) -> int:
    """Do a command's work in as many processes as NPROC_PER_NODE asks for, or in this one, and return the exit code.

    Args:
        work: what each process does.
        script: the command's file, started again for several processes.
        arguments: of the command line.

    Raises:
        UserError: see `wanted_processes` and `run_processes`, or raised by `work`.
    """
    wanted = wanted_processes()
    if wanted is not None:
        return run_processes(wanted, script, arguments)
    interrupt_on_terminate()
    where = place()
    try:
        return work(where)
    except (UserError, KeyboardInterrupt) as error:
        return tell_once(error, where, PATIENCE)


def run_processes(wanted: Wanted, script: str, arguments: Sequence[str]) -> int:
    """Run `script` in several processes through torchrun and return the first failure's exit code, or 0.

    Args:
        wanted: how many, and where.
        script: a file; ``-m``: the first of `arguments` is a module.
        arguments: its command line.

    Raises:
        UserError: another machine cannot be reached or has ended.
    """
    import logging

    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args
    from torch.distributed.run import run as torchrun

    logging.disable(logging.CRITICAL)  # each process reports its own errors
    _wait_for_first_machine(wanted)
    companions = Companions(wanted)
    try:
        with companions:
            torchrun(parse_args([*_torchrun_flags(wanted), script, *arguments]))
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    except SignalException:
        if companions.lost and wanted.machine != 0:  # the first process of all, on the first machine, tells it itself
            raise UserError(f"another machine has ended ({wanted.master}); see what it says") from None
        return EXIT_USER_ERROR
    except DistError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{wanted.master}: the machines do not meet ({reason}); see docs/multi_gpu.md") from None
    return 0


def _wait_for_first_machine(wanted: Wanted) -> None:
    """Wait until the first machine listens; torchrun would do the same, and complain at length.

    Raises:
        UserError: there is no such machine, or it does not answer.
    """
    if wanted.machine == 0:
        if wanted.machines > 1:
            print(f"waiting for the other {wanted.machines - 1} of {wanted.machines} machines", flush=True)
        return
    end = time.monotonic() + MEETING
    while not _listens(wanted):
        if time.monotonic() > end:
            raise UserError(f"{wanted.master}: does not answer; start the command with NODE_RANK=0 there first")
        time.sleep(Companions.INTERVAL)


def _listens(wanted: Wanted) -> bool:
    """Tell whether the first machine's torchrun is there.

    Raises:
        UserError: the machine's name is unknown.
    """
    try:
        socket.create_connection((wanted.address, wanted.port), timeout=5).close()
    except socket.gaierror:
        raise UserError(f"MASTER_ADDR={wanted.address}: no such machine; use a name or an address") from None
    except OSError:
        return False
    return True


def _torchrun_flags(wanted: Wanted) -> list[str]:
    count = ["--nproc_per_node", str(wanted.count)]
    if wanted.machines == 1:
        return ["--standalone", *count]
    meeting = ["--master_addr", wanted.address, "--master_port", str(wanted.port)]
    return [*count, "--nnodes", str(wanted.machines), "--node_rank", str(wanted.machine), *meeting]


class Companions:
    """Keeps the machines of a command together: none outlives another's failure, and none leaves too early.

    torchrun itself learns of another machine's end only where a network connection breaks, and NCCL's may take ten
    minutes. Its first machine keeps a store that the others read. Each machine notes there that it has failed, and
    that it leaves; the first one stays until the others have left, as torchrun's own farewell needs the store.

    Args:
        wanted: the processes; with one machine, nothing is done.
    """

    INTERVAL = 1.0  # seconds between two looks
    FAREWELL = 5.0  # seconds that the first machine waits for the others at the end
    FAILED, LEFT = "formcoach/failed", "formcoach/left"

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._store: Any = None
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self.lost = False  # whether another machine has ended

    def __enter__(self) -> None:
        if self._wanted.machines == 1:
            return
        if self._wanted.machine == 0:
            self._store = self._open(is_master=True)
        self._watcher.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._wanted.machines == 1:
            return
        self._done.set()
        self._watcher.join(timeout=self.FAREWELL)
        with suppress(RuntimeError, UserError):
            if self._store is None:  # a quick end
                if not _listens(self._wanted):
                    return
                self._store = self._open(is_master=False)
            if kind is not None and not self.lost:
                self._store.set(self.FAILED, "1")
            left = self._store.add(self.LEFT, 1)
            end = time.monotonic() + self.FAREWELL
            while self._wanted.machine == 0 and left < self._wanted.machines and time.monotonic() < end:
                time.sleep(self.INTERVAL / 20)
                left = self._store.add(self.LEFT, 0)

    def _watch(self) -> None:
        if not self._connect():
            return
        while not self._done.wait(self.INTERVAL):
            if self._others_live():
                continue
            if self._done.wait(2 * self.INTERVAL):  # the first machine was only quicker in coming to the regular end
                return
            self.lost = True
            os.kill(os.getpid(), signal.SIGTERM)  # torchrun ends its processes then
            return

    def _connect(self) -> bool:
        """Wait for the store; torchrun itself tells if it never comes."""
        while self._store is None and not self._done.wait(self.INTERVAL):
            if _listens(self._wanted):
                with suppress(RuntimeError):
                    self._store = self._open(is_master=False)
        return self._store is not None

    def _open(self, *, is_master: bool) -> Any:
        """Return torchrun's store; the one of the first machine is also a tenant of the server, which lives with it."""
        from torch.distributed import TCPStore

        return TCPStore(
            self._wanted.address,
            self._wanted.port,
            is_master=is_master,
            wait_for_workers=False,
            timeout=timedelta(seconds=10),
            multi_tenant=True,
        )

    def _others_live(self) -> bool:
        try:
            return not self._store.check([self.FAILED])
        except RuntimeError:
            return False


def is_lost_connection(error: RuntimeError) -> bool:
    """Tell whether an error only says that another process has ended; that one tells why."""
    return any(text in str(error) for text in LOST_CONNECTION)


def interrupt_on_terminate() -> None:
    """Let SIGTERM end the command as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def tell_once(error: UserError | KeyboardInterrupt, where: Place, patience: float) -> int:
    """Let the first process of each machine tell an error that all may have found; an interrupt, the first of all.

    Args:
        error: what ended this process.
        where: this process.
        patience: seconds that the others wait for the first one.

    Returns:
        The exit code of a process that has nothing to tell.
    """
    if where.rank == 0 or (where.local_rank == 0 and isinstance(error, UserError)):
        raise error
    if isinstance(error, UserError) and not _first_process_tells(patience):
        raise error
    return EXIT_USER_ERROR


def leave_group() -> None:
    """Leave the process group, if there is one."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _first_process_tells(patience: float) -> bool:
    """Wait for the first process to report an error that all have found; it ends the others, quietly.

    Args:
        patience: seconds.

    Returns:
        False if it has not done so: then the error is this process's own.
    """
    try:
        time.sleep(patience)
    except KeyboardInterrupt:
        return True
    return False
