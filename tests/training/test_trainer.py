"""What a training learns, writes and keeps; plain PyTorch in this process."""

import json

import pytest
import torch
from safetensors.torch import load_file
from small_models import EVERY, checkpoint

from formcoach.data.collate import NO_LOSS
from formcoach.data.dataset import ClipDataset, read_samples
from formcoach.errors import UserError
from formcoach.models import load_model
from formcoach.training.run_directory import read_description, remove_old_checkpoints


def weights(run, step):
    return load_file(checkpoint(run, step) / "adapter_model.safetensors")


@EVERY
def test_training_learns_and_its_best_checkpoint_is_recorded(project, logged) -> None:
    run = project.train("--epochs", 4, "--connector_lr", 1e-3)
    losses, validation = logged(run, "loss"), logged(run, "val_loss")
    assert losses[-1] < 0.8 * losses[0]
    assert len(losses) == 12
    assert len(validation) == 4
    best = json.loads((run / "best.json").read_text())
    assert best["val_loss"] == min(validation)
    assert (run / best["checkpoint"]).is_dir()


def test_validation_loss_is_the_mean_over_all_answer_tokens(project, logged) -> None:
    run = project.train("--max-steps", 1, "--mirco-batch-size", 2)
    model, processor = load_model(run, dtype="float32", device="cpu")
    samples = read_samples(project.datasets.with_name("diy_ft_data_val.json"), seed=42)
    losses = []
    for item in ClipDataset(samples, processor, {}):
        with torch.no_grad():
            logits = model(input_ids=item["input_ids"][None], pixel_values=item["pixel_values"]).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, item["labels"][1:], reduction="none"))
        losses[-1] = losses[-1][item["labels"][1:] != NO_LOSS]
    assert len(losses[0]) != len(losses[1])
    assert logged(run, "val_loss")[-1] == pytest.approx(torch.cat(losses).mean().item(), abs=1e-5)


def test_run_directory_holds_what_the_design_says(project, steps) -> None:
    run = project.train("--max-steps", 3, "--checkpoint-interval", 2)
    assert steps(run) == [2, 3]
    names = {path.name for path in (run / project.small.checkpoint(3)).iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "processor_config.json", "tokenizer.json"} <= names
    assert {path.suffix for path in run.rglob("*") if path.is_file()}.isdisjoint({".pt", ".pth", ".bin", ".pkl"})
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
    assert any(run.glob("events.out.tfevents.*"))
    assert "step 3/3" in (run / "train.log").read_text()
    description = read_description(run)
    assert description.settings["seed"] == 42
    assert description.settings["max_steps"] == 3
    assert description.versions["torch"] == torch.__version__
    assert len(description.data) == 4  # two registries, two files of conversations


def test_closing_report_names_the_adapter_and_the_next_command(project, capsys) -> None:
    run = project.train("--max-steps", 2)
    *_, done, adapter, following = capsys.readouterr().out.splitlines()
    for part in ("2 steps", "samples/s", "best validation loss", "waiting for data", "peak memory"):
        assert part in done
    assert adapter == f"adapter: {run / project.small.checkpoint(2)}"
    assert following.startswith("next: ")
    assert str(run) in following


def test_each_part_is_trained_at_its_own_rate(project, logged) -> None:
    rates = {"lr": 4e-3, "connector_lr": 2e-3, "vit_lr": 1e-3}
    flags = [part for name, rate in rates.items() for part in (f"--{name}", rate)]
    run = project.train("--lora-vit", "--max-steps", "1", *flags)
    assert {name: logged(run, name) for name in rates} == {name: [rate] for name, rate in rates.items()}
    # Adam's first step moves every weight that has a gradient by its learning rate; LoRA's B starts at 0.
    moved = weights(run, 1)
    for part, rate in (("language_model", "lr"), ("vision_tower", "vit_lr")):
        after = torch.cat([value.flatten() for name, value in moved.items() if part in name and "lora_B" in name])
        assert after.abs().max().item() == pytest.approx(rates[rate], rel=1e-3)
    base, _ = load_model(read_description(run).settings["model"], dtype="float32", device="cpu")
    connector = [name for name in base.state_dict() if "multi_modal_projector" in name and name.endswith("bias")]
    assert connector
    for bias in connector:
        after = next(value for name, value in moved.items() if name.endswith(bias))
        change = (after - base.state_dict()[bias]).abs().max().item()
        assert change == pytest.approx(rates["connector_lr"], rel=1e-3), bias


def test_rate_of_zero_freezes_the_connector(project, logged) -> None:
    run = project.train("--max-steps", 1, "--connector_lr", 0)
    assert logged(run, "connector_lr") == [0.0]
    assert not any("multi_modal_projector" in name for name in weights(run, 1))


