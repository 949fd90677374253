"""A resumed run goes on as if it had not been stopped."""

import json
import shutil

import pytest
from small_models import checkpoint

from formcoach.errors import UserError
from formcoach.inference.runs import newest_run
from formcoach.models import resolve_checkpoint
from formcoach.training.run_directory import checkpoints

FLAGS = ("--epochs", 2, "--lora-dropout", 0.1, "--checkpoint-interval", 1, "--connector_lr", 1e-3)


def adapter(run, step):
    return (checkpoint(run, step) / "adapter_model.safetensors").read_bytes()


def forget_after(small, run, step):
    """Leave a run as a kill shortly after the checkpoint `step` does."""
    for later in small.steps(run):
        if later > step:
            shutil.rmtree(checkpoint(run, later))
    if small.family.runs.last is not None:
        shutil.rmtree(run / small.family.runs.last)
    (run / f".{small.checkpoint(9)}.abcd.tmp").mkdir()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')


@pytest.mark.parametrize("step", [2, 3], ids=["within an epoch", "at its end"])
def test_resumed_run_equals_the_uninterrupted_one(project, logged, step) -> None:
    run = project.train(*FLAGS)
    losses, validation, last = logged(run, "loss"), logged(run, "val_loss"), adapter(run, 6)
    best = (run / "best.json").read_text()
    forget_after(project.small, run, step)
    project.train(*FLAGS, "--resume")
    assert adapter(run, 6) == last
    assert logged(run, "loss") == losses
    assert logged(run, "val_loss") == validation
    assert (run / "best.json").read_text() == best
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_resume_from_goes_on_in_another_directory(project, logged) -> None:
    run = project.train(*FLAGS)
    last = adapter(run, 6)
    other = project.root / "other"
    project.train(*FLAGS, "--resume-from", checkpoint(run, 4), "--work-dir", other)
    assert adapter(other, 6) == last
    assert logged(other, "step")[0] == 5
    best = json.loads((other / "best.json").read_text())["checkpoint"]
    assert best in [project.small.checkpoint(step) for step in (5, 6)]


MOBILE = pytest.mark.parametrize(
    "small", [pytest.param("mobilevideogpt", marks=pytest.mark.slow)], indirect=True
)  # whose last checkpoint has a second name


@MOBILE
def test_second_name_of_the_last_checkpoint_stands_for_it(project, logged) -> None:
    flags = (*FLAGS, "--max-keep-ckpts", 1)
    run = project.train(*flags)
    final = run / "checkpoint-final"
    assert (final / "adapter_model.safetensors").samefile(checkpoint(run, 6) / "adapter_model.safetensors")
    assert [one.step for one in checkpoints(run)][-1] == 6 and len(checkpoints(run)) <= 2
    assert resolve_checkpoint(final) == final
    project.train(*flags, "--resume-from", final, "--force", "--max-steps", 8)
    assert project.small.steps(run)[-1] == 8 and logged(run, "step")[-2:] == [8, 8]
    assert (final / "adapter_model.safetensors").samefile(checkpoint(run, 8) / "adapter_model.safetensors")
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


@MOBILE
def test_second_name_alone_is_a_run_s_checkpoint_too(project, capsys) -> None:
    run = project.train("--max-steps", 2, "--checkpoint-interval", 1)
    last, final = adapter(run, 2), run / "checkpoint-final"
    for step in (1, 2):
        shutil.rmtree(checkpoint(run, step))
    assert resolve_checkpoint(run) == final and newest_run([run]) == run
    assert [(one.folder, one.step) for one in checkpoints(run)] == [(final, 2)]
    project.train("--max-steps", 2, "--checkpoint-interval", 1, "--resume")
    assert "nothing is left to train" in capsys.readouterr().out
    project.train("--max-steps", 1)
    assert f"{run} has checkpoints: this run goes to {run}_2" in capsys.readouterr().out
    assert (final / "adapter_model.safetensors").read_bytes() == last


@MOBILE
def test_run_that_was_killed_before_its_end_had_a_name_gets_it(project) -> None:
    run = project.train("--max-steps", 2)
    shutil.rmtree(run / "checkpoint-final")
    project.train("--max-steps", 2, "--resume")
    assert (run / "checkpoint-final" / "resume" / "trainer_state.json").is_file()


@MOBILE
def test_second_name_without_what_resuming_needs_is_refused(project) -> None:
    run = project.train("--max-steps", 2, "--checkpoint-drop-optimizer")
    with pytest.raises(UserError, match=r"checkpoint-final cannot be resumed: .* --checkpoint-drop-optimizer"):
        project.train("--max-steps", 2, "--resume-from", run / "checkpoint-final")


def test_finished_run_is_not_trained_again(project, capsys) -> None:
    run = project.train("--max-steps", 1)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    project.train("--max-steps", 1, "--resume")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert "nothing is left to train" in capsys.readouterr().out


def test_equal_run_is_reused_and_another_is_not(project, steps) -> None:
    run = project.train("--max-steps", 2)
    forget_after(project.small, run, 1)
    project.train("--max-steps", 2, "--reuse", "--num-workers", 1)
    assert steps(run) == [1, 2]
    project.train("--max-steps", 1, "--reuse")
    assert steps(project.root / "run_2") == [1]


def test_changed_settings_and_data_are_listed(project) -> None:
    project.train("--max-steps", 2)
    annotation = project.root / "data" / "annotaions" / "train.jsonl"
    annotation.write_text(annotation.read_text().replace("What is wrong?", "What is it?"))
    with pytest.raises(UserError, match=r"lr was 0.01 and is 0.02.*train.jsonl has changed"):
        project.train("--max-steps", 2, "--resume", "--lr", 0.02)


def test_resume_without_a_checkpoint(project, steps) -> None:
    with pytest.raises(UserError, match="no such folder"):
        project.train("--max-steps", 1, "--resume")
    run = project.root / "run"
    run.mkdir()  # a run that was stopped before its first checkpoint
    project.train("--max-steps", 1, "--resume")
    assert steps(run) == [1]
    with pytest.raises(UserError, match="is no complete checkpoint"):
        project.train("--resume-from", project.root / "data")
    (checkpoint(run, 1) / "resume" / "optimizer.safetensors").unlink()
    shutil.copytree(run, project.root / "longer")
    with pytest.raises(UserError, match=r"optimizer\.safetensors: no such file"):
        state = checkpoint(project.root / "longer", 1) / "resume" / "trainer_state.json"
        state.write_text(state.read_text().replace('"max_steps": 1', '"max_steps": 2'))
        project.train("--max-steps", 1, "--resume-from", checkpoint(project.root / "longer", 1))


def test_clip_that_went_bad_is_noticed_when_resuming(project) -> None:
    project.train(*FLAGS, "--skip-bad-clips")
    shutil.rmtree(checkpoint(project.root / "run", 6))
    project.clips[1].write_bytes(b"")
    with pytest.raises(UserError, match=r"had 6 training samples .* and has 5 now"):
        project.train(*FLAGS, "--skip-bad-clips", "--resume")
