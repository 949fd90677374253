"""Sizes of an InternVideo2.5 model: a vision tower, a connector and a language model."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.internvl.configuration_internvl import InternVLConfig, InternVLVisionConfig


@strict
class InternVideoConfig(InternVLConfig):
    """Configuration of `InternVideoForConditionalGeneration`.

    It is transformers' InternVL configuration with a Llama language model and the sizes of HiCo token merging. The
    similarity that decides what is merged averages channels over as many heads as the language model has.

    Args:
        vision_config: an `InternVLVisionConfig` or its values.
        text_config: a `LlamaConfig` or its values.
        image_token_id: id of ``<IMG_CONTEXT>``, the placeholder that a visual token replaces.
        frames_per_group: how many consecutive frames are merged together.
        tokens_per_group: how many visual tokens are left of each group of frames.
    """

    model_type = "internvideo"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
        "vision_config": InternVLVisionConfig,
    }

    image_token_id: int = 92546
    frames_per_group: int = 4
    tokens_per_group: int = 64
    tie_word_embeddings: bool = False

    @property
    def tokens_per_frame(self) -> int:
        """Visual tokens, hence ``<IMG_CONTEXT>`` placeholders, a frame."""
        return self.tokens_per_group // self.frames_per_group

    def visual_tokens(self, frames: int) -> int:
        """Return how many tokens the model makes of so many frames, a multiple of a group."""
        return frames // self.frames_per_group * self.tokens_per_group

    @property
    def merging_heads(self) -> int:
        """Heads over which token merging averages the channels of its similarity."""
        return self.text_config.num_attention_heads
