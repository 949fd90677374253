"""Sizes of a Mobile-VideoGPT model: two vision towers, a projector for each, and a language model."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import CLIPVisionConfig, PreTrainedConfig, Qwen2Config
from transformers.configuration_utils import SubConfigSpec

from formcoach.models.mobilevideogpt.videomamba import MambaSizes


@strict
class MobileVideoGPTConfig(PreTrainedConfig):
    """Configuration of `MobileVideoGPTForConditionalGeneration`.

    Args:
        text_config: a `Qwen2Config` or its values.
        image_config: a `CLIPVisionConfig` or its values, of the tower that sees all frames.
        video_depth: blocks of the video tower.
        video_width: channels of a token of the video tower.
        image_token_id: id of ``<image>``, the placeholder that a visual token replaces.
        image_layer: the hidden state of the image tower that is used, counted from its end.
        frames: of a clip.
        chunk: frames among which some are selected for the video tower.
        selected: how many of a chunk.
        pooled: tokens along a side of a selected frame before the video projector.
        video_side: tokens along a side of a chunk's grid after it.
        image_side: tokens along a side of a frame after the image projector.
    """

    model_type = "mobilevideogpt"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "text_config": Qwen2Config,
        "image_config": CLIPVisionConfig,
    }

    text_config: dict | PreTrainedConfig | None = None
    image_config: dict | PreTrainedConfig | None = None
    video_depth: int = 32
    video_width: int = 576
    image_token_id: int = 151_646
    image_layer: int = -2
    frames: int = 16
    chunk: int = 8
    selected: int = 4
    pooled: int = 7
    video_side: int = 7
    image_side: int = 12
    tie_word_embeddings: bool = False

    @property
    def video_sizes(self) -> MambaSizes:
        """The video tower's sizes; it sees the selected frames of all chunks as one clip."""
        frames = self.frames // self.chunk * self.selected
        return MambaSizes(self.video_depth, self.video_width, frames, self.image_config.image_size)

    def visual_tokens(self, frames: int) -> int:
        """Return how many tokens the model makes of so many frames, a multiple of a clip's."""
        clip = self.frames * self.image_side**2 + self.frames // self.chunk * self.video_side**2
        return frames // self.frames * clip
