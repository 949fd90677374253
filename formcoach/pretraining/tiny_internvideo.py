"""The packaged small InternVideo2.5."""

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from formcoach.config import Recipe
from formcoach.data.demo_picture import Take
from formcoach.models.internvideo.configuration import InternVideoConfig
from formcoach.models.internvideo.modeling import InternVideoForConditionalGeneration
from formcoach.models.internvideo.processor import CONTROL_TOKENS, InternVideoProcessor, settings_from
from formcoach.pretraining.clips import Drawn
from formcoach.pretraining.stages import Pretraining
from formcoach.pretraining.system import TinySystem, both_sides
from formcoach.pretraining.tiny import SYSTEM_MESSAGE, language_sizes

FRAMES = 12
SIDE = 140


class TinyInternVideo(TinySystem):
    """140 x 140 pixels, 25 tokens a frame merged to 16."""

    picture = (SIDE, SIDE)
    recipe = Recipe(
        epochs=8,
        micro_batch_size=8,
        global_batch_size=8,
        lr=4e-3,
        connector_lr=1e-4,
        max_length=1024,
        min_frames=8,  # seen in pretraining were 12; with these, training is faster and its validation loss no higher
        max_frames=8,
        selective_recompute=0.0,
        cpu_dtype="auto",
    )

    plan = Pretraining(clips=6000, pose_steps=4000, attribute_steps=1000, word_steps=800, steps=1200)

    @classmethod
    def tokens(cls) -> tuple[str, ...]:
        """See `TinySystem`."""
        return CONTROL_TOKENS

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = InternVideoForConditionalGeneration(_config(tokenizer))
        settings = settings_from(self.model.config, min_frames=FRAMES, max_frames=FRAMES, system_message=SYSTEM_MESSAGE)
        self.processor = InternVideoProcessor(tokenizer, settings)

    @property
    def tower(self) -> nn.Module:
        """See `TinySystem`."""
        return self.model.model.vision_tower

    def frame_times(self, take: Take) -> np.ndarray:
        """Return the middle of each of FRAMES equal parts."""
        return (np.arange(FRAMES) + 0.5) / FRAMES * take.duration

    def pixels(self, frames: Tensor) -> Tensor:
        """See `TinySystem`."""
        return self.processor.pixel_values(frames.numpy())

    def patches(self, pixels: Tensor) -> Tensor:
        """See `TinySystem`."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.tower(pixels).last_hidden_state[:, 1:].float()

    def learn_motion(self, drawn: Drawn, held_out: Drawn, plan: Pretraining) -> None:
        """Do nothing: its only tower sees single frames."""

    def features(self, frames: np.ndarray) -> dict[str, Tensor]:
        """See `TinySystem`."""
        pixels = both_sides(self.processor.pixel_values(frames.reshape(-1, *frames.shape[2:])))
        with torch.autocast("cpu", torch.bfloat16):
            merged = self.model.model.merge_frames(pixels.flatten(0, 1))
        return {"tokens": merged.reshape(2, len(frames), FRAMES * self.model.config.tokens_per_frame, -1)}

    def connect(self, features: dict[str, Tensor]) -> Tensor:
        """See `TinySystem`."""
        return self.connector(features["tokens"])


def _config(tokenizer: PreTrainedTokenizerFast) -> InternVideoConfig:
    return InternVideoConfig(
        vision_config={
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "image_size": [SIDE, SIDE],
            "patch_size": [14, 14],
            "attention_bias": True,
            "use_qk_norm": False,
            "norm_type": "layer_norm",
            "layer_scale_init_value": 1.0,
        },
        text_config={"model_type": "llama"} | language_sizes(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        downsample_ratio=0.5,
        vision_feature_layer=-1,
    )
