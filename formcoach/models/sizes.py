"""How large a model is, from its configuration alone: parameters by part, and what its activations depend on."""

from dataclasses import dataclass
from typing import Annotated

import msgspec

# What a configuration may say, so that a damaged or hostile one is refused before it fills the memory.
Layers = Annotated[int, msgspec.Meta(ge=1, le=1_000)]
Channels = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Pixels = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
Tokens = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]


@dataclass(frozen=True)
class Tower:
    """A stack of equal transformer layers.

    Args:
        layers: how many.
        width: channels of a token.
        heads: of the attention.
        key_values: channels of all key heads together; as many as `width` without grouped-query attention.
        mlp: inner channels of the feed-forward part.
        gated: whether that has a gate beside its two matrices (SwiGLU).
    """

    layers: int
    width: int
    heads: int
    key_values: int
    mlp: int
    gated: bool

    @property
    def linear_shapes(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the linear layers of one transformer layer."""
        attention = [(self.width, self.width), (self.width, self.key_values), (self.width, self.key_values)]
        up = [(self.width, self.mlp)] * (2 if self.gated else 1)
        return [*attention, (self.width, self.width), *up, (self.mlp, self.width)]

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers of all transformer layers, without biases."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear_shapes)

    @property
    def largest_layer(self) -> int:
        """Weights of the largest linear layer."""
        return max(inputs * outputs for inputs, outputs in self.linear_shapes)

    def lora_parameters(self, rank: int) -> int:
        """Weights of LoRA matrices on all linear layers."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.linear_shapes)


@dataclass(frozen=True)
class ModelSizes:
    """A video language model: vision tower, connector, language model with embeddings and head.

    Args:
        vision: the vision tower's layers.
        vision_other: its other parameters: norms, biases, layer scales, embeddings.
        patch_tokens: tokens of a frame in the vision tower, the class token included.
        image_size: side of a frame in pixels.
        merged_channels: channels of a visual token between vision tower and connector.
        merged_tokens: visual tokens of a frame before they are merged.
        connector: its parameters.
        language: the language model's layers.
        language_other: its other parameters, without embeddings and head: norms, biases.
        vocabulary: tokens it knows.
        tied: whether the head is the embedding matrix.
        frame_tokens: tokens of a frame in the prompt.
    """

    vision: Tower
    vision_other: int
    patch_tokens: int
    image_size: int
    merged_channels: int
    merged_tokens: int
    connector: int
    language: Tower
    language_other: int
    vocabulary: int
    tied: bool
    frame_tokens: int

    @property
    def embeddings(self) -> int:
        """Parameters of the embeddings and of a head of its own."""
        return self.vocabulary * self.language.width * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All parameters."""
        vision = self.vision.linear_parameters + self.vision_other
        language = self.language.linear_parameters + self.language_other
        return vision + self.connector + language + self.embeddings
