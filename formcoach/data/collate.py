"""From single clips' inputs to a batch: training pads on the right, generation on the left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NO_LOSS = -100  # the label that torch's cross entropy ignores
TEXT = ("input_ids", "attention_mask", "labels", "id")  # of an item or a prompt; all else is visual


@dataclass(frozen=True)
class TrainingCollator:
    """Makes a batch of the items of `formcoach.data.dataset.ClipDataset`.

    The visual inputs of all clips follow one another along their first dimension. Beside the model's arguments a batch
    has ``columns`` from `answer_columns`, ``ids``, the samples' names, and ``lengths``, the tokens of each.

    Args:
        pad_id: the token that fills shorter samples; neither attended to nor part of the loss.
        packed: put all samples into one row instead. Positions then begin again with each sample, by which attention
            knows where one ends and the next begins.
    """

    pad_id: int
    packed: bool = False

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return ``input_ids`` and ``labels (B, L)``, the visual inputs, ``columns (K)``, ``ids`` and ``lengths``.

        Padded rows come with ``attention_mask (B, L)``, packed ones, (1, L), with ``position_ids (1, L)``.
        """
        visual = [name for name in items[0] if name not in TEXT]
        rows = [item["input_ids"] for item in items]
        labels = [item["labels"] for item in items]
        batch = self._packed(rows, labels) if self.packed else self._padded(rows, labels)
        batch |= {name: torch.cat([item[name] for item in items]) for name in visual}  # B x (T_i, ...) -> (sum, ...)
        batch["columns"] = answer_columns(batch["labels"])
        return batch | {"ids": [item["id"] for item in items], "lengths": [len(row) for row in rows]}

    def _padded(self, rows: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
        return {
            "input_ids": pad(rows, self.pad_id),  # B x (L_i) -> (B, L)
            "attention_mask": pad([torch.ones_like(row) for row in rows], 0),
            "labels": pad(labels, NO_LOSS),
        }

    def _packed(self, rows: list[Tensor], labels: list[Tensor]) -> dict[str, Any]:
        return {
            "input_ids": torch.cat(rows)[None],  # B x (L_i) -> (1, sum)
            "position_ids": torch.cat([torch.arange(len(row)) for row in rows])[None],
            "labels": torch.cat(labels)[None],  # the first label of a sample is that of its prompt: none
        }


def answer_columns(labels: Tensor) -> Tensor:
    """Return after which positions a token of any row's answer is to be predicted: (B, L) -> (K) indices; at least one.

    Args:
        labels: as the collator makes them, `NO_LOSS` outside of answers.
    """
    found = (labels[:, 1:] != NO_LOSS).any(dim=0).nonzero().flatten()
    return found if len(found) else found.new_zeros(1)  # a batch whose answers do not count


def collate_prompts(inputs: Sequence[Mapping[str, Tensor]], pad_id: int) -> dict[str, Tensor]:
    """Make a batch for `generate` of the processor's outputs for several clips.

    Args:
        inputs: each ``input_ids (1, L)``, ``attention_mask (1, L)`` and visual inputs.
        pad_id: the token that fills shorter prompts, in front.
    """
    visual = {name: torch.cat([one[name] for one in inputs]) for name in inputs[0] if name not in TEXT}
    return {
        "input_ids": pad([one["input_ids"][0] for one in inputs], pad_id, left=True),
        "attention_mask": pad([one["attention_mask"][0] for one in inputs], 0, left=True),
        **visual,
    }


def pad(rows: Sequence[Tensor], value: int, left: bool = False) -> Tensor:
    """Stack rows of different lengths: B x (L_i) -> (B, max L_i)."""
    side = "left" if left else "right"
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side=side)
