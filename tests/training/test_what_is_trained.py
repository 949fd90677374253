"""Flags that decide what is trained and how it is computed: each is seen in what comes out."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from small_models import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from formcoach.errors import UserError
from formcoach.models import load_model
from formcoach.models.adapters import add_lora
from formcoach.training.recompute import recompute

STEP = ("--max-steps", 1)


def trained(run, step=1):
    """Return the saved tensors."""
    return load_file(checkpoint(run, step) / "adapter_model.safetensors")


def layers(run):
    """Return the linear layers that have LoRA, by the last part of their names."""
    return {re.search(r"\.(\w+)\.lora_A", name)[1] for name in trained(run) if "lora_A" in name}


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("q_proj, v_proj", {"q_proj", "v_proj"}),
        ("all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        (r".*language_model\.layers\.0\.mlp\.\w+_proj", {"gate_proj", "up_proj", "down_proj"}),
    ],
)
def test_lora_targets(project, wanted, found) -> None:
    run = project.train(*STEP, "--lora-targets", wanted)
    assert layers(run) == found
    assert not any("vision_tower" in name for name in trained(run))
    load_model(run, device="cpu")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("q_proj,nothing", "no linear layer 'nothing'; it has down_proj, gate_proj"),
        ("(", "is no regular expression"),
        ("xyz.*", "matches no linear layer"),
        (r".*fc1", r"matches .*vision_tower.*, which is no linear layer of the language model"),
    ],
)
def test_lora_targets_that_fit_nothing(project, wanted, message) -> None:
    with pytest.raises(UserError, match=message):
        project.train(*STEP, "--lora-targets", wanted)


def test_rank_alpha_and_dropout_reach_the_adapter(project) -> None:
    run = project.train(*STEP, "--lora-rank", 3, "--lora-alpha", 5, "--lora-dropout", 0.25)
    config = json.loads((checkpoint(run, 1) / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (3, 5, 0.25)
    assert {value.shape[0] for name, value in trained(run).items() if "lora_A" in name} == {3}


def test_lora_on_the_vision_tower_beside_frozen_weights(project) -> None:
    names = trained(project.train(*STEP, "--lora-vit", "--vit_lr", 1e-3))
    vision = [name for name in names if "vision_tower" in name]
    assert vision
    assert all("lora" in name for name in vision)


def test_without_freeze_vit_the_vision_tower_is_trained_in_full(project, logged) -> None:
    run = project.root / "run"
    flags = [flag for flag in project.flags("--work-dir", run, "--deepspeed", "none", *STEP) if flag != "--freeze-vit"]
    from formcoach.training.launch import main

    main([*flags, "--vit_lr", "1e-3"])
    assert logged(run, "vit_lr") == [1e-3]
    base, _ = load_model(project.small.folder, dtype="float32", device="cpu")
    layers = {"internvideo": "encoder.layer", "mobilevideogpt": "image.encoder.layers"}[project.small.family.key]
    name = f"{layers}.0.mlp.fc1.weight"
    after = next(value for key, value in trained(run).items() if key.endswith(f"vision_tower.{name}"))
    moved = (after - base.model.vision_tower.get_parameter(name)).abs().max().item()
    assert moved == pytest.approx(1e-3, rel=0.05)


def test_no_lora_trains_the_language_model_and_its_head_in_full(project, logged) -> None:
    run = project.train("--max-steps", 3, "--no-lora", "--lr", 1e-3, "--checkpoint-interval", -1)
    names = trained(run, 3)
    assert not any("lora" in name for name in names)
    assert any(name.endswith("lm_head.weight") for name in names)
    base, _ = load_model(project.small.folder, dtype="float32", device="cpu")
    untrained = len([name for name, _ in base.named_parameters() if "vision_tower" in name])
    assert len(names) == len(list(base.parameters())) - untrained
    assert logged(run, "loss")[-1] < logged(run, "loss")[0]
    tuned, _ = load_model(run, dtype="float32", device="cpu")  # evaluation switches it off to compare with the base
    ids = torch.tensor([[1, 5, 9]])
    with torch.no_grad(), tuned.disable_adapter():
        assert torch.equal(tuned(input_ids=ids).logits, base(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--no-lora", "--quantization", "nf4"), "would train the language model's weights"),
        (("--no-lora", "--lora-targets", "q_proj"), "--lora-targets contradicts --no-lora"),
        (("--liger",), "--liger: Liger's kernels run on CUDA GPUs only"),
        (("--concat-before-pack",), "needs --dset-pack"),
        (("--pack-max-length", 100), "needs --dset-pack"),
        (("--feature-variants", 2), "needs --feature-cache"),
        (("--force",), "needs --resume"),
        (("--attn", "flash_attention_2"), "needs a CUDA GPU"),
    ],
)
def test_flags_that_do_not_go_together(project, flags, message) -> None:
    with pytest.raises(UserError, match=message):
        project.train(*STEP, *flags)


@pytest.mark.parametrize(("share", "count"), [(0, 0), (0.2, 1), (0.5, 1), (1, 1)])
def test_a_share_of_the_layers_is_computed_again(project, share, count) -> None:
    model, _ = load_model(project.small.folder, dtype="float32", device="cpu")
    family = project.small.family
    model = add_lora(model, family, str(project.small.folder), rank=2, alpha=2)
    assert recompute(model, family, share) == count
    on = [
        name
        for name, module in model.named_modules()
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing
    ]
    assert len(on) == count
    assert not any("vision_tower" in name for name in on)


def test_recomputing_changes_no_loss(project, logged) -> None:
    for share in (0, 0.5, 1):
        project.train("--max-steps", 2, "--selective-recompute", share)
    first, *others = (logged(project.root / name, "loss") for name in ("run", "run_2", "run_3"))
    for losses in others:
        assert losses == pytest.approx(first, abs=1e-6)


def test_attention_changes_how_and_not_what_is_computed(project, logged) -> None:
    run = project.train("--max-steps", 2, "--attn", "sdpa")
    project.train("--max-steps", 2, "--attn", "eager")
    sdpa, eager = logged(run, "loss"), logged(project.root / "run_2", "loss")
    assert eager == pytest.approx(sdpa, abs=1e-5)


def test_group_by_length_orders_the_samples_in_another_way(project, logged) -> None:
    run = project.train("--epochs", 1)
    project.train("--epochs", 1, "--group-by-length")
    project.train("--epochs", 1, "--group-by-modality-length")
    plain, grouped, same = (logged(run.with_name(name), "loss") for name in ("run", "run_2", "run_3"))
    assert plain != grouped
    assert grouped == same


def test_two_data_sets_with_shares_and_readers_of_their_own(project, capsys) -> None:
    entry = json.loads(project.datasets.read_text())["demo"]
    other = project.root / "more"
    (project.root / "dataset").rename(other)
    half = entry | {"root": "more", "repeat_time": 0.5, "video_read_type": "pyav"}
    double = entry | {"root": "more", "repeat_time": 2, "sampling_strategy": "first:2", "video_read_type": "opencv"}
    project.datasets.write_text(json.dumps({"half": half, "double": double}))
    val = project.datasets.with_name("diy_ft_data_val.json")
    val.write_text(val.read_text().replace('"dataset"', '"more"'))
    run = project.train("--epochs", 1)
    assert json.loads((run / "training_config.json").read_text())["resolved"]["training_samples"] == 3 + 4
    assert "7 samples" in capsys.readouterr().out


def test_forced_resumption_goes_on_with_changed_settings_and_lists_them(project, logged, capsys) -> None:
    run = project.train("--max-steps", 2)
    project.train("--max-steps", 4, "--resume", "--force", "--lr", 5e-3, "--warmup-ratio", 0)
    output = capsys.readouterr().out
    assert "--force: lr was 0.01 and is 0.005" in output
    assert "--force: max_steps was 2 and is 4" in output
    assert logged(run, "step") == [1, 1, 2, 2, 3, 3, 4, 4]
    assert logged(run, "lr")[2] == pytest.approx(5e-3 * 0.5, rel=1e-6)  # half of the cosine lies behind
    assert json.loads((run / "training_config.json").read_text())["settings"]["max_steps"] == 4
