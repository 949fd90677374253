"""`scripts/finetune_qved.sh`: settings from the environment reach the trainer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "finetune_qved.sh"


def run_script(folder, *arguments, **variables):
    settings = {
        "VIRTUAL_ENV": sys.prefix,
        "OUTPUT_DIR": str(folder / "data" / "annotaions"),
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        ["bash", SCRIPT, *arguments],
        cwd=folder,
        env={"HOME": str(folder), **settings, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


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
