"""The commands that ask a model: one clip, both models, the test split."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from formcoach import models
from formcoach.data.annotations import write_conversations
from formcoach.errors import UserError
from formcoach.inference.predictions import read_predictions

UTILS = Path(__file__).parents[2] / "utils"


def command(name):
    spec = importlib.util.spec_from_file_location(name, UTILS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def test_file(clips, tmp_path):
    path = tmp_path / "test.jsonl"
    write_conversations(path, clips[1])
    return path


@pytest.fixture
def flags(clips, test_file):
    return ["--test_json", str(test_file), "--data_path", str(clips[0]), "--max_new_tokens", "12", "--device", "cpu"]


def test_one_clip(adapter, clips, predictor, capsys):
    clip = clips[0] / clips[1][3].video
    asked = ["--model_path", str(adapter.parent), "--video_path", str(clip), "--prompt", "What is wrong?"]
    command("infer_qved")([*asked, "--max-new-tokens", "12"])
    expected = predictor.answer(predictor.prompt(predictor.read(clip), "What is wrong?"))
    assert capsys.readouterr().out == expected + "\n"
    command("infer_qved")([*asked, "--max_new_tokens", "12", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["prediction"] == expected and told["video"] == str(clip)
    command("base_model_inference")([*asked, "--max_new_tokens", "12"])
    base, tuned = capsys.readouterr().out.split("\ntuned: ")
    assert base.startswith("base: ") and tuned == expected + "\n"
    assert base != f"base: {expected}"


@pytest.mark.parametrize("device", ["cuda:64", "abacus"])
def test_a_device_that_is_not_there(device, adapter, clips):
    clip = clips[0] / clips[1][0].video
    with pytest.raises(UserError, match=f"device '?{device}"):
        command("infer_qved")(["--model_path", str(adapter), "--video_path", str(clip), "--device", device])


@pytest.mark.parametrize("name", ["infer_qved", "base_model_inference"])
def test_no_free_memory_on_the_gpu(name, adapter, clips, monkeypatch):
    def full(*_args, **_options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 14.20 GiB.")

    monkeypatch.setattr(models, "load_model", full)
    clip = clips[0] / clips[1][0].video
    with pytest.raises(UserError, match=r"the free memory of the GPU .* does not hold it; .*--quantization nf4"):
        command(name)(["--model_path", str(adapter), "--video_path", str(clip)])


def test_test_split_with_both_models(adapter, flags, tmp_path, capsys):
    run = ["--model_path", str(adapter.parent), "--output_dir", str(tmp_path / "out"), "--compare"]
    command("test_inference")([*run, *flags])
    printed = capsys.readouterr().out
    assert "exercise match" in printed and printed.count("truth") == 3
    assert "infer_qved.py --model_path" in printed
    base, tuned = (read_predictions(tmp_path / "out" / f"{name}_predictions.jsonl") for name in ("base", "test"))
    assert [prediction.id for prediction in base] == [prediction.id for prediction in tuned]
    assert all(one.prediction != other.prediction for one, other in zip(base, tuned, strict=True))
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert scores["base"]["clips"] == scores["tuned"]["clips"] == 6
    assert scores["tuned"]["exercise_match"] == 0

    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.jsonl")}
    command("test_inference")([*run, *flags])
    assert "base: 6 of 6 answers are in" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in times} == times

    command("test_inference")([*run, *flags, "--frames", "blank"])
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert len(read_predictions(tmp_path / "out/test_predictions.blank.jsonl")) == 6


def test_results_go_to_the_run_and_the_newest_run_is_the_default(adapter, small, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    work_dir = tmp_path / small.family.runs.work_dir
    work_dir.parent.mkdir()
    with pytest.raises(UserError, match=r"no trained model yet. Run scripts/finetune_qved.sh"):
        command("test_inference")(flags)
    work_dir.symlink_to(adapter.parent)
    command("test_inference")([*flags, "--limit", "2"])
    assert "the newest run" in capsys.readouterr().out
    assert len(read_predictions(work_dir / "evaluation/test_predictions.jsonl")) == 2
    command("base_model_inference")([*flags, "--model_path", str(work_dir), "--limit", "1"])
    assert len(read_predictions(work_dir / "evaluation/base_predictions.jsonl")) == 1


def test_base_model_alone(base_model, flags, tmp_path, capsys):
    output = tmp_path / "base.jsonl"
    command("base_model_inference")([*flags, "--model_path", str(base_model), "--output", str(output)])
    assert len(read_predictions(output)) == 6
    assert "tuned" not in capsys.readouterr().out
    with pytest.raises(UserError, match="no adapter there"):
        command("test_inference")([*flags, "--model_path", str(base_model), "--compare"])


def test_failed_clips_end_in_an_error_after_the_results(adapter, clips, flags, tmp_path):
    root, records = clips
    (tmp_path / "dataset/squats").mkdir(parents=True)
    for record in records[1:]:
        (tmp_path / "dataset" / record.video).symlink_to(root / record.video)
    flags[3] = str(tmp_path / "dataset")
    with pytest.raises(UserError, match=r"1 of 6 clips failed \(tuned\).*clip 0.mp4: no such file"):
        command("test_inference")(["--model_path", str(adapter), "--output_dir", str(tmp_path / "out"), *flags])
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert (scores["tuned"]["clips"], scores["tuned"]["failed"]) == (6, 1)


def test_report_from_files(adapter, flags, tmp_path, capsys):
    run = ["--model_path", str(adapter.parent), "--output_dir", str(tmp_path), "--compare", "--limit", "3"]
    command("test_inference")([*run, *flags])
    files = ["--predictions", str(tmp_path / "test_predictions.jsonl")]
    files += ["--base_predictions", str(tmp_path / "base_predictions.jsonl")]
    capsys.readouterr()
    command("generate_test_report")([*files, "--output", str(tmp_path / "again.json")])
    assert (tmp_path / "again.json").read_text() == (tmp_path / "scores.json").read_text()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("infer_qved", ["--video_path", "missing.mp4"], "error: missing.mp4: no such file"),
        ("infer_qved", ["--video_path", "empty.mp4"], "error: empty.mp4: is empty (0 bytes)"),
        ("infer_qved", ["--video_path", "text.mp4"], "error: text.mp4: is not a video"),
        ("infer_qved", [], "required: --video_path"),
        ("infer_qved", ["--video_path", "a.mp4", "--max_new_tokens", "0"], "'0' is not a whole number from 1 up"),
        ("test_inference", ["--no-berth"], "unrecognized arguments: --no-berth"),
        ("test_inference", ["--model_path", "x", "--test_json", "no.jsonl"], "error: no.jsonl: no such file"),
        ("test_inference", ["--model_path", "x", "--hf_repo", "a/b"], "--hf_repo and --model_path both name the model"),
        ("test_inference", ["--hf_repo", "./run"], "error: --hf_repo ./run is not owner/name[@revision]"),
        ("test_inference", ["--compare", "--output", "x"], "--output names one model's file"),
        ("base_model_inference", ["--model_path", "x", "--prompt", "?"], "--prompt and --json need --video_path"),
        ("base_model_inference", ["--video_path", "a.mp4", "--limit", "2"], "--limit is about the test split"),
        ("base_model_inference", ["--video_path", "a.mp4", "--data-path", "x"], "--data_path is about the test split"),
        ("base_model_inference", ["--video_path", "empty.mp4"], "error: empty.mp4: is empty (0 bytes)"),
        ("generate_test_report", ["--predictions", "no.jsonl"], "error: no.jsonl: no such file"),
    ],
)
def test_mistakes_end_with_one_line(name, arguments, message, tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("not a video")
    done = subprocess.run(
        [sys.executable, UTILS / f"{name}.py", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.mp4", "text.mp4"]
