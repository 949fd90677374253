"""A trained adapter in its run directory, a hub to upload to, and the command as users start it."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from hub_upload_stub import UploadStub
from shared_model import BASE, COMMAND, PERSON, REPOSITORY
from small_models import small_model

from formcoach.files import write_json
from formcoach.models import load_model
from formcoach.models.adapters import add_lora, save_adapter
from formcoach.models.internvideo import INTERNVIDEO
from formcoach.models.mobilevideogpt import MOBILEVIDEOGPT
from formcoach.training.run_directory import name_last


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run directory below a private path: one checkpoint, its evaluation, and what training leaves beside them."""
    return write_run(tmp_path_factory.mktemp(PERSON) / "run", BASE, INTERNVIDEO)


@pytest.fixture(scope="session")
def other_family(tmp_path_factory):
    """A small model of the other family, and such a run of it, whose checkpoint has a second name."""
    small = small_model(MOBILEVIDEOGPT.key, tmp_path_factory.mktemp("small"))
    run = write_run(tmp_path_factory.mktemp(PERSON) / "run", small.folder, small.family)
    name_last(run, small.family.runs.last)
    return small, run


def write_run(run, base, family):
    """Write a run of a base model; return its directory."""
    torch.manual_seed(1)
    model, processor = load_model(base, dtype="float32", device="cpu")
    adapted = add_lora(model, family, str(base), rank=4, alpha=8)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            parameter.data += (0.1 if ".lora_" in name else 0.02) * torch.randn_like(parameter)
    checkpoint = run / f"{family.runs.checkpoint}4"
    save_adapter(adapted, processor, checkpoint)
    (checkpoint / "resume").mkdir()
    write_json(checkpoint / "resume" / "trainer_state.json", {"global_step": 4, "max_steps": 8})
    (checkpoint / "resume" / "optimizer.safetensors").write_bytes(b"optimizer")
    (checkpoint / "optimizer.pt").write_bytes(b"optimizer")
    (checkpoint / "squat.mp4").write_bytes(b"clip")
    (run / "train.log").write_text(f"/home/{PERSON}/clips")
    labels = run.parent / "data"
    settings = {"model": str(base), "datasets": str(labels / "diy_ft_data.json"), "work_dir": str(run), "epochs": 3.0}
    settings |= {"lora_rank": 4, "lr": 1e-05, "freeze_vit": True, "vit_lr": 5e-06, "quantization": "nf4", "seed": 42}
    description = {
        "settings": settings,
        "base": "0" * 64,
        "resolved": {"steps": 8, "training_samples": 210, "validation_samples": 0, "device": "cpu"},
        "versions": {"formcoach": "0.1.0", "torch": "2.13.0", "deepspeed": None},
        "data": {
            str(labels / "qevd_fit_300k_train.jsonl"): "a" * 64,
            str(labels / f"{PERSON}.jsonl"): "b" * 64,
            str(labels / "more" / f"{PERSON}.jsonl"): "c" * 64,
        },
    }
    write_json(run / "training_config.json", description)
    write_json(run / "best.json", {"checkpoint": checkpoint.name, "val_loss": 0.5})
    scores = {
        "base": {"clips": 75, "failed": 0, "exercise_match": 0.0, "fault_match": None, "rouge_l": 0.08},
        "tuned": {
            "clips": 75,
            "failed": 2,
            "exercise_match": 1.0,
            "fault_match": 0.827,
            "rouge_l": 0.878,
            "words": 9.5,
        },
    }
    write_json(run / "evaluation" / "scores.json", scores)
    return run


@pytest.fixture
def run_directory(trained, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(trained, tmp_path / PERSON / "run")


@pytest.fixture
def hub():
    with UploadStub() as stub:
        stub.publish("org/base", BASE, "main")
        yield stub


@pytest.fixture
def start(hub, tmp_path):
    """Starts a program with the hub in its environment; `HF_TOKEN` is a writer's unless another is given."""

    def start(*command, **variables):
        environment = hub.environment(
            tmp_path, **({"HF_TOKEN": "hf_writer", "PYTHONPATH": str(REPOSITORY)} | variables)
        )
        return subprocess.Popen(
            [sys.executable, *map(str, command)],
            env={name: value for name, value in environment.items() if value is not None},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture
def upload(start):
    """Runs the command; returns its exit code, output and errors."""

    def run(*flags, **variables):
        process = start(COMMAND, "--repo_name", "coach", *flags, **variables)
        output, errors = process.communicate(timeout=600)
        return process.returncode, output, errors

    return run


@pytest.fixture
def refused(upload):
    """Runs the command, which ends with one line; returns that line."""

    def run(*flags, **variables):
        code, _, errors = upload(*flags, **variables)
        lines = [line for line in errors.splitlines() if not line.startswith("notice: ")]
        assert code == 2, errors
        assert len(lines) == 1, errors
        return lines[0].removeprefix("error: ")

    return run


@pytest.fixture
def edit():
    """Changes values of a JSON file."""

    def edit(path, **values):
        before = json.loads(path.read_text())
        path.write_text(json.dumps(before | values))

    return edit
