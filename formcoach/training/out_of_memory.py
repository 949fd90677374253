"""A training that runs out of memory ends with one line: what was missing where, and which settings should fit."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from formcoach.errors import UserError
from formcoach.models import sizes_for
from formcoach.training import run_directory
from formcoach.training.advice import advice, least_memory
from formcoach.training.available_memory import Available, available_memory
from formcoach.training.memory import GB, estimate
from formcoach.training.plan import Plan
from formcoach.training.planned_memory import planned_work
from formcoach.training.workload import Workload

# In what PyTorch, CUDA's libraries and the operating system raise, none of which has a type of its own but CUDA's.
SIGNS = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator",
    "std::bad_alloc",
    "annot allocate memory",
)
AMOUNT = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|[KMG]iB)")
UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
BETTER = 0.9  # of what was estimated and did not fit: so much may be estimated for what is advised


@contextmanager
def told_if_out_of_memory(plan: Plan, work: Workload | None = None) -> Iterator[None]:
    """Turn the many ways to run out of memory into one line.

    Args:
        plan: the training.
        work: what its memory depends on; None: the lengths of its samples are not known yet.

    Raises:
        UserError: the block ran out of memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(_line(error, plan, work)) from error


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory was missing; errors of loaders' worker processes arrive as text."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return any(sign in str(error) for sign in SIGNS)


def _line(error: Exception, plan: Plan, work: Workload | None) -> str:
    """Return what was missing where, and what should fit."""
    there = available_memory(plan.place, plan.cuda)
    again = " (with --resume, --force too)" if run_directory.checkpoints(plan.run) else ""
    return (
        f"out of memory: {_missing(error)} in {there.where}, where this training can have {there.memory / GB:.1f} GB; "
        f"{_advice(plan, work, there)}{again}"
    )


def _advice(plan: Plan, work: Workload | None, there: Available) -> str:
    """Return what to change: to less than what there is, and to less than what was tried."""
    sizes = sizes_for(plan.config.model)
    loading = work is None
    work = work or planned_work(plan, sizes, None)
    tried = estimate(sizes, work)
    limit = min(there.memory, BETTER * (tried.loading if loading else tried.total))
    if limit < least_memory(sizes, work) <= there.memory:
        return f"it was estimated at {tried.total / GB:.1f} GB, and no setting takes much less"
    return advice(sizes, work, limit, there.host)


def _missing(error: Exception) -> str:
    found = AMOUNT.search(str(error))
    if found is None:
        return "no more was to be had"
    return f"{float(found[1]) * UNITS[found[2]] / GB:.2f} GB more were not to be had"
