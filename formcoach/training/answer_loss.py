"""The loss where there is one: the model's head, and all that serves it alone, run before answer tokens only."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from formcoach.data.collate import NO_LOSS
from formcoach.models.segment_attention import located, segments
from formcoach.training.answer_rows import only_rows


def token_losses(
    model: nn.Module, inputs: Mapping[str, Any], last_layer: nn.Module | None = None
) -> tuple[Tensor, Tensor]:
    """Return the cross entropy of each answer token.

    A vocabulary of 92,553 makes logits the largest tensors of a training step; a sample of some 450 tokens has some 20
    in its answer.

    Args:
        model: takes `logits_to_keep` as transformers' models do: positions, those of the rows in common.
        inputs: its arguments, and of `formcoach.data.collate.TrainingCollator` ``labels (B, L)``, ``columns (K)`` and
            ``lengths``.
        last_layer: `formcoach.training.answer_rows.last_layer`, to compute only as far as answers need it.

    Returns:
        Losses (B, K) float32, 0 where a row has no answer token, and whether it has one, (B, K).
    """
    arguments = dict(inputs)
    columns, labels, lengths = (arguments.pop(name) for name in ("columns", "labels", "lengths"))
    rows = only_rows(last_layer, columns) if last_layer is not None else nullcontext()
    with rows, segments(located(lengths, packed="position_ids" in arguments)):
        # Without a cache for generation, which would hide from attention that a row is packed.
        logits = model(**arguments, logits_to_keep=columns, use_cache=False).logits  # (B, K, vocabulary)
    targets = labels[:, columns + 1]  # (B, K)
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=NO_LOSS, reduction="none"
    )
    return losses.view_as(targets), targets != NO_LOSS


def no_loss(model: nn.Module) -> Tensor:
    """Return a loss of 0 whose gradients are 0, for a forward pass that nothing shall be learned from."""
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return torch.stack([parameter.float().sum() * 0 for parameter in trained]).sum()
