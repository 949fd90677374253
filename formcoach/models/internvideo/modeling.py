"""InternVideo2.5 on transformers' own InternVL and Llama classes.

All that differs from InternVL is what happens between vision tower and connector: frames are merged in groups of four
from 256 tokens a frame down to 16 (see `token_merging`).
"""

import re
from typing import Any

from torch import Tensor, nn
from transformers import AutoModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.internvl.modeling_internvl import (
    InternVLModel,
    InternVLMultiModalProjector,
    InternVLPreTrainedModel,
)

from formcoach.models.internvideo.configuration import InternVideoConfig
from formcoach.models.internvideo.token_merging import merge_tokens
from formcoach.models.video_model import VideoModel

# Tensors of `InternVideo2_5_Chat_8B` that its chat model does not use.
UNUSED_TENSORS = re.compile(
    r"^(action_embed|temporal_embed|track_embed|track_embed_decoder|box_token|cg_criterion|cg_model|loc_encoder"
    r"|loc_decoder|sam|temporal_token|track_token)(\.|$)"
)


class InternVideoModel(InternVLModel):
    """Vision tower, connector and language model, without the language modelling head."""

    config: InternVideoConfig

    def __init__(self, config: InternVideoConfig) -> None:
        InternVLPreTrainedModel.__init__(self, config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.multi_modal_projector = InternVLMultiModalProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def encode_frames(self, pixel_values: Tensor) -> Tensor:
        """Return the embeddings that replace a clip's placeholders.

        Args:
            pixel_values: (frames, 3, size, size), normalised; the frames of one or more clips, clip after clip.

        Returns:
            (groups, tokens_per_group, hidden size of the language model), groups of consecutive frames.

        Raises:
            ValueError: if the number of frames is not a multiple of `config.frames_per_group`.
        """
        return self.connect(self.merge_frames(pixel_values))

    def connect(self, tokens: Tensor) -> Tensor:
        """Run the connector: (groups, tokens_per_group, 4 vision channels) -> (., ., hidden size of the LLM)."""
        connector = self.multi_modal_projector
        return connector(tokens.to(connector.linear_1.weight.dtype))  # float32 where it is trained on a bf16 base

    def forward(self, *args: Any, visual_tokens: Tensor | None = None, **kwargs: Any) -> Any:
        """Compute as the parent does, also from ``visual_tokens``, what `merge_frames` returned, instead of pixels."""
        if visual_tokens is not None:
            image = BaseModelOutputWithPooling(pooler_output=self.connect(visual_tokens))
            kwargs["mm_encoder_outputs"] = {"image": image}
        return super().forward(*args, **kwargs)

    def merge_frames(self, pixel_values: Tensor) -> Tensor:
        """Return what the connector gets: (frames, 3, size, size) -> (groups, tokens_per_group, 4 vision channels).

        Raises:
            ValueError: if the number of frames is not a multiple of `config.frames_per_group`.
        """
        if len(pixel_values) % self.config.frames_per_group:
            raise ValueError(f"{len(pixel_values)} frames are not a multiple of {self.config.frames_per_group}")
        patches = self._patch_features(pixel_values)  # (frames, rows * columns, vision channels)
        side = int(patches.shape[1] ** 0.5)
        grid = patches.unflatten(1, (side, side))
        grid = self.pixel_shuffle(grid, self.config.downsample_ratio)  # 448: (frames, 32, 32, c) -> (., 16, 16, 4 c)
        tokens = grid.reshape(-1, self.config.frames_per_group * grid.shape[1] * grid.shape[2], grid.shape[3])
        return merge_tokens(tokens, self.config.tokens_per_group, self.config.merging_heads)

    def _patch_features(self, pixel_values: Tensor) -> Tensor:
        """Run the vision tower and drop its class token: (frames, 3, S, S) -> (frames, patches, channels)."""
        pixel_values = pixel_values.to(self.vision_tower.dtype)
        layer = self.config.vision_feature_layer
        if layer == -1:
            return self.vision_tower(pixel_values).last_hidden_state[:, 1:]
        return self.vision_tower(pixel_values, output_hidden_states=True).hidden_states[layer][:, 1:]

    def get_image_features(self, pixel_values: Tensor, **_: object) -> BaseModelOutputWithPooling:
        """Return `encode_frames` the way the parent's forward pass and `generate` ask for it."""
        return BaseModelOutputWithPooling(pooler_output=self.encode_frames(pixel_values))


class InternVideoForConditionalGeneration(VideoModel):
    """InternVideo2.5: answers a question about clips.

    `forward` takes ``input_ids (batch, L)``, ``attention_mask (batch, L)``, ``pixel_values (frames of all clips, 3,
    size, size)`` or in their place what `frozen_features` returned, and optionally ``labels (batch, L)`` with -100
    where there is no loss. The visual tokens of the clips replace the ``<IMG_CONTEXT>`` placeholders of the batch in
    order.
    """

    config: InternVideoConfig
    _keys_to_ignore_on_load_unexpected = [UNUSED_TENSORS.pattern]  # noqa: RUF012  (transformers copies it)

    def __init__(self, config: InternVideoConfig) -> None:
        InternVLPreTrainedModel.__init__(self, config)
        self.model = InternVideoModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def frozen_features(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Return what `forward` takes in place of a clip's ``pixel_values``, computed by the vision tower alone.

        It is what training keeps where the vision tower is frozen: at the 8B's sizes 1 MB for 8 frames.
        """
        return {"visual_tokens": self.model.merge_frames(pixel_values)}

    def get_video_features(self, pixel_values: Tensor) -> Tensor:
        """See `InternVideoModel.encode_frames`."""
        return self.model.encode_frames(pixel_values)
