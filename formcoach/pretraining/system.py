"""What the stages of pretraining need to know of a family: how its small model is built, looks and passes on."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from formcoach.config import Recipe
from formcoach.data.demo_picture import Take
from formcoach.pretraining.stages import Pretraining

if TYPE_CHECKING:
    from formcoach.pretraining.clips import Drawn


class TinySystem(ABC):
    """A small model of one family and its processor.

    Attributes:
        picture: width and height at which drawn frames are kept for it.
        recipe: what the demo's training starts from.
        plan: how long the packaged one was pretrained.
        model: the model.
        processor: its processor.
    """

    picture: ClassVar[tuple[int, int]]
    recipe: ClassVar[Recipe]
    plan: ClassVar[Pretraining]
    model: Any
    processor: Any

    @classmethod
    @abstractmethod
    def tokens(cls) -> tuple[str, ...]:
        """Return the control tokens that the family's tokenizer needs."""

    @abstractmethod
    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        """Build it with random weights."""

    @property
    def frames(self) -> int:
        """Frames of a clip that it sees."""
        return self.processor.max_frames

    @property
    def connector(self) -> nn.Module:
        """What passes on the vision tower's results."""
        return self.model.model.multi_modal_projector

    @property
    @abstractmethod
    def tower(self) -> nn.Module:
        """What sees single frames."""

    @abstractmethod
    def frame_times(self, take: Take) -> np.ndarray:
        """Return the seconds at which it sees a clip, (frames)."""

    @abstractmethod
    def pixels(self, frames: Tensor) -> Tensor:
        """Return what the tower takes of some frames: (N, height, width, 3) uint8 -> (N, 3, side, side)."""

    def in_view(self, joints: Tensor) -> Tensor:
        """Return joints (..., 2), shares of a drawn frame, as shares of what the tower sees of it."""
        return joints

    @abstractmethod
    def patches(self, pixels: Tensor) -> Tensor:
        """Return what the tower makes of them, without a class token: (N, patches, channels) float32."""

    @abstractmethod
    def learn_motion(self, drawn: "Drawn", held_out: "Drawn", plan: Pretraining) -> None:
        """Train what sees whole clips rather than single frames, if there is such a tower."""

    @abstractmethod
    def features(self, frames: np.ndarray) -> dict[str, Tensor]:
        """Return what the connector gets of some clips and of their mirror images.

        Args:
            frames: (clips, frames, height, width, 3) uint8.

        Returns:
            Arguments of `connect`, each of them (2, clips, ...).
        """

    @abstractmethod
    def connect(self, features: dict[str, Tensor]) -> Tensor:
        """Return the embeddings of clips' visual tokens: (clips, tokens, width of the language model)."""


def both_sides(pixels: Tensor) -> Tensor:
    """Return pictures and their mirror images: (..., width) -> (2, ..., width)."""
    return torch.stack([pixels, pixels.flip(-1)])
