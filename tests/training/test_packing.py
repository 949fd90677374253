"""Rows of several samples: each is as it is alone."""

from contextlib import contextmanager

import pytest
import torch
from conftest import make_project
from small_models import SmallModel

from formcoach.data.collate import NO_LOSS, TrainingCollator
from formcoach.data.dataset import ClipDataset, read_samples
from formcoach.models import load_model
from formcoach.models.adapters import add_lora
from formcoach.models.mobilevideogpt import MOBILEVIDEOGPT
from formcoach.training.answer_loss import token_losses
from formcoach.training.answer_rows import last_layer
from formcoach.training.run_directory import read_description
from formcoach.training.trainable import attend_by_sample

STEPS = ("--max-steps", 4, "--checkpoint-interval", -1, "--global-batch-size", 6)


def batches(project, processor, samples=6):
    small = project.small
    processor.min_frames, processor.max_frames = small.frames, small.more_frames or small.frames
    items = list(ClipDataset(read_samples(project.datasets, 42)[:samples], processor, {}))
    for packed in (False, True):
        batch = TrainingCollator(processor.tokenizer.pad_token_id, packed)(items)
        yield {name: value for name, value in batch.items() if name not in ("ids",)}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_packed_row_gives_the_losses_of_padded_rows(project, attention) -> None:
    model, processor = load_model(project.small.folder, dtype="float32", device="cpu", attention=attention)
    padded, packed = batches(project, processor)
    with torch.no_grad():
        one, answers = token_losses(model, padded)
        other, all_answers = token_losses(model, packed)
    assert packed["input_ids"].shape[0] == 1
    assert all_answers.all()
    assert torch.allclose(one[answers], other.flatten(), atol=1e-5)


def test_the_losses_are_those_of_the_whole_head(project) -> None:
    model, processor = load_model(project.small.folder, dtype="float32", device="cpu")
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


def test_the_last_layer_computes_what_answers_need(project) -> None:
    base, processor = load_model(project.small.folder, dtype="float32", device="cpu")
    family = project.small.family
    attend_by_sample(base, family)
    model = add_lora(base, family, str(project.small.folder), rank=4, alpha=8)
    for batch in batches(project, processor):
        seen, found = [], []
        last = last_layer(model, family)
        for chosen in (None, last):
            with watching(last.mlp, seen):
                losses, _ = token_losses(model, batch, chosen)
            losses.sum().backward()
            gradients = [one.grad.clone() for one in model.parameters() if one.grad is not None]
            model.zero_grad()
            found.append((losses.detach(), gradients))
        (whole, expected), (part, gradients) = found
        assert torch.allclose(part, whole, atol=1e-5)
        for one, other in zip(gradients, expected, strict=True):
            assert torch.allclose(one, other, atol=1e-5)
        assert seen == [batch["input_ids"].shape[1], len(batch["columns"])]


@contextmanager
def watching(module, seen):
    """Note how many positions of a row the module computes."""
    hook = module.register_forward_hook(lambda _, arguments, __: seen.append(arguments[0].shape[1]))
    yield
    hook.remove()


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


@pytest.mark.slow
def test_rows_hold_clips_of_as_many_visual_tokens_as_the_published_models_make(tmp_path, small_mobile, logged) -> None:
    project = make_project(tmp_path / "project", SmallModel(MOBILEVIDEOGPT, small_mobile, 16, None))
    flags = ("--max-steps", 2, "--checkpoint-interval", -1, "--global-batch-size", 4)
    run = project.train(*flags, "--mirco-batch-size", 1)
    project.train(*flags, "--dset-pack")
    packed = project.root / "run_2"
    assert logged(packed, "loss") == pytest.approx(logged(run, "loss"), abs=1e-5)
    resolved = read_description(packed).resolved
    assert resolved["longest_sample"] > 2402 and resolved["accumulation"] == 1  # four clips in the family's 10,240


def test_a_micro_batch_limits_the_samples_of_a_row(project) -> None:
    run = project.train(*STEPS, "--dset-pack", "--mirco-batch-size", 2)
    assert read_description(run).resolved["accumulation"] == 3
