"""`--dry-run`: what it prints is what a run then does, and it leaves no trace."""

import json
import re
import sys

import pytest
from hub_stub import HubStub
from small_models import ONE

from formcoach.errors import UserError


def trained(output: str) -> dict[str, int]:
    """Return the printed counts of trained weights."""
    rows = re.findall(r"^(language model|connector|vision tower) +([\d,]+) weights trained", output, re.MULTILINE)
    return {name: int(count.replace(",", "")) for name, count in rows}


def files(project) -> set[str]:
    return {str(path) for path in project.root.rglob("*")}


@pytest.mark.parametrize(
    "flags",
    [
        ("--epochs", 2, "--mirco-batch-size", 2, "--global-batch-size", 4),
        ("--max-steps", 3, "--dset-pack", "--lora-targets", "q_proj,v_proj"),
        ("--max-steps", 2, "--lora-vit", "--no-lora", "--connector_lr", 0),
    ],
)
def test_what_is_told_is_what_is_done(project, capsys, flags):
    flags = (*flags, "--checkpoint-interval", 1)
    before = files(project)
    project.train(*flags, "--dry-run", "--dset-cache-dir", project.root / "cache")
    told = capsys.readouterr().out
    assert files(project) == before

    run = project.train(*flags)
    done = capsys.readouterr().out
    resolved = json.loads((run / "training_config.json").read_text())["resolved"]
    saved = project.small.steps(run)
    assert re.search(rf"^optimizer steps +{resolved['steps']}: ", told, re.MULTILINE)
    assert re.search(rf"^checkpoints at +{', '.join(map(str, saved))}$", told, re.MULTILINE)
    assert f"{resolved['longest_sample']} at most" in told
    assert f"demo {resolved['training_samples']} samples" in told
    assert f"validation: {resolved['validation_samples']} samples" in told
    accumulation = resolved["accumulation"]
    assert f" x {accumulation} (accumulation) x 1 process" in told or f"at most {accumulation} a step" in told
    assert f"training {sum(trained(told).values()) / 1e6:.2f} million parameters" in done
    for line in told.splitlines():
        if re.match(r"tokens a sample|  (text|visual|answer|all) ", line):
            assert line in done
    assert f"run directory      {run}" in told


def test_an_attention_that_is_not_to_be_had_is_told_before_anything_is_trained(project):
    with pytest.raises(UserError, match="attention flash_attention_2 needs a CUDA GPU"):
        project.train("--dry-run", "--attn", "flash_attention_2")


def test_parts_of_the_memory_add_up(project, capsys):
    project.train("--dry-run")
    output = capsys.readouterr().out
    report = output[output.index("memory, estimated") :]
    units = {"GB": 1e9, "MB": 1e6}
    found = re.findall(r"^  ([a-z ]+?) +([\d.,]+) ([GM]B)", report, re.MULTILINE)
    rows = {name: float(amount.replace(",", "")) * units[unit] for name, amount, unit in found}
    peak = rows.pop("peak")
    assert rows.pop("there is") > peak
    assert list(rows) == ["weights", "adapter", "gradients", "optimizer", "activations", "overhead"]
    assert sum(rows.values()) == pytest.approx(peak, rel=0.02)
    assert "warning" not in output


@ONE
def test_what_does_not_fit_is_told_with_advice(project, capsys, monkeypatch):
    from formcoach.training import memory_report
    from formcoach.training.available_memory import Available

    small = Available("the computer", 0.27e9, 0.27e9)
    monkeypatch.setattr(memory_report, "available_memory", lambda place, cuda: small)
    project.train("--dry-run", "--mirco-batch-size", 64, "--global-batch-size", 64)
    warning = capsys.readouterr().out.splitlines()[-1]
    assert warning.startswith("warning: does not fit; should fit: --mirco-batch-size ")


@ONE
def test_the_memory_of_a_model_with_one_number_of_frames(project, small_mobile, capsys, monkeypatch):
    from formcoach.training import memory_report
    from formcoach.training.available_memory import Available

    flags = "--model", small_mobile, "--min_num_frames", 16, "--max_num_frames", 16, "--dry-run"
    project.train(*flags, "--mirco-batch-size", 1)
    output = capsys.readouterr().out
    assert re.search(r"^  visual +2,402 +2,402", output, re.MULTILINE)
    activations = float(re.search(r"^  activations +([\d.]+) MB$", output, re.MULTILINE)[1])
    assert 3 < activations < 30  # of one clip
    assert "warning" not in output

    small = Available("the computer", 0.27e9, 0.27e9)
    monkeypatch.setattr(memory_report, "available_memory", lambda place, cuda: small)
    project.train(*flags, "--mirco-batch-size", 8, "--global-batch-size", 8)
    warning = capsys.readouterr().out.splitlines()[-1]
    assert warning.startswith("warning: does not fit; should fit: --mirco-batch-size ")
    assert "frames" not in warning


def test_mistakes_are_found(project):
    with pytest.raises(UserError, match="6 samples have more than --max-length 20 tokens"):
        project.train("--dry-run", "--max-length", 20)


@ONE
def test_weights_are_neither_read_nor_downloaded(project):
    with HubStub() as hub:
        commit = hub.publish("org/tiny", project.small.folder, "main")
        code, output, errors = project.command("--model", "org/tiny", "--dry-run", **hub.environment(project.root))
        asked = " ".join(map(str, hub.asked))
    assert code == 0, errors
    assert f"org/tiny at {commit[:12]}, InternVideo2.5" in output
    assert "config.json" in asked
    assert ".safetensors" not in asked.replace("safetensors.index.json", "")


@ONE
@pytest.mark.skipif(sys.platform == "win32", reason="DeepSpeed")
def test_several_processes_tell_it_once(project):
    before = files(project)
    code, output, errors = project.command("--dry-run", "--global-batch-size", 4, NPROC_PER_NODE="2")
    assert (code, errors) == (0, "")
    assert output.count("optimizer steps") == 1
    assert "4 clips = 1 (micro batch) x 2 (accumulation) x 2 processes" in output
    assert "memory of each process, estimated" in output
    assert files(project) == before
