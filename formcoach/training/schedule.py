"""The three learning rates: which parameters have which, and how they change over the steps."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

VISION, CONNECTOR, LANGUAGE = "vit", "connector", "llm"
PARTS = (LANGUAGE, CONNECTOR, VISION)


@dataclass(frozen=True)
class LearningRates:
    """Peak learning rates and their course.

    Args:
        peaks: of each of `PARTS`.
        minimum: at the end.
        warmup_ratio: share of the steps in which they rise.
    """

    peaks: dict[str, float]
    minimum: float
    warmup_ratio: float


def part_of(name: str, family: Any) -> str:
    """Return which of `PARTS` the parameter `name` belongs to.

    Args:
        name: as `named_parameters` gives it; PEFT puts its own prefixes in front.
        family: a `formcoach.models.family.Family`.
    """
    if f"{family.vision}." in name:
        return VISION
    return CONNECTOR if f"{family.connector}." in name else LANGUAGE


def parameter_groups(
    model: nn.Module, family: Any, rates: LearningRates, weight_decay: float, decayed: Sequence[str]
) -> list[dict[str, Any]]:
    """Sort the trained parameters into AdamW's groups, by part and by whether their weights decay.

    Args:
        model: with `requires_grad` on what is trained.
        family: tells vision tower, connector and language model apart.
        rates: the peak learning rate of each part.
        weight_decay: of the parameters named in `decayed`.
        decayed: names of all parameters that weight decay applies to.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {
        (part, decay): [] for part in PARTS for decay in (True, False)
    }
    with_decay = set(decayed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[part_of(name, family), name in with_decay].append(parameter)
    return [
        {"params": parameters, "part": part, "lr": rates.peaks[part], "weight_decay": weight_decay if decay else 0.0}
        for (part, decay), parameters in groups.items()
        if parameters  # DeepSpeed cannot flatten an empty group
    ]


def scheduler(optimizer: Optimizer, rates: LearningRates, steps: int) -> LambdaLR:
    """Return linear warm-up, then a cosine from each group's peak down to the common minimum.

    With w warm-up steps of n, step t (from 0) has `peak * (t + 1) / w` while t < w, and after that
    `minimum + (peak - minimum) * (1 + cos(pi * (t - w) / (n - w))) / 2`, the course of the public recipe. No step has
    a rate of 0, which would waste it.
    """
    warmup = math.ceil(rates.warmup_ratio * steps)
    return LambdaLR(optimizer, [_factor(group["lr"], rates.minimum, warmup, steps) for group in optimizer.param_groups])


def resume_schedule(schedule: LambdaLR, saved: dict[str, Any]) -> None:
    """Let a schedule go on where another one was; its own rates and steps hold, should they have been changed.

    Args:
        schedule: from `scheduler`.
        saved: `state_dict` of the one before.
    """
    step = saved["last_epoch"]
    rates = [base * factor(step) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    schedule.load_state_dict({**saved, "base_lrs": schedule.base_lrs, "_last_lr": rates})
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _factor(peak: float, minimum: float, warmup: int, steps: int) -> Callable[[int], float]:
    lowest = minimum / peak

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        share = min((step - warmup) / max(steps - warmup, 1), 1.0)
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * share)) / 2

    return factor
