"""What the stages of pretraining share: how long each is, its optimizer and its steps."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

POSE_BATCH = 96  # frames
ATTRIBUTE_BATCH = 32  # clips
BATCH = 16  # clips
ROWS = 32  # of words


@dataclass(frozen=True)
class Pretraining:
    """How long and from which random stream.

    Args:
        clips: clips that are drawn.
        pose_steps: steps of the first stage, `POSE_BATCH` frames each.
        attribute_steps: steps of the second stage, `ATTRIBUTE_BATCH` clips each.
        word_steps: steps of the third stage, `ROWS` rows of words each.
        steps: steps of the fourth stage, `BATCH` clips and a quarter of `ROWS` each.
        motion_steps: steps of what sees whole clips, where there is such a tower; they follow the first stage.
        checked: held-out clips on which each stage is checked.
        seed: of weights and samples.
        lr: peak learning rate of all stages.
    """

    clips: int
    pose_steps: int
    attribute_steps: int
    word_steps: int
    steps: int
    motion_steps: int = 0
    checked: int = 240
    seed: int = 0
    lr: float = 1.2e-3


def make_optimizer(modules: list[nn.Module], lr: float, steps: int) -> tuple[Optimizer, LRScheduler]:
    """Return AdamW over the modules' weights with 100 steps of warm-up and a cosine down to 3 % of `lr`."""
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.02, betas=(0.9, 0.98), fused=True)

    def scale(step: int) -> float:
        return min(1.0, (step + 1) / 100) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, scale)


def take_step(loss: Tensor, optimizer: Optimizer, schedule: LRScheduler, modules: list[nn.Module]) -> None:
    """Take an optimizer step down the gradient of `loss`, whose norm is cut to 1."""
    loss.backward()
    nn.utils.clip_grad_norm_([p for module in modules for p in module.parameters()], 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()


def report(stage: str, step: int, steps: int, loss: Tensor, begin: float) -> None:
    """Print the loss every 50 steps; `begin` is the monotonic second at which the stage began."""
    if step % 50 == 0:
        print(f"{stage} {step}/{steps}: loss {loss:.4f}, {time.monotonic() - begin:.0f} s", flush=True)
