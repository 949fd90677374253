"""Runs over a whole test set as users start them: killed, shared by processes, and with clips that disappear."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace
from small_models import ONE

from formcoach.data.annotations import write_conversations
from formcoach.inference.predictions import read_predictions
from inference.conftest import conversation, write_clip

COMMAND = Path(__file__).parents[2] / "utils/test_inference.py"


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder with 200 different questions about 20 clips, and their test file."""
    root = tmp_path_factory.mktemp("many")
    for number in range(20):
        write_clip(root / f"squats/clip {number}.mp4", seed=number, frames=8 + number)
    records = [
        replace(conversation(number, f"What is wrong in try {number}?"), video=f"squats/clip {number % 20}.mp4")
        for number in range(200)
    ]
    write_conversations(root / "test.jsonl", records)
    return root


@pytest.fixture
def start(adapter, many, tmp_path):
    """Return a function that starts the command, with its results in `tmp_path / name`."""
    running = []

    def started(name, *more, **variables):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
        line = [sys.executable, COMMAND, "--model_path", adapter, "--test_json", many / "test.jsonl"]
        line += ["--data_path", many, "--output_dir", tmp_path / name, "--max_new_tokens", 8, "--no_bert", *more]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([str(word) for word in line], env=environment, start_new_session=True, **pipes)
        running.append(process)
        return process

    yield started
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def wait_for_answers(process, folder, count, files=1):
    """Wait until a run has written so many answers, into so many files at least."""
    end = time.monotonic() + 120
    while True:
        partial = [path.read_bytes().count(b"\n") - 1 for path in folder.glob("*.partial*")] if folder.is_dir() else []
        if sum(partial) >= count and sum(lines > 0 for lines in partial) >= files:
            return
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.01)


def answers(path):
    """Return what the answers are, without the time that they took."""
    return [(one.id, one.video, one.prompt, one.prediction, one.status) for one in read_predictions(path)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("small", "processes"), [("internvideo", 1), ("internvideo", 2), ("mobilevideogpt", 1)], indirect=["small"]
)
def test_a_run_over_200_clips_that_is_killed_again_and_again(start, tmp_path, processes):
    several = {"NPROC_PER_NODE": str(processes)} if processes > 1 else {}
    whole = start("whole")
    for count in (1, 70, 140):
        process = start("killed", **several)
        wait_for_answers(process, tmp_path / "killed", count, processes)
        os.killpg(process.pid, signal.SIGKILL)
        if processes > 1:
            subprocess.run(["pkill", "-9", "-f", str(tmp_path / "killed")], check=False)
        process.communicate()
        assert not (tmp_path / "killed/test_predictions.jsonl").exists()
    last = start("killed", **several)
    output, errors = last.communicate(timeout=600)
    assert last.returncode == 0, errors
    assert "of 200 answers are in" in output
    _, errors = whole.communicate(timeout=600)
    assert whole.returncode == 0, errors
    assert answers(tmp_path / "killed/test_predictions.jsonl") == answers(tmp_path / "whole/test_predictions.jsonl")
    left = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert left == ["scores.json", "test_predictions.jsonl", "test_predictions.settings.json"]


@ONE
@pytest.mark.slow
def test_processes_speak_with_one_voice(start, tmp_path):
    process = start("two", "--limit", 6, NPROC_PER_NODE="2")
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert output.count("tuned: answering 6 clips in 2 processes") == output.count("exercise match") == 1
    process = start("two", "--test_json", "no.jsonl", NPROC_PER_NODE="2")
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 2
    assert [line for line in errors.splitlines() if line.startswith("error")] == [
        "error: no.jsonl: no such file. Run: bash scripts/initialize_dataset.sh"
    ]


@ONE
def test_two_runs_do_not_write_to_one_folder(start, tmp_path):
    first = start("both", "--batch_size", 1)
    wait_for_answers(first, tmp_path / "both", 1)
    second = start("both")
    _, errors = second.communicate(timeout=600)
    assert second.returncode == 2
    assert errors.splitlines()[-1] == (
        f"error: {tmp_path}/both: another process is answering a test set there; wait until it has ended"
    )
    assert first.poll() is None


@ONE
def test_a_clip_that_disappears_is_recorded_and_the_others_are_answered(start, many, tmp_path):
    dataset = tmp_path / "dataset"
    (dataset / "squats").mkdir(parents=True)
    for clip in (many / "squats").iterdir():
        (dataset / "squats" / clip.name).symlink_to(clip)
    records = [conversation(number) for number in range(20)]
    write_conversations(tmp_path / "test.jsonl", records)
    flags = ("--data_path", dataset, "--test_json", tmp_path / "test.jsonl", "--batch_size", "1")
    process = start("gone", *flags)
    wait_for_answers(process, tmp_path / "gone", 1)
    process.send_signal(signal.SIGSTOP)
    (dataset / records[19].video).unlink()
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=600)
    predictions = read_predictions(tmp_path / "gone/test_predictions.jsonl")
    assert [one.status for one in predictions] == ["ok"] * 19 + ["failed"]
    assert predictions[19].error == f"{dataset}/squats/clip 19.mp4: no such file"
    assert process.returncode == 2
    assert errors.splitlines()[-1].startswith("error: 1 of 20 clips failed (tuned) and count as not matched, first: ")
    assert '"failed": 1' in (tmp_path / "gone/scores.json").read_text()

    (dataset / records[19].video).symlink_to(many / records[19].video)
    again = start("gone", *flags)
    output, errors = again.communicate(timeout=600)
    assert again.returncode == 0, errors
    assert "tuned: 19 of 20 answers are in" in output and "answering 1 clips" in output
