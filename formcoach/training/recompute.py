"""Which layers compute their activations again in the backward pass instead of keeping them."""

from typing import Any

from formcoach.models.family import Family
from formcoach.training.answer_rows import tower_layers
from formcoach.training.workload import recomputed


def recompute(model: Any, family: Family, share: float) -> int:
    """Switch gradient checkpointing on in the first layers of each tower that learns.

    Args:
        model: with its trainable weights.
        family: its family.
        share: of the layers, 0 to 1; see `formcoach.training.workload.recomputed`.

    Returns:
        In how many layers it is on.
    """
    if share == 0:
        return 0
    model.activation_checkpointing_enable({"use_reentrant": False})
    count = 0
    for tower in (family.vision, family.language):
        layers = tower_layers(model, tower)
        # What is learned in front of the language model, or in it, has its gradient through all of its layers.
        through = tower == family.language or any(one.requires_grad for layer in layers for one in layer.parameters())
        chosen = recomputed(share, len(layers), last=tower == family.language) if through else 0
        for place, layer in enumerate(layers):
            layer.gradient_checkpointing = place < chosen
        count += chosen
    return count