def test_freeze_llm_trains_the_connector_alone(project) -> None:
    run = project.train("--max-steps", 1, "--freeze-llm")
    assert all("multi_modal_projector" in name for name in weights(run, 1))


def test_padded_batches_give_the_loss_of_single_samples(project, logged) -> None:
    flags = ("--max-steps", 3, "--global-batch-size", 4, "--checkpoint-interval", -1)
    run = project.train(*flags)
    single = logged(run, "loss")
    project.train(*flags, "--mirco-batch-size", 4)
    padded = logged(project.root / "run_2", "loss")
    assert padded == pytest.approx(single, abs=1e-5)


def test_gradient_checkpointing_changes_memory_and_not_the_loss(project, logged) -> None:
    run = project.train("--max-steps", 2, "--selective-recompute", 1)
    project.train("--max-steps", 2, "--selective-recompute", 0)
    assert logged(project.root / "run_2", "loss") == pytest.approx(logged(run, "loss"), abs=1e-6)


def test_clips_read_ahead_give_the_same_losses_as_clips_in_memory(project, logged) -> None:
    flags = ("--max-steps", 4, "--checkpoint-interval", -1)
    run = project.train(*flags, "--num-workers", 0)
    from formcoach.training import inputs

    budget, inputs.KEEP_BYTES = inputs.KEEP_BYTES, 0
    try:
        project.train(*flags, "--num-workers", 1)
    finally:
        inputs.KEEP_BYTES = budget
    assert logged(project.root / "run_2", "loss") == logged(run, "loss")


def test_same_seed_gives_the_same_weights(project) -> None:
    run = project.train("--max-steps", 2, "--lora-dropout", 0.1)
    project.train("--max-steps", 2, "--lora-dropout", 0.1)
    project.train("--max-steps", 2, "--lora-dropout", 0.1, "--seed", 7)
    once, again, other = (weights(run.with_name(name), 2) for name in ("run", "run_2", "run_3"))
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert not all(torch.equal(once[name], other[name]) for name in once)


def test_nf4_trains_and_its_adapter_fits_the_base_in_full_precision(project, logged) -> None:
    run = project.train("--max-steps", 3, "--quantization", "nf4", "--dtype", "bf16")
    plain = project.train("--max-steps", 3, "--work-dir", project.root / "plain").with_name("plain")
    assert logged(run, "loss") != logged(plain, "loss")
    assert logged(run, "loss") == pytest.approx(logged(plain, "loss"), rel=0.1)
    model, _ = load_model(run, dtype="float32", device="cpu")
    assert model.peft_config["default"].r == 16


def test_second_run_leaves_the_first_alone(project, capsys) -> None:
    run = project.train("--max-steps", 1)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    project.train("--max-steps", 1)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert f"{run} has checkpoints: this run goes to {run}_2" in capsys.readouterr().out
    assert checkpoint(project.root / "run_2", 1).is_dir()


def test_old_checkpoints_go_but_the_best_stays(project, logged, steps) -> None:
    run = project.train("--max-steps", 6, "--checkpoint-interval", 1, "--max-keep-ckpts", 2)
    validation = logged(run, "val_loss")
    best = validation.index(min(validation)) + 1
    assert steps(run) == sorted({best, 5, 6})


def test_the_best_checkpoint_stays_however_old(project, steps) -> None:
    run = project.train("--max-steps", 4, "--checkpoint-interval", 1)
    remove_old_checkpoints(run, keep=1, best_step=2)
    assert steps(run) == [2, 4]


def test_dropped_optimizer_makes_small_checkpoints_that_say_so(project) -> None:
    run = project.train("--max-steps", 2, "--checkpoint-interval", 1, "--checkpoint-drop-optimizer")
    assert not (checkpoint(run, 1) / "resume").exists()
    with pytest.raises(UserError, match="--checkpoint-drop-optimizer"):
        project.train("--max-steps", 2, "--resume")


def test_loss_that_is_not_finite_stops_and_names_the_samples(project) -> None:
    with pytest.raises(UserError, match=r"the loss is (nan|inf) in step \d+, samples train-\d, .*lower --lr"):
        project.train("--epochs", 10, "--lr", 1e30, "--max-grad-norm", 1e30, "--mirco-batch-size", 2)


def test_without_validation_data_the_newest_checkpoint_counts(project, capsys) -> None:
    project.datasets.with_name("diy_ft_data_val.json").unlink()
    run = project.train("--max-steps", 2)
    assert not (run / "best.json").exists()
    output = capsys.readouterr().out
    assert "no validation data" in output
    assert f"adapter: {run / project.small.checkpoint(2)}" in output
