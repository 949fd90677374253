"""First stage of pretraining: the vision tower learns to see poses."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from formcoach.command import progress
from formcoach.data.demo_descriptions import DescribedTake, attributes, described_take
from formcoach.data.demo_motion import JOINTS
from formcoach.models.internvideo.modeling import InternVideoForConditionalGeneration
from formcoach.models.internvideo.processor import InternVideoProcessor
from formcoach.pretraining.clips import FRAMES, SIDE, Drawn, mirror
from formcoach.pretraining.stages import POSE_BATCH, Pretraining, make_optimizer, report, take_step


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


def read_poses(
    tower: nn.Module, drawn: Drawn, held_out: Drawn, processor: InternVideoProcessor, plan: Pretraining
) -> None:
    """First stage: the vision tower learns to see poses, in mirrored and recoloured frames too."""
    torch.manual_seed(plan.seed + 1)
    reader = PoseReader(tower.config.hidden_size, SIDE // 14)
    optimizer, schedule = make_optimizer([tower, reader], plan.lr, plan.pose_steps)
    frames, joints, poses = drawn.frames.flatten(0, 1), drawn.joints.flatten(0, 1), drawn.poses.flatten(0, 1)
    begin = time.monotonic()
    for step in range(1, plan.pose_steps + 1):
        chosen = torch.randint(len(frames), (POSE_BATCH,))
        pixels, where, pose = processor.pixel_values(frames[chosen].numpy()), joints[chosen], poses[chosen]
        if step % 2:
            pixels, where, pose = pixels.flip(-1), mirror(where, 1.0), mirror(pose, 0.0)
        pixels = pixels * (1 + 0.2 * torch.randn(len(chosen), 3, 1, 1)) + 0.2 * torch.randn(len(chosen), 3, 1, 1)
        found, read = reader(_patches(tower, pixels))
        loss = nn.functional.smooth_l1_loss(found, where, beta=0.02)
        loss = loss + nn.functional.smooth_l1_loss(read, pose.unsqueeze(1).expand_as(read), beta=0.05)
        take_step(loss, optimizer, schedule, [tower, reader])
        report("poses", step, plan.pose_steps, loss, begin)
    with torch.inference_mode():
        errors = []
        for clip, truth in zip(held_out.frames, held_out.poses, strict=True):
            _, read = reader(_patches(tower, processor.pixel_values(clip.numpy())))
            errors.append((read.mean(dim=1) - truth).norm(dim=-1).mean())
        print(f"held-out people: joints {100 * torch.stack(errors).mean():.1f} cm off")


def _patches(tower: nn.Module, pixels: Tensor) -> Tensor:
    """Return the vision tower's patches, without its class token: (frames, patches, channels) float32."""
    with torch.autocast("cpu", torch.bfloat16):
        return tower(pixels).last_hidden_state[:, 1:].float()


@dataclass(frozen=True)
class Seen:
    """Clips after the vision tower, which the later stages leave as it is.

    Attributes:
        samples: the clips.
        tokens: (2, clips, FRAMES * 16, channels) what the connector gets: of each clip and of its mirror image.
        attributes: (clips, 6) what their descriptions say.
    """

    samples: list[DescribedTake]
    tokens: Tensor
    attributes: Tensor

    def pick(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the numbers (count) of random clips, and the tokens of them or of their mirror images."""
        chosen, side = torch.randint(len(self.samples), (count,)), torch.randint(2, (count,))
        return chosen, self.tokens[side, chosen].clone().float()  # normal tensors of what inference mode made


@torch.inference_mode()
def see(model: InternVideoForConditionalGeneration, drawn: Drawn, processor: InternVideoProcessor, seed: int) -> Seen:
    """Run the vision tower on clips and on their mirror images."""
    samples = [described_take(seed, number) for number in drawn.samples]
    truth = torch.tensor([attributes(sample.take.exercise, sample.take.style) for sample in samples])
    count = FRAMES * model.config.tokens_per_frame
    tokens = torch.empty(2, len(samples), count, 4 * model.config.vision_config.hidden_size, dtype=torch.bfloat16)
    for number, clip in enumerate(progress(drawn.frames, len(samples), "clips seen")):
        pixels = processor.pixel_values(clip.numpy())
        with torch.autocast("cpu", torch.bfloat16):
            both = model.model.merge_frames(torch.cat([pixels, pixels.flip(-1)]))
        tokens[:, number] = both.reshape(2, count, -1)
    return Seen(samples, tokens, truth)
