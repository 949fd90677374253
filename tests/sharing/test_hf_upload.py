"""Uploads to the hub, here a stand-in on the loopback interface: what arrives, what never does, and refusals.

huggingface_hub reads its environment when it is imported, so that the command runs in processes of its own.
"""

import json
import os
import pty
import shutil
import subprocess
import sys
import time

import pytest
from clip_scenes import film, scene
from safetensors.torch import load_file, save_file
from shared_model import BASE, COMMAND, PERSON, REPOSITORY

from formcoach.data.annotations import Conversation, Turn, write_conversations

TEST_SET = REPOSITORY / "utils" / "test_inference.py"
ON_BASE = ("--base_model", "org/base")
REPO = "coach-user/coach"
ADAPTER_FILES = {
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "base_model.json",
    "chat_template.jinja",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
READ_BACK = """
import re
from pathlib import Path
import torch
from huggingface_hub import hf_hub_download
from peft import PeftModel
from formcoach.models import load_model

local, processor = load_model({base!r}, adapter={adapter!r}, dtype="float32", device="cpu")
shared, its_processor = load_model({repo!r}, dtype="float32", device="cpu")
base, _ = load_model("org/base", dtype="float32", device="cpu")
plain = PeftModel.from_pretrained(base, {repo!r}) if {is_adapter} else shared
assert its_processor.settings == processor.settings
frames = torch.arange({frames} * 64 * 64 * 3).reshape({frames}, 64, 64, 3).to(torch.uint8).numpy()
inputs = processor(frames, "What is wrong?", duration=1.0)
with torch.no_grad():
    expected = local(**inputs).logits
    for model in (shared, plain):
        torch.testing.assert_close(model(**inputs).logits, expected, atol={tolerance}, rtol=0)
    assert (shared.generate(**inputs, max_new_tokens=8) == local.generate(**inputs, max_new_tokens=8)).all()
card = Path(hf_hub_download({repo!r}, "README.md")).read_text()
blocks = [block for block in re.findall("```python\\n(.*?)```", card, re.DOTALL) if "formcoach" in block]
assert len(blocks) == 1 + {is_adapter}
for block in blocks:
    exec(block, dict(frames=frames))
"""


def read_back(start, adapter, repo=REPO, is_adapter=True, tolerance=0, base=BASE, frames=4):
    """Load what was uploaded, with formcoach and with plain PEFT, and compare its answers."""
    options = {"base": str(base), "adapter": str(adapter), "repo": repo, "is_adapter": is_adapter, "frames": frames}
    process = start("-c", READ_BACK.format(**options, tolerance=tolerance), OMP_NUM_THREADS="1")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def test_a_dry_run_shows_all_and_asks_nobody(hub, upload, run_directory):
    before = sorted(run_directory.rglob("*"))
    code, output, errors = upload("--model_path", run_directory, *ON_BASE, "--dry-run", HF_TOKEN=None)
    assert (code, errors) == (0, "")
    assert hub.asked == []
    assert sorted(run_directory.rglob("*")) == before
    card, _, files = output.partition("-" * 80)
    assert "base_model: org/base" in card and "your-name/coach" in card
    assert {line.split()[0] for line in files.strip().splitlines()[:8]} == ADAPTER_FILES
    assert "left out: optimizer.pt, resume/, squat.mp4" in files
    assert "8 files" in files and "nothing was uploaded" in files


def test_an_adapter_arrives_and_answers_as_here(hub, upload, start, run_directory):
    code, output, errors = upload("--model_path", run_directory, *ON_BASE, "--private", "--commit_message", "First")
    assert code == 0, errors
    assert f"{hub.endpoint}/{REPO} (new): 8 files at commit" in output
    assert hub.private == {REPO}
    assert hub.repos["model", REPO].messages == ["First"]
    files = hub.files(REPO)
    assert set(files) == {".gitattributes", *ADAPTER_FILES}
    everything = b"".join(content for _, content in sorted(files.items()))
    for private in (PERSON, str(run_directory), str(BASE), "hf_writer"):
        assert private.encode() not in everything
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/base", None)
    assert json.loads(files["base_model.json"])["name"] == "org/base"
    checkpoint = run_directory / "step_4"
    assert files["adapter_model.safetensors"] == (checkpoint / "adapter_model.safetensors").read_bytes()
    assert str(BASE) in (checkpoint / "adapter_config.json").read_text()
    read_back(start, checkpoint)


@pytest.mark.slow
def test_a_run_of_another_family_arrives_and_answers_as_here(hub, upload, start, other_family):
    small, run = other_family
    hub.publish("org/base", small.folder, "main")
    code, output, errors = upload("--model_path", run / small.family.runs.last, *ON_BASE, "--private")
    assert code == 0, errors
    assert f"{hub.endpoint}/{REPO} (new): 8 files at commit" in output
    assert set(hub.files(REPO)) == {".gitattributes", *ADAPTER_FILES}
    read_back(start, run, base=small.folder, frames=small.frames)


def test_a_test_set_is_answered_by_a_model_of_the_hub(hub, upload, start, run_directory, tmp_path):
    assert upload("--model_path", run_directory, *ON_BASE, "--yes")[0] == 0
    clip = film(tmp_path / "dataset" / "squats" / "1.mp4", scene(size=(64, 48), seconds=1))
    turns = [Turn("human", "<image>\nWhat is wrong?"), Turn("gpt", "squats - too fast")]
    write_conversations(tmp_path / "test.jsonl", [Conversation("1", f"squats/{clip.name}", turns, 1.0)])
    flags = ["--test_json", tmp_path / "test.jsonl", "--data_path", tmp_path / "dataset", "--no-bert", "--compare"]
    folder = tmp_path / "results"
    process = start(TEST_SET, "--hf_repo", REPO, "--output_dir", folder, "--max_new_tokens", 4, *flags)
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert {path.name for path in folder.iterdir()} >= {"base_predictions.jsonl", "test_predictions.jsonl"}
    assert f"--model_path {REPO}" in output


def test_uploading_the_same_again_changes_nothing(hub, upload, run_directory, edit):
    flags = ("--model_path", run_directory / "step_4", *ON_BASE, "--org", "gym", "--yes")
    assert upload(*flags)[0] == 0
    hub.asked.clear()
    code, output, _ = upload(*flags)
    assert code == 0 and "has all of it already; nothing was changed" in output
    assert hub.wrote() == []
    assert len(hub.repos["model", "gym/coach"].messages) == 1

    edit(run_directory / "step_4" / "processor_config.json", max_frames=4)
    code, output, _ = upload(*flags)
    assert code == 0 and "uploading 1 files" in output and "7 were the same" in output
    assert json.loads(hub.files("gym/coach")["processor_config.json"])["max_frames"] == 4
    assert len(hub.arrived) == 1


def test_public_has_to_be_meant(hub, refused, upload, run_directory):
    flags = ("--model_path", run_directory, *ON_BASE)
    line = refused(*flags)
    assert line.startswith("this would make public: 8 files, ") and line.endswith(
        "add --yes if you mean it, or --private"
    )
    assert hub.wrote() == []
    assert upload(*flags, "--yes")[0] == 0
    assert hub.private == set() and ("model", REPO) in hub.repos


@pytest.mark.parametrize(("answer", "code"), [("n", 2), ("y", 0), ("", 2)])
def test_it_asks_on_a_terminal(hub, tmp_path, run_directory, answer, code):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, COMMAND, "--repo_name", "coach", "--model_path", run_directory, *ON_BASE],
        env=hub.environment(tmp_path, HF_TOKEN="hf_writer", PYTHONPATH=str(COMMAND.parents[1])),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(ours, f"{answer}\n".encode())
    output, errors = process.communicate(timeout=300)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == code, errors
    assert "everybody will see 8 files" in output
    assert (("model", REPO) in hub.repos) == (code == 0)


