"""`initialize_dataset.sh`: every step in one go, by flags, or by answers on a terminal."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(PROJECT / "utils/initialize_dataset.py")]


@pytest.fixture
def project(tmp_path):
    demo = [sys.executable, str(PROJECT / "utils/make_demo_dataset.py"), "--clips", "12", "--people", "4"]
    subprocess.run([*demo, "--dataset-dir", "dataset"], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


def run(folder, *arguments):
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def videos(folder, name):
    lines = (folder / f"data/annotaions/qevd_fit_300k_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["video"] for line in lines]


def test_flags_choose_the_steps(project):
    result = run(project, "--clean", "--augment", "1", "--report", "--ratios", "50/25/25")
    assert result.returncode == 0, result.stderr
    titles = [line for line in result.stdout.splitlines() if line.startswith("==")]
    assert [title.split(" ", 2)[2] for title in titles] == [
        "clean ==",
        "split ==",
        "augment the training clips ==",
        "add them to the split ==",
        "report ==",
    ]
    assert any(video.startswith("augmented/") for video in videos(project, "train"))
    assert not any(video.startswith("augmented/") for name in ("val", "test") for video in videos(project, name))
    for name in ("kept_clips.json", "cleaning_report.html", "dataset_report.html", "dataset_overview.png"):
        assert (project / "data/annotaions" / name).stat().st_size > 0


def test_a_download_of_the_release_is_taken_from_its_folder(project):
    (project / "dataset").rename(project / "download")
    (project / "download/ground_truth.json").unlink()
    result = run(project, "--from-dir", "download", "--videos-per-class", "2", "--duplicates", "on")
    assert result.returncode == 0, result.stderr
    assert sum(len(videos(project, name)) for name in ("train", "val", "test")) == 12


def test_nothing_is_asked_without_a_terminal(project):
    result = run(project)
    assert result.returncode == 0, result.stderr
    assert "?" not in result.stdout


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--clean", "--ratios", "1/2"], ["--augment", "some"]])
def test_wrong_arguments_are_told_before_anything_is_done(project, arguments):
    result = run(project, *arguments)
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr
    assert not (project / "data").exists()


def on_a_terminal(folder, answers):
    """Run the command on a pseudo-terminal, answer its questions in turn, return what it printed and its exit code."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execv(COMMAND[0], COMMAND)
    shown = b""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:
                break  # it has ended
        if answers and shown.rstrip().endswith((b"[y/N]", b"to stop:")):
            os.write(terminal, answers.pop(0).encode() + b"\n")
            shown += b"\n"
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_a_terminal_is_asked(project):
    shown, code = on_a_terminal(project, ["n", "", "y"])
    assert code == 0, shown
    assert "Measure every clip" in shown and "altered copy" in shown
    assert (project / "data/annotaions/dataset_report.html").exists()
    assert not (project / "data/annotaions/kept_clips.json").exists()


def test_an_empty_folder_asks_where_the_data_is(tmp_path):
    (tmp_path / "dataset").mkdir()
    shown, code = on_a_terminal(tmp_path, [""])
    assert "Folder of a QEVD download" in shown
    assert (code, "ground_truth.json: no such file" in shown) == (2, True)
