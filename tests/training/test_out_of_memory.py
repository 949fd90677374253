"""Trainings that run out of memory for real: one line, with settings that should fit and what is left."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from resized import resized_8b
from small_models import ONE

from formcoach.models.internvideo.random_checkpoint import write_random_checkpoint
from formcoach.training.out_of_memory import is_out_of_memory

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits address space as Linux does")

# Gives the trainer so many bytes beyond what its libraries take.
LIMITED = """
import resource, sys, psutil
import formcoach.models.precision
import av, decord, deepspeed, peft
import formcoach.training.run, formcoach.training.trainer
from formcoach.command import run
from formcoach.training.launch import main
import torch
torch.set_num_threads(1)
limit = psutil.Process().memory_info().vms + int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
run(main)
"""


def train(project, spare: int, *flags: object) -> tuple[int, str]:
    """Train with `spare` bytes; return exit code and errors."""
    arguments = [str(spare), *project.flags("--work-dir", "run", "--deepspeed", "none", "--num-workers", 0, *flags)]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments],
        cwd=project.root,
        env={"PYTHONPATH": str(REPOSITORY), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def middling(tmp_path_factory) -> Path:
    """A model of 41 million parameters with a vocabulary that makes large logits."""
    vision = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    language = {"hidden_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2}
    language |= {"intermediate_size": 1792, "vocab_size": 32_768}
    folder = tmp_path_factory.mktemp("middling") / "checkpoint"
    write_random_checkpoint(folder, resized_8b(vision | {"image_size": 140}, language))
    return folder


def lengthen_answers(project, words: int) -> None:
    path = project.root / "data" / "annotaions" / "train.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record["conversations"][1]["value"] += " squat" * words
    path.write_text("\n".join(map(json.dumps, records)) + "\n")


@ONE
def test_a_step_that_does_not_fit_is_one_line(project, middling):
    lengthen_answers(project, 200)
    flags = ("--model", middling, "--max-steps", 1, "--mirco-batch-size", 6, "--global-batch-size", 6)
    code, errors = train(project, 1_200_000_000, *flags)
    (line,) = errors.splitlines()
    assert code == 2
    assert line.startswith("error: out of memory: ")
    assert " GB more were not to be had in the computer, where this training can have " in line
    assert "; should fit: --mirco-batch-size " in line
    assert line.endswith("; no checkpoint was complete yet")
    run = project.root / "run"
    assert json.loads((run / "training_config.json").read_text())["resolved"]["steps"] == 1
    assert not [path.name for path in run.iterdir() if path.name.startswith((".", project.small.checkpoint("")))]


@ONE
def test_a_model_that_does_not_fit_is_one_line_and_nothing_is_written(project, middling):
    code, errors = train(project, 150_000_000, "--model", middling)
    (line,) = errors.splitlines()
    assert code == 2
    assert line.startswith("error: out of memory: ")
    assert "; should fit: --" in line or "no setting" in line
    assert not (project.root / "run").exists()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        MemoryError("Unable to allocate 3.00 GiB for an array"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_the_ways_to_run_out_of_memory_are_known(error):
    assert is_out_of_memory(error)


def test_other_errors_are_left_alone():
    assert not is_out_of_memory(RuntimeError("expected scalar type Float"))
    assert not is_out_of_memory(OSError(28, "No space left on device"))