def test_who_sees_it_is_never_changed(hub, refused, upload, run_directory, edit):
    flags = ("--model_path", run_directory, *ON_BASE)
    assert upload(*flags, "--private")[0] == 0
    edit(run_directory / "step_4" / "processor_config.json", max_frames=4)
    code, _, errors = upload(*flags)
    assert code == 0 and f"notice: {REPO} is private and stays so" in errors
    assert hub.private == {REPO}
    hub.private.clear()
    assert refused(*flags, "--private").startswith(
        f"{REPO}: is public, which --private does not change; make it private"
    )


def test_a_repository_of_something_else_is_left_alone(hub, refused, upload, run_directory, tmp_path):
    flags = ("--model_path", run_directory, *ON_BASE, "--yes")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("---\nlicense: mit\n---\nAnother model.\n")
    hub.publish(REPO, tmp_path / "other", "main")
    assert f"{REPO}: holds something that formcoach did not put there (README.md)" in refused(*flags)
    del hub.repos["model", REPO]
    assert upload("--model_path", BASE, *ON_BASE, "--yes")[0] == 0
    assert f"{REPO}: holds model-00001-of-00002.safetensors, so a model of another kind" in refused(*flags)
    other = ("--model_path", run_directory, "--base_model", "org/another", "--yes")
    assert f"{REPO}: holds a model trained on org/base; choose another" in refused(*other)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "no token for the hub: make one that may write at https://huggingface.co/settings/tokens and run"),
        ("hf_nobody", "the hub does not accept the token, which may be mistyped or expired: make one"),
        ("hf_reader", "the token of reader may only read: make one that may write"),
    ],
)
def test_a_token_that_does_not_do_is_one_line(hub, refused, run_directory, token, message):
    line = refused("--model_path", run_directory, *ON_BASE, "--yes", HF_TOKEN=token)
    assert message in line and "hf_" not in line.replace("hf auth", "")
    assert hub.wrote() == []


