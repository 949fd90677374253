"""Mobile-VideoGPT on transformers' CLIP, Qwen2 and InternVL classes.

CLIP sees all frames of a clip; those of them that the others attend to most go to VideoMamba as well. Both kinds of
tokens take the place of the prompt's placeholders, CLIP's first.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, CLIPVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.internvl.modeling_internvl import (
    InternVLModel,
    InternVLPreTrainedModel,
)

from formcoach.models.mobilevideogpt.configuration import MobileVideoGPTConfig
from formcoach.models.mobilevideogpt.frame_selection import select_frames
from formcoach.models.mobilevideogpt.projector import TokenProjector
from formcoach.models.mobilevideogpt.videomamba import VideoMamba
from formcoach.models.video_model import VideoModel

# Tensors that the features do not depend on: of the video encoder's pretraining, and numbers that CLIP once stored.
UNUSED_TENSORS = re.compile(
    r"^model\.vision_tower\.(vision_encoder|video)\.(clip_decoder|clip_pos_embed|clip_img_pos_embed|pool_norm|head)\b"
    r"|^model\.(image_vision_tower\.vision_tower\.vision_model|vision_tower\.image)\.embeddings\.position_ids$"
)


class VisionTowers(nn.Module):
    """The image encoder and the video encoder."""

    def __init__(self, config: MobileVideoGPTConfig) -> None:
        super().__init__()
        self.config = config
        self.image = CLIPVisionModel(config.image_config)
        self.video = VideoMamba(config.video_sizes)

    def forward(self, video_frames: Tensor, context_frames: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the connectors get.

        Args:
            video_frames: (clips, frames, 3, size, size), normalised for the video encoder.
            context_frames: the same frames, normalised for the image encoder.

        Returns:
            The image features (clips, frames, patches, channels) and, of each chunk's selected frames, the video
            features (clips, chunks, tokens, channels).
        """
        patches = self.see_images(context_frames)
        return patches, self.see_video(self.pick(video_frames, patches))

    def see_images(self, frames: Tensor) -> Tensor:
        """Run CLIP without its class token: (clips, frames, 3, size, size) -> (clips, frames, patches, channels).

        Layers behind the one that is used are not computed, and states of those before it are not kept.
        """
        image = self.image
        hidden = image.pre_layrnorm(image.embeddings(frames.flatten(0, 1).to(image.dtype)))
        layers = image.encoder.layers
        for layer in layers[: range(len(layers) + 1)[self.config.image_layer]]:
            hidden = layer(hidden, attention_mask=None)
        # Autocast on CUDA leaves norms' results, and with them the sums, in float32.
        return hidden[:, 1:].to(image.dtype).unflatten(0, frames.shape[:2])

    def pick(self, video_frames: Tensor, patches: Tensor) -> Tensor:
        """Return the frames of each clip that the video encoder sees: (clips, selected of all chunks, 3, ., .)."""
        chunks = patches.unflatten(1, (-1, self.config.chunk)).flatten(0, 1)  # (clips * chunks, frames, ...)
        chosen = select_frames(chunks, self.config.selected).unflatten(0, (len(patches), -1))
        first = self.config.chunk * torch.arange(chosen.shape[1], device=chosen.device)
        places = (chosen + first[:, None]).flatten(1)  # (clips, selected of all chunks)
        return torch.stack([frames[place] for frames, place in zip(video_frames, places, strict=True)])

    def see_video(self, frames: Tensor) -> Tensor:
        """Run VideoMamba and pool its patches: (clips, selected, 3, ., .) -> (clips, chunks, tokens, channels)."""
        sizes = self.video.sizes
        patches = self.video(frames.to(self.video.cls_token.dtype))[:, 1:]
        grid = patches.unflatten(1, (-1, sizes.side, sizes.side)).flatten(0, 1).movedim(3, 1)
        pooled = functional.adaptive_avg_pool2d(grid, self.config.pooled)  # (clips * selected, channels, 7, 7)
        return pooled.flatten(2).mT.reshape(len(frames), -1, self.config.selected * self.config.pooled**2, sizes.width)


