"""The whole path that a user takes: scripts as they are typed, at a smaller size than the demo's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from formcoach.models import FAMILIES

PROJECT = Path(__file__).parents[2]
EXERCISES = ("squats", "push-ups")
REWRITTEN = ("scores.json", "training_config.json")  # a repeated evaluation writes or touches them


def write_clip(path, exercise, frames, size, seed):
    """Write a clip of a square that moves up and down (squats) or to and fro (push-ups)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ground = np.random.default_rng(seed).integers(20, 100, 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            picture = np.empty((size[1], size[0], 3), np.uint8)
            picture[:] = ground
            place = 10 + (number * 5) % (min(size) - 30)
            top, left = (place, 20) if exercise == "squats" else (20, place)
            picture[top : top + 16, left : left + 16] = 240
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


@pytest.fixture
def home(tmp_path):
    """A user's folder as the seeds describe it: `dataset/<class>/*.mp4`, ground_truth.json and manifest.json."""
    labels, manifest = [], {}
    for number in range(20):
        exercise = EXERCISES[number % 2]
        name = f"{exercise}/{'séance no ' if number == 3 else ''}{number}.mp4"
        frames = 3 if number == 4 else 15 + 2 * number  # one of 0.3 s
        write_clip(tmp_path / "dataset" / name, exercise, frames, (128 + 32 * (number % 3), 96), number)
        seen = "correct form" if number % 4 < 2 else "too fast"
        labels.append(
            {"video_path": name, "labels": [f"{exercise} - {seen}"], "labels_descriptive": f"{exercise} - {seen}"}
        )
        manifest[name] = exercise
    (tmp_path / "dataset/ground_truth.json").write_text(json.dumps(labels))
    (tmp_path / "dataset/manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def script(home, name, *arguments, **variables):
    """Run a script without a terminal, in this environment, on the user's folder."""
    environment = os.environ | {
        "VIRTUAL_ENV": sys.prefix,
        "DATASET_DIR": str(home / "dataset"),
        "OUTPUT_DIR": str(home / "data/annotaions"),
        "WORK_DIR": str(home / "work_dirs/run"),
        "MODEL_NAME": "tiny",
        "EPOCHS": "1",
        **variables,
    }
    command = ["bash", str(PROJECT / "scripts" / name), *arguments]
    return subprocess.run(
        command, env=environment, cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def content(folder):
    """The bytes of each file below a folder but spreadsheets, which hold the time."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".xlsx"}


def written(folder):
    """When each data and predictions file below a folder was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.json*") if path.name not in REWRITTEN}


@pytest.mark.parametrize(
    "family",
    [family if family is FAMILIES[0] else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES],
    ids=lambda family: family.key,
)
def test_quickstart_twice(home, family):
    command, model = ("quickstart_finetune.sh", "--max-steps", "3", "--family", family.key), {"MODEL_NAME": family.tiny}
    first = script(home, *command, **model)
    assert first.returncode == 0, first.stderr
    run = home / "work_dirs/run"
    scores = json.loads((run / "evaluation/scores.json").read_text())
    tests = len((home / "data/annotaions/qevd_fit_300k_test.jsonl").read_text().splitlines())
    assert scores["base"]["clips"] == scores["tuned"]["clips"] == tests >= 2
    assert scores["base"]["failed"] == scores["tuned"]["failed"] == 0
    for name in ("base", "test"):
        assert len((run / f"evaluation/{name}_predictions.jsonl").read_text().splitlines()) == tests
    assert "✓ clips: all 20 exist and open" in first.stdout
    page, sheet = (run / f"evaluation/test_evaluation_report.{kind}" for kind in ("html", "xlsx"))
    assert page.read_text().count('"image":"/9j/') == tests and sheet.stat().st_size > 5000
    assert f"\nreport: {page}\n" in first.stdout
    assert "exercise match" in first.stdout and first.stdout.count("\n  truth  ") == min(3, tests)
    assert not (home / "dataset/contact_sheet.png").exists()
    assert f"\ncurves: {run / 'plots/overview.png'}\n" in first.stdout
    assert (run / "plots/overview.png").is_file()

    files, times = content(home), written(home)
    second = script(home, *command, **model)
    assert second.returncode == 0, second.stderr
    assert content(home) == files and written(home) == times
    assert "nothing is left to train" in second.stdout
    assert f"tuned: {tests} of {tests} answers are in" in second.stdout

    clip = next((home / "dataset/squats").glob("*.mp4"))
    asked = [sys.executable, PROJECT / "utils/infer_qved.py", "--model_path", run, "--video_path", clip]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.slow
def test_quickstart_afresh_keeps_the_first_run(home):
    run = home / "work_dirs/run"
    flags = (f"--work-dir={run}", "--dataset-dir", str(home / "dataset"), "--model", "tiny")
    unset = {"WORK_DIR": "", "DATASET_DIR": "", "MODEL_NAME": ""}
    first = script(home, "quickstart_finetune.sh", *flags, "--max-steps", "2", **unset)
    assert first.returncode == 0, first.stderr
    assert (run / "evaluation/scores.json").is_file()
    assert first.stdout.endswith("bash scripts/quickstart_finetune.sh --model tiny --fresh\n")
    files = content(run)
    fresh = script(home, "quickstart_finetune.sh", "--max-steps", "2", "--fresh")
    assert fresh.returncode == 0, fresh.stderr
    assert "run_2 (the newest run" in fresh.stdout
    assert (home / "work_dirs/run_2/evaluation/scores.json").is_file()
    assert content(run) == files


@pytest.mark.slow
def test_a_stopped_quickstart_goes_on(home):
    assert script(home, "quickstart_finetune.sh", "--max-steps", "3", "--checkpoint-interval", "1").returncode == 0
    run = home / "work_dirs/run"
    scores = (run / "evaluation/scores.json").read_text()
    for name in ("step_3", "evaluation"):
        shutil.rmtree(run / name)
    again = script(home, "quickstart_finetune.sh", "--max-steps", "3", "--checkpoint-interval", "1")
    assert again.returncode == 0, again.stderr
    assert not (home / "work_dirs/run_2").exists()
    assert (run / "step_3").is_dir()
    assert (run / "evaluation/scores.json").read_text() == scores


@pytest.mark.slow
def test_qlora_checkpoint_is_read_by_inference(home):
    assert script(home, "initialize_dataset.sh").returncode == 0
    flags = ["--quantization", "nf4", "--max-steps", "2", "--deepspeed", "none"]
    trained = script(home, "finetune_qved.sh", *flags)
    assert trained.returncode == 0, trained.stderr
    done = script(home, "run_inference.sh", "--limit", "2", "--quantization", "nf4")
    assert done.returncode == 0, done.stderr
    assert "difference" in done.stdout


def test_quickstart_makes_the_demo_only_in_an_empty_folder(home):
    (home / "dataset/ground_truth.json").unlink()
    (home / "dataset/manifest.json").unlink()
    done = script(home, "quickstart_finetune.sh")
    assert done.returncode == 2
    assert "demo" not in done.stdout
    assert "ground_truth.json" in done.stderr
    assert not (home / "data").exists() and not (home / "work_dirs").exists()


def test_quickstart_stops_where_the_check_fails(home):
    assert script(home, "initialize_dataset.sh").returncode == 0
    (home / "dataset/squats/0.mp4").write_bytes(b"")
    done = script(home, "quickstart_finetune.sh")
    assert done.returncode == 2
    assert "squats/0.mp4: is empty (0 bytes)" in done.stdout
    assert done.stderr.count("error:") == 1 and "training cannot start: clips" in done.stderr
    assert not (home / "work_dirs").exists()


@pytest.mark.parametrize("name", ["quickstart_finetune.sh", "run_inference.sh", "verify_qved_setup.sh"])
def test_scripts_explain_themselves(home, name):
    done = script(home, name, "--help")
    assert done.returncode == 0
    assert "bash scripts/" in done.stdout or "example:" in done.stdout


def test_run_inference_before_any_training(home):
    assert script(home, "initialize_dataset.sh").returncode == 0
    done = script(home, "run_inference.sh")
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {home}/work_dirs/run: no trained model yet. Run scripts/finetune_qved.sh first, "
        "or name one with --model_path\n"
    )
