"""How large a model is, from its configuration alone: parameters by part, and what its activations depend on."""

from dataclasses import dataclass
from typing import Annotated

import msgspec

# What a configuration may say, so that a damaged or hostile one is refused before it fills the memory.
Layers = Annotated[int, msgspec.Meta(ge=1, le=1_000)]
Channels = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
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
class Held:
    """Numbers that are in memory at a time.

    Args:
        numbers: for each group of frames, in the format that the model computes in.
        wide: for each group of frames, in float32 whatever that format is.
        once: in float32, however many groups there are.
    """

    numbers: int = 0
    wide: int = 0
    once: int = 0


@dataclass(frozen=True)
class ModelSizes:
    """A video language model: vision tower, connector, language model with embeddings and head.

    Frames come in groups: a clip has one or more of them, and all that the vision tower makes of it grows with their
    number.

    Args:
        vision: the vision tower's layers.
        vision_other: its other parameters: norms, biases, layer scales, embeddings, and all of a second tower.
        patch_tokens: tokens of a frame in those layers, the class token included.
        image_size: side of a frame in pixels.
        views: how often each frame is among the inputs.
        frame_group: frames of a group.
        group_tokens: visual tokens of a group in the prompt.
        frame_words: tokens around each frame's visual ones in the prompt.
        features: numbers that the connector gets of a group.
        seeing: what a vision tower that does not learn holds, at each of the moments at which that may be most.
        vision_kept: what the backward pass needs of a vision tower that is trained in full, besides that of the layers.
        connector: its parameters.
        connector_kept: what its backward pass needs.
        language: the language model's layers.
        language_other: its other parameters, without embeddings and head: norms, biases.
        vocabulary: tokens it knows.
        tied: whether the head is the embedding matrix.
    """

    vision: Tower
    vision_other: int
    patch_tokens: int
    image_size: int
    views: int
    frame_group: int
    group_tokens: int
    frame_words: int
    features: int
    seeing: tuple[Held, ...]
    vision_kept: Held
    connector: int
    connector_kept: Held
    language: Tower
    language_other: int
    vocabulary: int
    tied: bool

    def groups(self, frames: int) -> int:
        """Return in how many groups so many frames come."""
        return frames // self.frame_group

    def frames(self, visual: int) -> int:
        """Return of how many frames a prompt with so many visual tokens tells, those of a group at least."""
        return max(visual // self.group_tokens, 1) * self.frame_group

    def clip_tokens(self, frames: int) -> int:
        """Return the tokens of a clip in the prompt: visual ones, and words around each frame."""
        return self.groups(frames) * self.group_tokens + frames * self.frame_words

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
