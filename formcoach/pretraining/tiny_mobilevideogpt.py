"""The packaged small Mobile-VideoGPT."""

import math
import time

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from formcoach.config import Recipe
from formcoach.data.demo import FPS
from formcoach.data.demo_motion import JOINTS
from formcoach.data.demo_picture import Take
from formcoach.models.mobilevideogpt.checkpoint import settings_from
from formcoach.models.mobilevideogpt.configuration import MobileVideoGPTConfig
from formcoach.models.mobilevideogpt.modeling import MobileVideoGPTForConditionalGeneration
from formcoach.models.mobilevideogpt.processor import CONTROL_TOKENS, IMAGE_TOKEN, MobileVideoGPTProcessor
from formcoach.models.mobilevideogpt.videomamba import DIRECTIONS, VideoMamba
from formcoach.pretraining.clips import Drawn
from formcoach.pretraining.stages import Pretraining, make_optimizer, report, take_step
from formcoach.pretraining.system import TinySystem, both_sides
from formcoach.pretraining.tiny import SYSTEM_MESSAGE, initialise, language_sizes

SIDE = 128
WIDE = SIDE * 4 // 3  # of a drawn frame that is as high as the model's pictures
MOTION_BATCH = 8  # clips
STEP_SIZES = (1e-3, 0.1)  # of Mamba's scan before training


class TinyMobileVideoGPT(TinySystem):
    """128 x 128 pixels, 64 patches a frame in either tower, 288 visual tokens of a clip."""

    picture = (WIDE, SIDE)
    recipe = Recipe(
        epochs=8,
        micro_batch_size=8,
        global_batch_size=8,
        lr=4e-3,
        connector_lr=1e-4,
        max_length=2048,
        max_length_of="text",
        pack_max_length=4096,
        min_frames=16,
        max_frames=16,
        selective_recompute=0.0,
        cpu_dtype="auto",
    )

    plan = Pretraining(
        clips=6000, pose_steps=4000, motion_steps=100, attribute_steps=1000, word_steps=800, steps=1400, checked=200
    )

    @classmethod
    def tokens(cls) -> tuple[str, ...]:
        """See `TinySystem`."""
        return CONTROL_TOKENS

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = MobileVideoGPTForConditionalGeneration(_config(tokenizer))
        self.processor = MobileVideoGPTProcessor(tokenizer, settings_from(self.model.config, SYSTEM_MESSAGE))

    @property
    def tower(self) -> nn.Module:
        """See `TinySystem`."""
        return self.model.model.vision_tower.image

    def frame_times(self, take: Take) -> np.ndarray:
        """See `TinySystem`."""
        return np.array(self.processor.select_frames(round(take.duration * FPS), FPS)) / FPS

    def pixels(self, frames: Tensor) -> Tensor:
        """See `TinySystem`."""
        return self._view(frames, 1)

    def in_view(self, joints: Tensor) -> Tensor:
        """See `TinySystem`; the image tower sees the middle of a frame."""
        across = (joints[..., 0] * WIDE - (WIDE - SIDE) // 2) / SIDE
        return torch.stack([across, joints[..., 1]], dim=-1)

    def patches(self, pixels: Tensor) -> Tensor:
        """See `TinySystem`."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.model.model.vision_tower.see_images(pixels[None])[0].float()

    def learn_motion(self, drawn: Drawn, held_out: Drawn, plan: Pretraining) -> None:
        """The video tower learns to see the poses of a clip's frames."""
        torch.manual_seed(plan.seed + 5)
        towers = self.model.model.vision_tower
        _initialise_scans(towers.video)
        reader = nn.Linear(towers.video.sizes.width, 3 * len(JOINTS))
        trained = [towers.video, reader]
        optimizer, schedule = make_optimizer(trained, plan.lr, plan.motion_steps)
        chunks = torch.arange(0, self.frames, towers.config.chunk)[:, None]

        def off(clips: Tensor, source: Drawn) -> Tensor:
            """Return how far the poses that are read are off: (frames, tokens, 17, 3) metres."""
            some = torch.rand(len(chunks), towers.config.chunk).argsort(dim=1)[:, : towers.config.selected]
            places = (some.sort(dim=1).values + chunks).flatten()
            frames = source.frames[clips[:, None], places]  # (clips, selected, height, width, 3)
            pixels = self._view(frames.flatten(0, 1), 0).unflatten(0, frames.shape[:2])
            read = reader(towers.see_video(pixels)).unflatten(-1, (-1, 3))  # (clips, chunks, tokens, 17, 3)
            truth = source.poses[clips[:, None], places].flatten(0, 1)[:, None]  # (frames, 1, 17, 3)
            return read.reshape(len(truth), -1, *truth.shape[2:]) - truth

        begin = time.monotonic()
        for step in range(1, plan.motion_steps + 1):
            error = off(torch.randint(len(drawn.frames), (MOTION_BATCH,)), drawn)
            loss = nn.functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.05)
            take_step(loss, optimizer, schedule, trained)
            report("motion", step, plan.motion_steps, loss, begin)
        with torch.inference_mode():
            error = torch.cat([off(part, held_out) for part in torch.arange(len(held_out.frames)).split(MOTION_BATCH)])
            print(f"held-out people: joints {100 * error.norm(dim=-1).mean():.1f} cm off for the video tower")

    def features(self, frames: np.ndarray) -> dict[str, Tensor]:
        """See `TinySystem`."""
        pixels = both_sides(torch.cat([self.processor.pixel_values(clip) for clip in frames]))
        with torch.autocast("cpu", torch.bfloat16):
            seen = self.model.model.features(pixels.flatten(0, 1))
        return {name: part.unflatten(0, (2, -1)) for name, part in seen.items()}

    def connect(self, features: dict[str, Tensor]) -> Tensor:
        """See `TinySystem`."""
        return self.connector(**features)

    def _view(self, frames: Tensor, number: int) -> Tensor:
        """Return frames as one of the towers takes them: 0 the video tower, 1 the image tower."""
        groups = [self.processor.pixel_values(part.numpy()).chunk(2)[number] for part in _whole(frames, self.frames)]
        return torch.cat(groups)[: len(frames)]


def _whole(frames: Tensor, size: int) -> tuple[Tensor, ...]:
    """Return frames in groups of `size`, the last one filled up with its last frame."""
    lacking = -len(frames) % size
    return torch.cat([frames, frames[-1:].expand(lacking, -1, -1, -1)]).split(size)


def _initialise_scans(tower: VideoMamba) -> None:
    """Draw the weights of a VideoMamba as its authors do."""
    initialise(tower)
    for layer in tower.layers:
        mixer = layer.mixer
        inner, states = mixer.sizes.inner, mixer.sizes.states
        for suffix in DIRECTIONS:
            with torch.no_grad():
                mixer.get_parameter(f"A{suffix}_log").copy_(torch.arange(1, states + 1).log().expand(inner, -1))
                low, high = map(math.log, STEP_SIZES)
                step = torch.exp(torch.rand(inner) * (high - low) + low)
                bias = mixer.get_submodule(f"dt_proj{suffix}").bias
                bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus gives `step`


def _config(tokenizer: PreTrainedTokenizerFast) -> MobileVideoGPTConfig:
    return MobileVideoGPTConfig(
        text_config=language_sizes(tokenizer),
        image_config={
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "image_size": SIDE,
            "patch_size": 16,
            "hidden_act": "quick_gelu",
        },
        image_layer=-1,
        video_depth=2,
        video_width=64,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        pooled=4,
        video_side=4,
        image_side=4,
    )
