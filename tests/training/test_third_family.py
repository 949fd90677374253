"""A third family trains, resumes, answers and is reported on once it is registered; nothing else has heard of it."""

import json
import shutil

import pytest
from conftest import logged, make_project
from inference.conftest import conversation
from inference.test_commands import command
from msgspec.structs import replace
from patchwork import GROUP, patchwork, write_patchwork
from small_models import SmallModel

from formcoach import models
from formcoach.data.annotations import write_conversations
from formcoach.inference.predictions import read_predictions
from formcoach.models import family_of, load_model
from formcoach.training.launch import main
from formcoach.training.run_directory import checkpoints

FLAGS = ("--max-steps", 4, "--checkpoint-interval", 2, "--lora-dropout", 0.1)


@pytest.fixture
def registered(tmp_path, monkeypatch):
    """The family, and its small model."""
    family = patchwork(write_patchwork(tmp_path / "base"))
    monkeypatch.setattr(models, "FAMILIES", (*models.FAMILIES, family))
    return SmallModel(family, tmp_path / "base", GROUP, 2 * GROUP)


@pytest.fixture
def project(tmp_path, registered):
    return make_project(tmp_path / "project", registered)


def adapter(folder) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_it_trains_and_goes_on(project, registered) -> None:
    run = project.train(*FLAGS)
    losses, last = logged(run, "loss"), adapter(run / "after-4")
    assert len(losses) == 4 and registered.steps(run) == [2, 4]
    assert adapter(run / "finished") == last
    shutil.rmtree(run / "after-4")
    shutil.rmtree(run / "finished")
    (run / ".after-4.abcd.tmp").mkdir()
    project.train(*FLAGS, "--resume")
    assert logged(run, "loss") == losses
    assert adapter(run / "after-4") == adapter(run / "finished") == last
    assert not list(run.glob(".*"))
    project.train(*FLAGS, "--resume-from", run / "finished", "--force", "--max-steps", 5, "--max-keep-ckpts", 1)
    assert checkpoints(run)[-1].step == 5
    assert adapter(run / "finished") == adapter(run / "after-5") != last


def test_packed_rows_and_kept_features_change_no_loss(project) -> None:
    flags = ("--max-steps", 3, "--checkpoint-interval", -1, "--global-batch-size", 4)
    run = project.train(*flags)
    project.train(*flags, "--dset-pack", "--feature-cache", project.root / "features")
    project.train(*flags, "--feature-cache", project.root / "features")
    for other in ("run_2", "run_3"):
        for name in ("loss", "val_loss"):
            assert logged(project.root / other, name) == pytest.approx(logged(run, name), abs=1e-5)
    assert list((project.root / "features").rglob("*.safetensors"))


def test_it_answers_and_is_reported_on(project, registered, monkeypatch, capsys) -> None:
    monkeypatch.chdir(project.root)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    # Neither the model nor a run directory is named: the family says both.
    named = ("--family", "patchwork", "--datasets", project.datasets, "--deepspeed", "none", "--max-steps", 2)
    main([str(part) for part in (*named, "--global-batch-size", 2, "--lr", 0.01)])
    run = project.root / "coached" / "patchwork"
    assert family_of(run / "after-2") is registered.family
    _, processor = load_model(run, device="cpu")
    assert type(processor).__name__ == "PatchworkProcessor"
    clip = str(project.clips[2])
    capsys.readouterr()
    command("infer_qved")(["--video_path", clip, "--max_new_tokens", "8", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (
        told["model"] == "coached/patchwork" and told["prompt"] == "What do you see?" and len(told["frames"]) == GROUP
    )

    videos = [str(path.relative_to(project.root / "dataset")) for path in project.clips[:4]]
    records = [replace(conversation(number), video=video) for number, video in enumerate(videos)]
    write_conversations(project.root / "test.jsonl", records)
    asked = ["--test_json", "test.jsonl", "--data_path", "dataset", "--max_new_tokens", "8", "--no_bert"]
    command("test_inference")([*asked, "--compare", "--report"])
    assert len(read_predictions(run / "evaluation" / "test_predictions.jsonl")) == 4
    scores = json.loads((run / "evaluation" / "scores.json").read_text())
    assert scores["base"]["clips"] == scores["tuned"]["clips"] == 4
    assert (run / "evaluation" / "test_evaluation_report.html").is_file()
    assert list((run / "evaluation").glob("*.xlsx"))
