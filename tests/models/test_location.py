"""What a user may name as a model."""

import json

import pytest
from original_checkpoints import FIXTURE

from formcoach.errors import UserError
from formcoach.models import base_of, family_of, load_model, recipe_for, resolve_checkpoint
from formcoach.models.location import ASSETS, locate


def checkpoint(folder, base="tiny", complete=True):
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    if complete:
        (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def run(tmp_path):
    (tmp_path / "training_config.json").write_text("{}")
    for step in (9, 27, 100):
        checkpoint(tmp_path / f"step_{step}", complete=step != 100)
    return tmp_path


def test_a_run_gives_its_best_checkpoint(run):
    (run / "best.json").write_text(json.dumps({"checkpoint": "step_9", "val_loss": 0.5}))
    assert resolve_checkpoint(run) == run / "step_9"


def test_without_a_best_one_the_newest_complete(run):
    assert resolve_checkpoint(run) == run / "step_27"
    (run / "best.json").write_text(json.dumps({"checkpoint": "step_100", "val_loss": 0.5}))
    assert resolve_checkpoint(run) == run / "step_27"


def test_a_damaged_best_file_is_named(run):
    (run / "best.json").write_text("[]")
    with pytest.raises(UserError, match=r"best\.json: Expected `object`"):
        resolve_checkpoint(run)


def test_a_run_without_checkpoints_says_so(tmp_path):
    (tmp_path / "training_config.json").write_text("{}")
    with pytest.raises(UserError, match="has no complete checkpoint yet"):
        resolve_checkpoint(tmp_path)


def test_an_adapter_leads_to_its_base(run):
    location = locate(run / "step_9")
    assert (location.name, location.base, location.adapter) == ("tiny", ASSETS / "tiny", run / "step_9")
    assert base_of(run / "step_9") == "tiny"


def test_an_adapter_whose_base_is_gone_is_named(tmp_path):
    adapter = checkpoint(tmp_path / "adapter", base="/no/such/base")
    with pytest.raises(UserError, match=r"adapter: its base model is not to be had: model /no/such/base"):
        locate(adapter)


def test_an_adapter_cannot_be_put_on_an_adapter(run):
    with pytest.raises(UserError, match="is an adapter itself"):
        locate(run / "step_9", adapter=run / "step_27")
    with pytest.raises(UserError, match="so it is not an adapter"):
        locate(FIXTURE, adapter=FIXTURE)


@pytest.mark.parametrize("name", ["nowhere", "/no/such/folder", "a/b/c", "../elsewhere", "./a/b", "8b model"])
def test_a_model_that_does_not_exist(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        load_model(name)


def test_a_path_below_a_folder_here_is_not_taken_for_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work_dirs").mkdir()
    with pytest.raises(UserError, match=r"no such folder\. Give"):
        load_model("work_dirs/run")


def test_a_hub_id_without_a_network_says_how_to_download(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="hf download OpenGVLab/InternVideo2_5_Chat_8B --local-dir") as caught:
        load_model("OpenGVLab/InternVideo2_5-Chat-8B")  # the seeds' spelling
    assert "\n" not in str(caught.value)


def test_recipes(original):
    assert family_of(original).name == "InternVideo2.5"
    assert recipe_for(original).lora_rank == 16
    (original / "recipe.json").write_text('{"lr": 0.002, "epochs": 5}')
    assert (recipe_for(original).lr, recipe_for(original).epochs, recipe_for(original).lora_rank) == (0.002, 5, 16)
    (original / "recipe.json").write_text('{"learning_rate": 0.002}')
    with pytest.raises(UserError, match=r"recipe\.json: learning_rate is not part of a recipe"):
        recipe_for(original)
    (original / "recipe.json").write_text('{"lr": "fast"}')
    with pytest.raises(UserError, match=r"recipe\.json: Expected `float`"):
        recipe_for(original)