def test_a_token_from_a_login_is_found_and_another_organisation_is_refused(hub, refused, run_directory, tmp_path):
    (tmp_path / "huggingface").mkdir()
    (tmp_path / "huggingface" / "token").write_text("hf_writer")
    line = refused("--model_path", run_directory, *ON_BASE, "--yes", "--org", "elsewhere", HF_TOKEN=None)
    assert line.startswith("elsewhere/coach: the token may not write there; use one of an account that may")


def test_without_the_hub_it_says_so(hub, refused, run_directory):
    flags = ("--model_path", run_directory, *ON_BASE, "--yes")
    assert "HF_HUB_OFFLINE is set" in refused(*flags, HF_HUB_OFFLINE="1")
    hub.stop()
    assert "the connection to the hub broke off" in refused(*flags)


def test_a_killed_upload_is_completed_by_the_next(hub, upload, start):
    flags = ("--model_path", BASE, *ON_BASE, "--yes")
    sizes = sorted(path.stat().st_size for path in BASE.glob("model-*.safetensors"))
    assert sizes[0] < sizes[1]
    hub.holds_put = sizes[0]
    process = start(COMMAND, "--repo_name", "coach", *flags)
    end = time.monotonic() + 60
    while not (len(hub.arrived) == 1 and sum(method == "PUT" for method, _ in hub.asked) == 2):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate()
    hub.holds_put = None
    assert set(hub.files(REPO)) == {".gitattributes"}
    hub.asked.clear()
    code, _, errors = upload(*flags)
    assert code == 0, errors
    assert sum(method == "PUT" for method, _ in hub.asked) == 1
    assert len(set(hub.arrived)) == len(hub.arrived) == 2
    assert hub.files(REPO)["config.json"]


@pytest.mark.parametrize("answer", [0, 500])
def test_a_commit_that_breaks_off_leaves_nothing_and_sends_no_weights_twice(
    hub, refused, upload, run_directory, answer
):
    flags = ("--model_path", run_directory, *ON_BASE, "--yes")
    hub.refuses_commit = [answer]
    assert "run this again, files that have arrived are not sent again" in refused(*flags)
    assert set(hub.files(REPO)) == {".gitattributes"}
    assert upload(*flags)[0] == 0
    assert len(hub.arrived) == 1 and set(hub.files(REPO)) > ADAPTER_FILES


