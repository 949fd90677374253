"""`scripts/finetune_qved.sh` and `finetune_mobilevideogpt.sh`: settings from the environment reach the trainer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "finetune_qved.sh"


MOBILE = SCRIPT.with_name("finetune_mobilevideogpt.sh")


def run_script(folder, *arguments, script=SCRIPT, **variables):
    settings = {
        "VIRTUAL_ENV": sys.prefix,
        "DATASET_DIR": str(folder / "dataset"),
        "OUTPUT_DIR": str(folder / "data" / "annotaions"),
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        ["bash", script, *arguments],
        cwd=folder,
        env={"HOME": str(folder), **settings, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr or done.stdout


@pytest.mark.parametrize(
    ("variable", "flag"),
    [
        ("EPOCHS", "--epochs"),
        ("LR", "--lr"),
        ("VIT_LR", "--vit_lr"),
        ("CONNECTOR_LR", "--connector_lr"),
        ("MICRO_BATCH_SIZE", "--mirco-batch-size"),
        ("GLOBAL_BATCH_SIZE", "--global-batch-size"),
        ("MAX_LENGTH", "--max-length"),
        ("MIN_FRAMES", "--min_num_frames"),
        ("MAX_FRAMES", "--max_num_frames"),
    ],
)
def test_setting_becomes_a_flag(tmp_path, variable, flag) -> None:
    code, errors = run_script(tmp_path, **{variable: "-1"})
    assert code == 2
    (line,) = errors.splitlines()
    assert f"{flag}" in line
    assert "-1" in line and "is not" in line


def test_arguments_override_settings(tmp_path) -> None:
    code, errors = run_script(tmp_path, "--epochs", "nonsense", EPOCHS="2")
    assert code == 2
    assert "'nonsense' is not a number" in errors


def test_data_that_is_not_prepared_is_one_line_with_the_next_command(tmp_path) -> None:
    code, errors = run_script(tmp_path, MODEL_NAME=str(SCRIPT.parents[1] / "tests/fixtures/internvideo2_5_tiny"))
    assert code == 2
    (line,) = errors.splitlines()
    assert str(tmp_path / "data" / "diy_ft_data.json") in line
    assert "scripts/initialize_dataset.sh" in line


@pytest.mark.parametrize(
    ("variable", "flag"),
    [
        ("EPOCHS", "--epochs"),
        ("LR", "--lr"),
        ("MM_PROJ_LR", "--connector_lr"),
        ("LORA_R", "--lora-rank"),
        ("LORA_ALPHA", "--lora-alpha"),
        ("MAXLEN", "--max-length"),
        ("BATCH", "BATCH"),
        ("GACC", "GACC"),
    ],
)
def test_setting_of_mobile_videogpt_becomes_a_flag(tmp_path, variable, flag) -> None:
    code, errors = run_script(tmp_path, script=MOBILE, **{variable: "-1"})
    assert code == 2
    (line,) = errors.splitlines()
    assert flag in line and "-1" in line


@pytest.mark.parametrize("small", ["mobilevideogpt"], indirect=True)
def test_mobile_videogpt_finds_its_data_and_folder(project) -> None:
    root = project.root
    for split in ("train", "val"):
        lines = (root / f"data/annotaions/{split}.jsonl").read_text(encoding="utf-8").splitlines()
        records = [json.loads(line) for line in lines]
        mobile = [one | {"video": "dataset/" + one["video"], "split": split} for one in records]
        (root / f"dataset/qved_{split}.json").write_text(json.dumps(mobile), encoding="utf-8")
    settings = {"BATCH": "2", "GACC": "3", "LORA_R": "5", "LR": "2e-4", "MM_PROJ_LR": "3e-5", "EPOCHS": "2"}
    code, said = run_script(root, "--dry-run", "--deepspeed", "none", script=MOBILE, **settings)
    assert code == 0, said
    assert f"training data: {root}/dataset/qved_train.json" in said
    assert "6 clips = 2 (micro batch) x 3 (accumulation) x 1 process" in said
    assert "LoRA rank 5, learning rate 0.0002" in said and "in full, learning rate 3e-05" in said
    assert f"{SCRIPT.parents[1]}/results/qved_finetune_mobilevideogpt_0.5B" in said
    assert "validation: 2 samples" in said
    assert not (root / "results").exists()
    code, said = run_script(root, "--dry-run", "--deepspeed", "none", MODEL_NAME="tiny-mobile")
    assert f"training data: {root}/dataset/qved_train.json" in said  # finetune_qved.sh does the same
