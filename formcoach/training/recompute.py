"""Which layers compute their activations again in the backward pass instead of keeping them."""

import math
from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from formcoach.models.family import Family


def recompute(model: Any, family: Family, share: float) -> int:
    """Switch gradient checkpointing on in the first layers of each tower that learns.

    Args:
        model: with its trainable weights.
        family: its family.
        share: of the layers, 0 to 1; rounded up to whole layers.

    Returns:
        In how many layers it is on.
    """
    if share == 0:
        return 0
    model.activation_checkpointing_enable({"use_reentrant": False})
    count = 0
    for tower in (family.vision, family.language):
        layers = [
            module
            for name, module in model.named_modules()
            if isinstance(module, GradientCheckpointingLayer)
            and f".{tower}." in f".{name}."
            and ".original_module." not in name  # PEFT's, beside the copy that is trained in full
        ]
        # What is learned in front of the language model, or in it, has its gradient through all of its layers.
        through = tower == family.language or any(one.requires_grad for layer in layers for one in layer.parameters())
        chosen = math.ceil(share * len(layers) - 1e-9) if through else 0
        for place, layer in enumerate(layers):
            layer.gradient_checkpointing = place < chosen
        count += chosen
    return count
