"""Training on a model of the hub: the run records which commit it was, and goes on with that one only."""

import json
import shutil

import pytest
from hub_stub import HubStub
from safetensors.torch import load_file, save_file
from small_models import ONE

SHARD = "model-00002-of-00002.safetensors"


@ONE
@pytest.mark.slow
def test_a_run_goes_on_with_the_commit_that_it_was_started_with(project) -> None:
    moved = project.root / "moved"
    base = project.small.folder
    shutil.copytree(base, moved)
    tensors = {name: tensor * 1.5 for name, tensor in load_file(moved / SHARD).items()}
    save_file(tensors, moved / SHARD, {"format": "pt"})
    run = project.root / "run"
    flags = ("--work-dir", run, "--deepspeed", "none", "--checkpoint-interval", 1)
    with HubStub() as hub:
        commit = hub.publish("org/tiny", base, "main")
        variables = hub.environment(project.root)
        code, _, errors = project.command("--model", "org/tiny", "--max-steps", 2, *flags, **variables)
        assert code == 0, errors
        assert json.loads((run / "training_config.json").read_text())["revision"] == commit
        assert json.loads((run / "step_2" / "base_model.json").read_text())["revision"] == commit

        hub.publish("org/tiny", moved, "main")
        shutil.rmtree(run / "step_2")
        code, _, errors = project.command("--model", "org/tiny", "--max-steps", 2, "--resume", *flags, **variables)
        assert code == 2
        assert f"the weights of org/tiny have changed (it was trained on org/tiny@{commit})" in errors
        pinned = f"org/tiny@{commit}"
        code, _, errors = project.command("--model", pinned, "--max-steps", 2, "--resume", *flags, **variables)
        assert code == 0, errors
        assert (run / "step_2").is_dir()
