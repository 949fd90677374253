"""Training on clips that are augmented as they are read."""

import json
import shutil

import pytest
from small_models import checkpoint

FLAGS = ("--epochs", 2, "--checkpoint-interval", 1, "--lora-dropout", 0)
STILL = ("--lr", 1e-12, "--connector_lr", 0)  # nothing is learned: losses differ only where clips do


def augment(project, name="diy_ft_data.json"):
    path = project.root / "data" / name
    registry = json.loads(path.read_text())
    registry["demo"]["data_augment"] = True
    path.write_text(json.dumps(registry))


def adapter(run):
    return (checkpoint(run, 6) / "adapter_model.safetensors").read_bytes()


def test_augmented_run_resumes_within_an_epoch_bit_for_bit(project, logged, capsys) -> None:
    augment(project)
    run = project.train(*FLAGS, "--num-workers", 0)
    assert "training clips are augmented: horizontal_flip, rotation" in capsys.readouterr().out
    losses, last = logged(run, "loss"), adapter(run)
    shutil.rmtree(checkpoint(run, 6))
    shutil.rmtree(checkpoint(run, 5))
    project.train(*FLAGS, "--num-workers", 2, "--resume")
    assert adapter(run) == last
    assert logged(run, "loss") == losses


def test_every_epoch_sees_other_clips_and_validation_the_same(project, logged, capsys) -> None:
    flags = ("--epochs", 3, "--global-batch-size", 6, *STILL, "--checkpoint-interval", 1)
    plain = project.train(*flags)
    assert len({round(loss, 5) for loss in logged(plain, "loss")}) == 1
    augment(project)
    augment(project, "diy_ft_data_val.json")
    other = project.root / "other"
    project.train(*flags, "--num-workers", 1, "--work-dir", other)
    assert len({round(loss, 5) for loss in logged(other, "loss")}) == 3
    assert "validation clips are never augmented" in capsys.readouterr().out
    assert logged(other, "val_loss") == pytest.approx(logged(plain, "val_loss"), abs=1e-5)


@pytest.mark.slow
def test_every_epoch_sees_other_clips_in_two_processes_with_deepspeed(project, logged) -> None:
    augment(project)
    run, launcher = project.root / "run", ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    flags = ("--work-dir", run, "--epochs", 3, "--global-batch-size", 6, *STILL, "--num-workers", 1)
    code, _, errors = project.command(*flags, launcher=launcher)
    assert code == 0, errors
    assert len({round(loss, 5) for loss in logged(run, "loss")}) == 3
