"""From single clips' inputs to a batch: training pads on the right, generation on the left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NO_LOSS = -100  # the label that torch's cross entropy ignores


@dataclass(frozen=True)
class TrainingCollator:
    """Makes a batch of the items of `formcoach.data.dataset.ClipDataset`.

    Args:
        pad_id: the token that fills shorter samples; neither attended to nor part of the loss.
    """

    pad_id: int

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return ``input_ids``, ``attention_mask``, ``labels``, each (B, L), ``pixel_values`` and ``ids``.

        ``pixel_values`` holds the frames of all clips, one clip after the other; ``ids`` the samples' names.
        """
        ids = [item["input_ids"] for item in items]
        return {
            "input_ids": pad(ids, self.pad_id),  # B x (L_i) -> (B, L)
            "attention_mask": pad([torch.ones_like(row) for row in ids], 0),
            "labels": pad([item["labels"] for item in items], NO_LOSS),
            "pixel_values": torch.cat([item["pixel_values"] for item in items]),  # B x (T_i, 3, S, S) -> (sum, 3, S, S)
            "ids": [item["id"] for item in items],
        }


def collate_prompts(inputs: Sequence[Mapping[str, Tensor]], pad_id: int) -> dict[str, Tensor]:
    """Make a batch for `generate` of the processor's outputs for several clips.

    Args:
        inputs: each ``input_ids (1, L)``, ``attention_mask (1, L)`` and ``pixel_values (T, 3, S, S)``.
        pad_id: the token that fills shorter prompts, in front.
    """
    return {
        "input_ids": pad([one["input_ids"][0] for one in inputs], pad_id, left=True),
        "attention_mask": pad([one["attention_mask"][0] for one in inputs], 0, left=True),
        "pixel_values": torch.cat([one["pixel_values"] for one in inputs]),
    }


def pad(rows: Sequence[Tensor], value: int, left: bool = False) -> Tensor:
    """Stack rows of different lengths: B x (L_i) -> (B, max L_i)."""
    side = "left" if left else "right"
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side=side)
