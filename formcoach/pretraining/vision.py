"""First stage of pretraining: the vision tower learns to see poses."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from formcoach.command import progress
from formcoach.data.demo_descriptions import DescribedTake, attributes, described_take
from formcoach.data.demo_motion import JOINTS
from formcoach.pretraining.clips import Drawn, mirror
from formcoach.pretraining.stages import POSE_BATCH, Pretraining, make_optimizer, report, take_step
from formcoach.pretraining.system import TinySystem

SEEN_TOGETHER = 8  # clips


class PoseReader(nn.Module):
    """Reads poses off the vision tower's patches.

    The joints in the picture come from an attention map and an offset for each; the pose in space from single patches,
    so that each learns what the whole body does: after merging, any token tells it.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.where = nn.Linear(channels, len(JOINTS))
        self.offset = nn.Linear(channels, 2 * len(JOINTS))
        self.pose = nn.Linear(channels, 3 * len(JOINTS))
        centres = (torch.arange(side) + 0.5) / side
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        self.register_buffer("centres", torch.stack((columns, rows), dim=-1).reshape(-1, 1, 2))  # (patches, 1, 2)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return joints (frames, 17, 2) as shares of the picture and poses (frames, patches / 4, 17, 3) in metres."""
        weight = self.where(patches).softmax(dim=1).unsqueeze(-1)  # (frames, patches, 17, 1)
        offset = self.offset(patches).unflatten(-1, (-1, 2))  # (frames, patches, 17, 2)
        joints = (weight * (self.centres + offset)).sum(dim=1)
        some = torch.randperm(patches.shape[1])[: patches.shape[1] // 4]
        return joints, self.pose(patches[:, some]).unflatten(-1, (-1, 3))


def read_poses(system: TinySystem, drawn: Drawn, held_out: Drawn, plan: Pretraining) -> None:
    """First stage: the vision tower learns to see poses, in mirrored and recoloured frames too."""
    torch.manual_seed(plan.seed + 1)
    frames, poses = drawn.frames.flatten(0, 1), drawn.poses.flatten(0, 1)
    joints = system.in_view(drawn.joints).flatten(0, 1)
    _, patches, channels = system.patches(system.pixels(frames[: system.frames])).shape
    reader = PoseReader(channels, math.isqrt(patches))
    trained = [system.tower, reader]
    optimizer, schedule = make_optimizer(trained, plan.lr, plan.pose_steps)
    begin = time.monotonic()
    for step in range(1, plan.pose_steps + 1):
        chosen = torch.randint(len(frames), (POSE_BATCH,))
        pixels, where, pose = system.pixels(frames[chosen]), joints[chosen], poses[chosen]
        if step % 2:
            pixels, where, pose = pixels.flip(-1), mirror(where, 1.0), mirror(pose, 0.0)
        pixels = pixels * (1 + 0.2 * torch.randn(len(chosen), 3, 1, 1)) + 0.2 * torch.randn(len(chosen), 3, 1, 1)
        found, read = reader(system.patches(pixels))
        loss = nn.functional.smooth_l1_loss(found, where, beta=0.02)
        loss = loss + nn.functional.smooth_l1_loss(read, pose.unsqueeze(1).expand_as(read), beta=0.05)
        take_step(loss, optimizer, schedule, trained)
        report("poses", step, plan.pose_steps, loss, begin)
    with torch.inference_mode():
        errors = []
        for clip, truth in zip(held_out.frames, held_out.poses, strict=True):
            _, read = reader(system.patches(system.pixels(clip)))
            errors.append((read.mean(dim=1) - truth).norm(dim=-1).mean())
        print(f"held-out people: joints {100 * torch.stack(errors).mean():.1f} cm off")


@dataclass(frozen=True)
class Seen:
    """Clips after the vision tower, which the later stages leave as it is.

    Attributes:
        samples: the clips.
        features: what the connector gets, (2, clips, ...) each: of the clips and of their mirror images.
        attributes: (clips, 6) what their descriptions say.
    """

    samples: list[DescribedTake]
    features: dict[str, Tensor]
    attributes: Tensor

    def pick(self, count: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the numbers (count) of random clips, and the features of them or of their mirror images."""
        chosen, side = torch.randint(len(self.samples), (count,)), torch.randint(2, (count,))
        # Normal tensors of what inference mode made.
        return chosen, {name: part[side, chosen].clone().float() for name, part in self.features.items()}

    def all(self) -> dict[str, Tensor]:
        """Return the features of all clips as they are."""
        return {name: part[0].float() for name, part in self.features.items()}


@torch.inference_mode()
def see(system: TinySystem, drawn: Drawn, seed: int) -> Seen:
    """Run the vision tower on clips and on their mirror images."""
    samples = [described_take(seed, number) for number in drawn.samples]
    truth = torch.tensor([attributes(sample.take.exercise, sample.take.style) for sample in samples])
    features: dict[str, Tensor] = {}
    portions = torch.arange(len(samples)).split(SEEN_TOGETHER)
    for places in progress(portions, len(portions), f"portions of {SEEN_TOGETHER} clips seen"):
        for name, part in system.features(drawn.frames[places].numpy()).items():
            if name not in features:
                features[name] = torch.empty(2, len(samples), *part.shape[2:], dtype=torch.bfloat16)
            features[name][:, places] = part.to(torch.bfloat16)
    return Seen(samples, features, truth)
