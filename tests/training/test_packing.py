"""Rows of several samples: each is as it is alone."""

import pytest
import torch

from formcoach.data.collate import NO_LOSS, TrainingCollator
from formcoach.data.dataset import ClipDataset, read_samples
from formcoach.models import load_model
from formcoach.training.answer_loss import token_losses
from formcoach.training.run_directory import read_description

STEPS = ("--max-steps", 4, "--checkpoint-interval", -1, "--global-batch-size", 6)


def batches(project, processor, samples=6):
    processor.min_frames, processor.max_frames = 4, 8
    items = list(ClipDataset(read_samples(project.datasets, 42)[:samples], processor, {}))
    for packed in (False, True):
        batch = TrainingCollator(processor.tokenizer.pad_token_id, packed)(items)
        yield {name: value for name, value in batch.items() if name not in ("ids", "tokens")}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_row_gives_the_losses_of_padded_rows(project, attention) -> None:
    model, processor = load_model(project.flags()[1], dtype="float32", device="cpu", attention=attention)
    padded, packed = batches(project, processor)
    with torch.no_grad():
        one, answers = token_losses(model, padded)
        other, all_answers = token_losses(model, packed)
    assert packed["input_ids"].shape[0] == 1
    assert all_answers.all()
    assert torch.allclose(one[answers], other.flatten(), atol=1e-5)


def test_the_losses_are_those_of_the_whole_head(project) -> None:
    model, processor = load_model(project.flags()[1], dtype="float32", device="cpu")
    padded, _ = batches(project, processor)
    with torch.no_grad():
        losses, answers = token_losses(model, padded)
        labels, _ = padded.pop("labels"), padded.pop("columns")
        logits = model(**padded).logits
    expected = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=NO_LOSS, reduction="none"
    )
    assert answers.sum() == (labels != NO_LOSS).sum()
    assert losses.sum().item() == pytest.approx(expected.sum().item(), rel=1e-6)
    assert torch.equal(losses[answers].sort().values > 0, torch.ones(int(answers.sum()), dtype=torch.bool))


def test_accumulated_single_samples_equal_one_packed_row(project, logged) -> None:
    run = project.train(*STEPS, "--mirco-batch-size", 1)
    project.train(*STEPS, "--dset-pack")
    packed = project.root / "run_2"
    assert logged(packed, "loss") == pytest.approx(logged(run, "loss"), abs=1e-5)
    assert logged(packed, "val_loss") == pytest.approx(logged(run, "val_loss"), abs=1e-5)
    assert read_description(run).resolved["accumulation"] == 6
    assert read_description(packed).resolved["accumulation"] == 1


def test_rows_are_no_longer_than_asked_for_and_no_sample_is_cut(project, logged, capsys) -> None:
    run = project.train(*STEPS)
    project.train(*STEPS, "--dset-pack", "--pack-max-length", 400)  # the samples have some 200 tokens
    two = project.root / "run_2"
    assert read_description(two).resolved["accumulation"] in (3, 4)
    project.train(*STEPS, "--dset-pack", "--pack-max-length", 100)
    alone = project.root / "run_3"
    assert read_description(alone).resolved["accumulation"] == 6
    assert "--pack-max-length" in capsys.readouterr().out
    for packed in (two, alone):
        assert logged(packed, "loss") == pytest.approx(logged(run, "loss"), abs=1e-5)


def test_a_micro_batch_limits_the_samples_of_a_row(project) -> None:
    run = project.train(*STEPS, "--dset-pack", "--mirco-batch-size", 2)
    assert read_description(run).resolved["accumulation"] == 3
