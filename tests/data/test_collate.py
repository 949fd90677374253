"""Batches of clips with prompts and answers of different lengths."""

import torch

from formcoach.data.collate import NO_LOSS, TrainingCollator, collate_prompts


def item(length: int, frames: int, name: str) -> dict:
    ids = torch.arange(1, length + 1)
    return {"input_ids": ids, "labels": ids * 10, "pixel_values": torch.full((frames, 3, 2, 2), length), "id": name}


def test_training_batch_is_padded_on_the_right() -> None:
    batch = TrainingCollator(pad_id=0)([item(2, 4, "a"), item(3, 8, "b")])
    assert batch["input_ids"].tolist() == [[1, 2, 0], [1, 2, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[10, 20, NO_LOSS], [10, 20, 30]]
    assert batch["ids"] == ["a", "b"]


def test_frames_follow_each_other_clip_by_clip() -> None:
    batch = TrainingCollator(pad_id=0)([item(2, 4, "a"), item(3, 8, "b")])
    assert batch["pixel_values"].shape == (12, 3, 2, 2)
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [2] * 4 + [3] * 8


def test_token_with_the_padding_id_is_attended_to() -> None:
    one = item(2, 4, "a")
    one["input_ids"] = torch.tensor([2, 5])  # </s>, which is also the padding
    batch = TrainingCollator(pad_id=2)([one, item(3, 4, "b")])
    assert batch["attention_mask"][0].tolist() == [1, 1, 0]


def test_prompts_are_padded_on_the_left() -> None:
    prompts = [
        {
            "input_ids": torch.arange(1, length + 1)[None],
            "attention_mask": torch.ones(1, length, dtype=torch.long),
            "pixel_values": torch.zeros(4, 3, 2, 2),
        }
        for length in (3, 1)
    ]
    batch = collate_prompts(prompts, pad_id=9)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [9, 9, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert batch["pixel_values"].shape == (8, 3, 2, 2)
