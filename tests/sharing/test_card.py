"""The model card: what a reader and the hub find in it, and what nobody does."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard
from shared_model import BASE, PERSON

from formcoach.errors import UserError
from formcoach.files import write_json
from formcoach.sharing.bundle import collect
from formcoach.sharing.card import model_card
from formcoach.sharing.local_paths import find_local_path
from formcoach.sharing.origin import find_origin


def card_of(folder, tmp_path, base="org/base", run=None):
    (tmp_path / "store").mkdir(exist_ok=True)
    return model_card("gym/coach", collect(folder, base, tmp_path / "store"), find_origin(folder, run))


def test_the_hub_reads_its_head(trained, tmp_path):
    head = ModelCard(card_of(trained / "step_4", tmp_path)).data
    assert (head.base_model, head.library_name, head.pipeline_tag) == ("org/base", "peft", "video-text-to-text")
    assert head.tags == ["formcoach", "video", "exercise", "lora"]
    assert (head.license, head.license_link) == ("other", "https://huggingface.co/org/base")
    known = "OpenGVLab/InternVideo2_5_Chat_8B"
    head = ModelCard(card_of(trained / "step_4", tmp_path, known)).data
    assert (head.base_model, head.license, head.get("license_name")) == (known, "apache-2.0", None)
    card = card_of(trained / "step_4", tmp_path, "Amshaker/Mobile-VideoGPT-0.5B")
    assert ModelCard(card).data.license == "cc-by-nc-sa-4.0" and "rules out commercial use" in card
    head = ModelCard(card_of(BASE, tmp_path)).data
    assert (head.library_name, head.get("base_model_relation")) == ("transformers", "finetune")


def test_a_reader_finds_settings_scores_and_limits(trained, tmp_path):
    card = card_of(trained / "step_4", tmp_path, "org/base@v1")
    for line in (
        "| base | org/base@v1 |",
        "| LoRA rank | 4 |",
        "| quantisation of the base | nf4 |",
        "| learning rate | 1e-05 |",
        "| training clips | 210 |",
        "| optimizer steps | 4 of 8 |",
        "| versions | formcoach 0.1.0, torch 2.13.0 |",
        "| exercise match | 0.0 % | 100.0 % | the answer names the clip's exercise |",
        "| fault match |  | 82.7 % | it also says exactly what a coach saw |",
        "Of these, 2 failed; a clip without an answer counts as not matched.",
        'model, processor = load_model("gym/coach")',
        'base, processor = load_model("org/base@v1")',
        'model = PeftModel.from_pretrained(base, "gym/coach")',
        f"| qevd_fit_300k_train.jsonl | `{'a' * 64}` |",
        f"| another .jsonl file | `{'b' * 64}` |",
        f"| another .jsonl file | `{'c' * 64}` |",
    ):
        assert f"\n{line}" in card
    assert "not medical advice" in card
    assert "vision tower" not in card  # it was frozen
    assert PERSON not in card and str(trained.parent) not in card and "95 % interval" not in card


def test_intervals_and_notes_are_shown_where_there_are_some(run_directory, tmp_path):
    path = run_directory / "evaluation" / "scores.json"
    scores = json.loads(path.read_text())
    scores["tuned"]["intervals"] = {"exercise_match": [0.95, 1.0]}
    differences = {"exercise_match": {"value": 1.0, "low": 0.95, "high": 1.0, "smallest": 0.04}}
    write_json(path, scores | {"differences": differences, "notes": ["10 people are few"]})
    card = card_of(run_directory / "step_4", tmp_path)
    assert "On 75 test clips, in per cent (and a 95 % interval)." in card
    assert "\n| | base | fine-tuned | difference | detectable from | |\n" in card
    assert "| exercise match | 0.0 % | 100.0 % (95.0 to 100.0) | +100.0 (+95.0 to +100.0) | 4.0 | the answer" in card
    assert "| ROUGE-L | 8.0 % | 87.8 % |  |  | wording |" in card
    assert "\n- 10 people are few\n" in card


def test_scores_of_another_checkpoint_are_not_shown(run_directory, tmp_path):
    (run_directory / "step_4" / "adapter_model.safetensors").touch()
    origin = find_origin(run_directory / "step_4", None)
    assert origin.scores is None and origin.stale
    assert "## Scores" not in card_of(run_directory / "step_4", tmp_path)
    shutil.copytree(run_directory / "step_4", run_directory / "step_8")
    write_json(run_directory / "best.json", {"checkpoint": "step_8", "val_loss": 0.4})
    origin = find_origin(run_directory / "step_4", None)
    assert origin.scores is None and not origin.stale
    write_json(run_directory / "evaluation" / "step_4" / "scores.json", {"tuned": {"clips": 5, "rouge_l": 0.5}})
    assert "| ROUGE-L | 50.0 % | wording |" in card_of(run_directory / "step_4", tmp_path)


@pytest.mark.slow
def test_a_checkpoint_has_its_step_and_scores_under_either_name(other_family, tmp_path):
    _, run = other_family
    for name in ("checkpoint-4", "checkpoint-final"):
        card = card_of(run / name, tmp_path)
        assert "\n| optimizer steps | 4 of 8 |\n" in card
        assert "\n| exercise match | 0.0 % | 100.0 % |" in card


def test_damaged_scores_are_named(run_directory):
    write_json(run_directory / "evaluation" / "scores.json", {"tuned": {"clips": "many"}})
    with pytest.raises(UserError, match=r"scores\.json: Expected `int`"):
        find_origin(run_directory / "step_4", None)


def test_an_adapter_that_left_its_run_finds_it_again(run_directory, tmp_path):
    shutil.copytree(run_directory / "step_4", tmp_path / "shared")
    assert find_origin(tmp_path / "shared", None) is None
    assert "not at hand" in card_of(tmp_path / "shared", tmp_path)
    assert find_origin(tmp_path / "shared", run_directory).step == 4
    with (tmp_path / "shared" / "adapter_model.safetensors").open("ab") as weights:
        weights.write(b"other")
    with pytest.raises(UserError, match="none of its checkpoints is the adapter in"):
        find_origin(tmp_path / "shared", run_directory)


@pytest.mark.parametrize(
    "text",
    ["/home/me/x", "see ~/runs", "at (/mnt/d/x)", "C:\\Users\\me", "D:/clips/a", "\\\\server\\share", "file:///x/y"],
)
def test_local_paths_are_found(text):
    assert find_local_path({"a": [1, {"b": text}]})
    assert find_local_path({text: None})


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/a/b",
        "</s>",
        "<img></img>",
        "and/or/both",
        "owner/name",
        "1/2",
        "/",
        "N/A",
        "a - b",
        "http:",
    ],
)
def test_what_is_no_path_is_not_taken_for_one(text):
    assert find_local_path([text]) is None
