"""What memory a planned training takes by the estimate, part by part, and whether there is as much."""

from collections.abc import Mapping

from formcoach.data.dataset import Sample
from formcoach.models import sizes_for
from formcoach.training.advice import advice
from formcoach.training.available_memory import Available, available_memory
from formcoach.training.lengths import Length
from formcoach.training.memory import GB, Estimate, estimate
from formcoach.training.plan import Plan
from formcoach.training.planned_memory import planned_work

PARTS = ("weights", "adapter", "gradients", "optimizer", "activations", "overhead")


def memory_report(plan: Plan, lengths: Mapping[Sample, Length]) -> list[str]:
    """Return the lines, with advice if the training does not fit.

    Args:
        plan: the training.
        lengths: of its training samples.
    """
    sizes = sizes_for(plan.config.model)
    work = planned_work(plan, sizes, lengths)
    estimated, there = estimate(sizes, work), available_memory(plan.place, plan.cuda)
    lines = ["memory of each process, estimated" if plan.place.count > 1 else "memory, estimated"]
    lines += [_row(name, vars(estimated)[name]) for name in PARTS]
    lines.append(_row("peak", estimated.total))
    if estimated.host:
        lines.append(_row("offloaded", estimated.host) + f" of the computer's {there.host / GB:.1f} GB")
    lines.append(_row("there is", there.memory) + f" in {there.where}")
    if not _fits(estimated, there):
        lines.append(f"warning: does not fit; {advice(sizes, work, there.memory, there.host)}")
    return lines


def _fits(estimated: Estimate, there: Available) -> bool:
    return estimated.total <= there.memory and estimated.host <= there.host


def _row(name: str, count: float) -> str:
    amount = f"{count / GB:,.2f} GB" if count >= GB / 10 else f"{count / 1e6:,.1f} MB"
    return f"  {name:<15}  {amount:>11}"
