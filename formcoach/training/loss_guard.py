"""A loss that is not finite: the training stops and names the samples, or leaves them out.

Nothing is learned from such a step; weights that are not finite would spoil everything after it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from formcoach.errors import UserError
from formcoach.training.answer_loss import no_loss
from formcoach.training.callbacks import RunReport

REMEDY = "lower --lr, or use --dtype bf16 or fp32"
MOST_LOST_STEPS = 5  # in a row with nothing but losses that are not finite: then it is the weights, not the samples
NAMED = 8


class LossGuard:
    """Looks at the losses of an optimizer step, all processes together.

    Args:
        accelerator: accelerate's.
        report: is told what is left out.
        skip: leave samples out instead of stopping.
    """

    def __init__(self, accelerator: Any, report: RunReport, skip: bool) -> None:
        self._accelerator = accelerator
        self._report = report
        self._skip = skip
        self._losses: list[Tensor] = []
        self._ids: list[list[str]] = []  # of the samples in each forward pass of this step
        self._lost_steps = 0
        self.skipped = 0  # samples left out since the start

    def watch(self, loss: Tensor, ids: list[str], model: nn.Module) -> Tensor:
        """Note the loss of a forward pass; return what to learn from: itself, or nothing if it is to be left out."""
        self._losses.append(loss.detach())
        self._ids.append(ids)
        return no_loss(model) if self._skip and not torch.isfinite(loss) else loss

    def check_losses(self, step: int) -> None:
        """Look at the losses of a step after its last forward pass.

        Raises:
            UserError: one is not finite, or, where samples are left out, none is for several steps.
        """
        finite = torch.isfinite(torch.stack(self._losses))
        bad, passes = self._accelerator.reduce(
            torch.stack([(~finite).sum(), finite.new_tensor(len(finite)).long()]), "sum"
        )
        self._lost_steps = self._lost_steps + 1 if bad == passes else 0
        if not bad:
            return
        mine = [name for good, ids in zip(finite.tolist(), self._ids, strict=True) if not good for name in ids]
        ids = self._of_all(mine)
        if not self._skip:
            values = {str(loss.item()) for loss, good in zip(self._losses, finite.tolist(), strict=True) if not good}
            raise UserError(
                f"the loss is {' and '.join(sorted(values)) or 'not finite'} in step {step}, {_named(ids)}; {REMEDY}"
            )
        self.skipped += len(ids)
        self._report.say(f"step {step}: the loss is not finite, left out {_named(ids)} ({self.skipped} so far)")
        if self._lost_steps >= MOST_LOST_STEPS:
            raise UserError(f"no loss was finite in {self._lost_steps} steps in a row, up to step {step}; {REMEDY}")

    def check_gradients(self, norm: float, step: int) -> None:
        """Look at the norm of a step's gradients.

        Raises:
            UserError: it is not finite.
        """
        ids = [name for ids in self._ids for name in ids]
        if not torch.isfinite(torch.as_tensor(norm)):
            raise UserError(f"the gradients are not finite in step {step}, {_named(self._of_all(ids))}; {REMEDY}")

    def check_validation(self, odd: list[str], step: int) -> None:
        """Tell of validation samples whose loss is not finite.

        Args:
            odd: their names, of this process.
            step: after which they were looked at.

        Raises:
            UserError: there are some, and they are not to be left out.
        """
        ids = self._of_all(odd)
        if ids and not self._skip:
            raise UserError(f"the validation loss is not finite after step {step}, {_named(ids)}; {REMEDY}")
        if ids:
            self._report.say(f"step {step}: left out of validation, the loss is not finite: {_named(ids)}")

    def next_step(self) -> None:
        """Forget the step that is done."""
        self._losses, self._ids = [], []

    def _of_all(self, ids: list[str]) -> list[str]:
        """Return the names that all processes have."""
        if self._accelerator.num_processes == 1:
            return ids
        found: list[list[str]] = [[]] * self._accelerator.num_processes
        torch.distributed.all_gather_object(found, ids)
        return [name for names in found for name in names]


def _named(ids: list[str]) -> str:
    more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
    return f"samples {', '.join(ids[:NAMED])}{more}"