class Connectors(nn.Module):
    """A projector for either kind of features."""

    def __init__(self, config: MobileVideoGPTConfig) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.image = TokenProjector(config.image_config.hidden_size, width, config.image_side)
        self.video = TokenProjector(config.video_width, width, config.video_side)

    def forward(self, image_features: Tensor, video_features: Tensor) -> Tensor:
        """Return the visual tokens of clips, images first: (clips, visual tokens, width of the language model)."""
        parts = []
        for projector, features in ((self.image, image_features), (self.video, video_features)):
            tokens = projector(features.flatten(0, 1).to(projector.peg.weight.dtype))
            parts.append(tokens.reshape(len(features), -1, tokens.shape[-1]))
        return torch.cat(parts, dim=1)


class MobileVideoGPTModel(InternVLModel):
    """Vision towers, connectors and language model, without the language modelling head."""

    config: MobileVideoGPTConfig

    def __init__(self, config: MobileVideoGPTConfig) -> None:
        InternVLPreTrainedModel.__init__(self, config)
        self.vision_tower = VisionTowers(config)
        self.multi_modal_projector = Connectors(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def features(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Return what the connectors get, see `VisionTowers.forward`.

        Args:
            pixel_values: (clips * 2 * frames, 3, size, size): of each clip the frames for the video encoder, then the
                same for the image encoder.

        Raises:
            ValueError: if there are not as many frames.
        """
        frames = self.config.frames
        if len(pixel_values) % (2 * frames):
            raise ValueError(f"{len(pixel_values)} frames are not twice {frames} for each clip")
        video_frames, context_frames = pixel_values.unflatten(0, (-1, 2, frames)).unbind(dim=1)
        images, video = self.vision_tower(video_frames, context_frames)
        return {"image_features": images, "video_features": video}

    def forward(
        self, *args: Any, image_features: Tensor | None = None, video_features: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Compute as the parent does, also from what `features` returned instead of pixels."""
        if image_features is not None and video_features is not None:
            tokens = self.multi_modal_projector(image_features, video_features)
            kwargs["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=tokens)}
        return super().forward(*args, **kwargs)

    def get_image_features(self, pixel_values: Tensor, **_: object) -> BaseModelOutputWithPooling:
        """Return the visual tokens the way the parent's forward pass and `generate` ask for them."""
        return BaseModelOutputWithPooling(pooler_output=self.multi_modal_projector(**self.features(pixel_values)))


class MobileVideoGPTForConditionalGeneration(VideoModel):
    """Mobile-VideoGPT: answers a question about clips.

    `forward` takes ``input_ids (batch, L)``, ``attention_mask (batch, L)``, ``pixel_values`` (see
    `MobileVideoGPTModel.features`) or in their place what `frozen_features` returned, and optionally ``labels (batch,
    L)`` with -100 where there is no loss; or ``inputs_embeds (batch, L, width)``. The visual tokens of the clips
    replace the ``<image>`` placeholders of the batch in order.
    """

    config: MobileVideoGPTConfig
    gathered_whole = (VideoMamba,)
    _keys_to_ignore_on_load_unexpected = [UNUSED_TENSORS.pattern]  # noqa: RUF012  (transformers copies it)

    def __init__(self, config: MobileVideoGPTConfig) -> None:
        InternVLPreTrainedModel.__init__(self, config)
        self.model = MobileVideoGPTModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def frozen_features(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Return what `forward` takes in place of a clip's ``pixel_values``, computed by the vision towers alone."""
        return self.model.features(pixel_values)

    def get_visual_tokens(self, video_frames: Tensor, context_frames: Tensor) -> Tensor:
        """Return the embeddings that replace the placeholders.

        Args:
            video_frames: (batch, frames, 3, size, size), normalised for the video encoder.
            context_frames: the same frames, normalised for the image encoder.

        Returns:
            (batch, 2402, width of the language model) at the published sizes.
        """
        return self.model.multi_modal_projector(*self.model.vision_tower(video_frames, context_frames))
