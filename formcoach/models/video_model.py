"""What the models of all families have in common beside what transformers' InternVL gives them."""

from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from transformers.models.internvl.modeling_internvl import InternVLForConditionalGeneration


class VideoModel(InternVLForConditionalGeneration):
    """Answers questions about clips; a family's own class says what its parts are.

    Attributes:
        gathered_whole: modules whose parts use each other's weights: where weights are shared out among processes
            (ZeRO-3), they are put together for all of such a module at once.
    """

    gathered_whole: ClassVar[tuple[type[nn.Module], ...]] = ()

    def enable_input_require_grads(self) -> None:
        """Make the language model's input embeddings require gradients, which reentrant checkpointing relies on.

        The parent's method does so for the vision tower too, and it is called whenever checkpointing is switched on: a
        frozen vision tower would get a backward pass that nobody needs and that costs more than all the rest.
        """
        self.model.language_model.enable_input_require_grads()

    def disable_input_require_grads(self) -> None:
        """Undo `enable_input_require_grads`."""
        self.model.language_model.disable_input_require_grads()

    def save_pretrained(self, save_directory: str | Path, save_original_format: bool = False, **kwargs: Any) -> None:
        """Write configuration and weights, as the parent does, but under our own tensor names by default."""
        super().save_pretrained(save_directory, save_original_format=save_original_format, **kwargs)