def test_a_connection_that_breaks_off_is_taken_up(hub, upload, run_directory):
    hub.breaks_put = 1
    code, _, errors = upload("--model_path", run_directory, *ON_BASE, "--yes")
    assert code == 0, errors
    assert len(hub.arrived) == 1 and set(hub.files(REPO)) > ADAPTER_FILES


def test_an_exported_original_takes_its_code_from_the_base(hub, upload, start, run_directory, tmp_path):
    from formcoach.models import export_model

    source = tmp_path / "base"
    shutil.copytree(BASE, source)
    (source / "modeling_internvl_chat.py").write_text("raise SystemExit")
    config = json.loads((source / "config.json").read_text())
    config["llm_config"]["_name_or_path"] = f"/mnt/{PERSON}/llm"
    (source / "config.json").write_text(json.dumps(config))
    export_model(run_directory, "original", tmp_path / "out", base=source)
    code, _, errors = upload("--model_path", tmp_path / "out", *ON_BASE, "--run", run_directory, "--yes")
    assert (code, errors) == (0, "")
    files = hub.files(REPO)
    assert "modeling_internvl_chat.py" not in files
    config = json.loads(files["config.json"])
    assert config["auto_map"]["AutoModel"] == "org/base--modeling_internvl_chat_hico2.InternVLChatModel"
    assert PERSON.encode() not in files["config.json"]
    assert json.loads(files["tokenizer_config.json"])["auto_map"]["AutoTokenizer"][1] is None
    assert "base_model_relation: finetune" in files["README.md"].decode()
    assert "| fault match |  | 82.7 % |" in files["README.md"].decode()
    read_back(start, run_directory / "step_4", is_adapter=False, tolerance=1e-4)


def test_what_only_this_machine_has_is_refused(refused, run_directory, edit, tmp_path):
    flags = ("--model_path", run_directory, "--dry-run")
    checkpoint = run_directory / "step_4"
    line = refused(*flags)
    assert "was trained on" in line and line.endswith("name the same model on the hub with --base_model owner/name")
    assert "is no model of the hub" in refused(*flags, "--base_model", str(BASE))
    assert "does not say what it was trained on" in refused("--model_path", BASE, "--dry-run")

    config = checkpoint / "tokenizer_config.json"
    before = config.read_text()
    edit(config, vocab_file=f"/home/{PERSON}/tokenizer.model")
    assert refused(*flags, *ON_BASE).startswith(f"{config}: has a path of this machine in it (/home/{PERSON}")
    config.write_text(before)

    weights = checkpoint / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file(tensors, weights, {"format": "pt", "from": f"C:\\Users\\{PERSON}\\x"})
    assert refused(*flags, *ON_BASE).startswith(f"{weights}: has a path of this machine in it (C:\\Users")
    weights.write_bytes(b"not weights")
    assert f"{weights}: is damaged" in refused(*flags, *ON_BASE)
    save_file(tensors, weights, {"format": "pt"})

    (tmp_path / "secret").write_text("not for others")
    (checkpoint / "LICENSE").symlink_to(tmp_path / "secret")
    assert "LICENSE: is a link to a file outside of the checkpoint" in refused(*flags, *ON_BASE)
    (checkpoint / "LICENSE").unlink()

    edit(run_directory / "evaluation" / "scores.json", notes=[f"see /home/{PERSON}/x"])
    assert "README.md: a path of this machine would be in it" in refused(*flags, *ON_BASE)


def test_flags_that_contradict_each_other(refused, run_directory):
    assert "names an owner already" in refused("--repo_name", "a/b", "--org", "c", "--dry-run")
    assert "the hub takes letters" in refused("--repo_name", "a b", "--dry-run")
    assert "is no folder; name a run" in refused("--model_path", "tiny", "--dry-run")
    assert "is no folder; name a run" in refused("--model_path", "org/base", "--dry-run")
    assert "no trained model yet" in refused("--dry-run")
    flags = ("--model_path", run_directory, *ON_BASE, "--dry-run", "--run")
    assert "is no run directory, for it has no training_config.json" in refused(*flags, BASE)
    shutil.copytree(run_directory, run_directory.with_name("other"))
    assert "leave the flag out" in refused(*flags, run_directory.with_name("other"))
