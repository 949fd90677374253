"""`clean_dataset.py` and `motion_classifier.py` as people run them."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clip_scenes import film, scene

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--min-width", "320", "--min-height", "240")


def command(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "utils" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def ended(name, *arguments):
    """Run a command in a process of its own; return exit code, stdout and stderr."""
    line = [sys.executable, ROOT / "utils" / f"{name}.py", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=600)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def filmed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filmed") / "dataset"
    film(folder / "squats" / "good.mp4", scene())
    film(folder / "squats" / "dark.mp4", (picture * 0.2 for picture in scene(1)))
    film(folder / "plank" / "held.mp4", scene(2, sway=0.4, period=1.5))
    return folder


@pytest.fixture
def dataset(filmed, tmp_path):
    return Path(shutil.copytree(filmed, tmp_path / "dataset"))


def test_clean_apply_and_undo(dataset, tmp_path, capsys):
    main, out = command("clean_dataset"), tmp_path / "out"
    arguments = ["--dataset-dir", str(dataset), "--output-dir", str(out)]
    assert main([*arguments, *SMALL]) == 0
    said = capsys.readouterr().out
    assert "kept      2\n" in said and "rejected  1\n" in said and "brightness" in said and "clips/s" in said
    assert f"wrote {out / 'cleaning_report.html'}" in said
    assert (dataset / "squats" / "dark.mp4").exists()  # nothing moves without --apply
    kept = json.loads((out / "kept_clips.json").read_text())
    assert kept["kept"] == ["plank/held.mp4", "squats/good.mp4"] and [*kept["rejected"]] == ["squats/dark.mp4"]

    assert main([*arguments, *SMALL, "--apply"]) == 0
    assert "moved 1 clip aside" in capsys.readouterr().out
    assert not (dataset / "squats" / "dark.mp4").exists()
    assert main([*arguments, *SMALL, "--apply"]) == 0
    assert "moved 0 clips" in capsys.readouterr().out
    assert [*json.loads((out / "kept_clips.json").read_text())["rejected"]] == ["squats/dark.mp4"]

    assert main([*arguments, "--undo"]) == 0
    said = capsys.readouterr()
    assert "moved 1 clip back" in said.out and "kept_clips.json still leaves rejected clips out" in said.err
    assert (dataset / "squats" / "dark.mp4").exists() and not (dataset / ".rejected").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--min-sharpness", "-3"], "--min-sharpness"),
        (["--max-brightness", "bright"], "--max-brightness"),
        (["--min-width", "1.5"], "--min-width"),
        (["--min-brightness", "200"], "--min-brightness 200 is above --max-brightness 190"),
        (["--duplicates", "maybe"], "--duplicates"),
        (["--apply", "--undo"], "--undo"),
        (["--workers", "0"], "--workers"),
        (["--motion-file", "nowhere.json"], "nowhere.json"),
        (["--labels", "nowhere.json"], "nowhere.json"),
        (["--min-sharp", "3"], "--min-sharp"),
        (["--dataset-dir", "nowhere"], "nowhere"),
        (["--dataset-dir", "nowhere", "--undo"], "nowhere"),
    ],
)
def test_wrong_arguments_of_clean_dataset(filmed, tmp_path, arguments, said):
    code, _, errors = ended("clean_dataset", "--dataset-dir", filmed, "--output-dir", tmp_path / "out", *arguments)
    assert code == 2 and len(errors.splitlines()) == 1 and said in errors
    assert not (tmp_path / "out").exists()


def test_help_answers_at_once():
    for name in ("clean_dataset", "motion_classifier"):
        code, said, _ = ended(name, "--help")
        assert code == 0 and f"python utils/{name}.py" in said


def test_torch_is_not_loaded():
    line = "import sys, formcoach.data.clean_folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", line], check=False, cwd=ROOT).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent otherwise there")
def test_an_interrupt_ends_it_promptly_and_keeps_what_was_measured(tmp_path):
    dataset = tmp_path / "dataset"
    clip = film(dataset / "squats" / "0.mp4", scene(size=(640, 480), seconds=4))
    for number in range(1, 1000):
        (dataset / "squats" / f"{number}.mp4").hardlink_to(clip)
    line = [sys.executable, ROOT / "utils" / "clean_dataset.py", "--dataset-dir", dataset, "--output-dir", tmp_path]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    running = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    time.sleep(5)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does, to the workers as well
    said = running.communicate(timeout=200)
    assert running.returncode == 2
    assert said[1].splitlines()[-1] == "error: interrupted; complete files and checkpoints are kept"
    assert "Traceback" not in said[1]
    assert (dataset / ".formcoach" / "quality.msgpack").stat().st_size > 200
    assert not (tmp_path / "kept_clips.json").exists()


def test_motion_classifier(dataset, capsys):
    main = command("motion_classifier")
    (dataset / "exercise_motion.json").write_text('{"*plank*": "moving"}')
    assert main(["--dataset-dir", str(dataset), "--write"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["plank"][1:3] == ["1", "0%"]
    assert lines["plank"][4:] == ["still", "moving", "<-", "contradicts", "the", "clips"]
    assert lines["squats"][1:3] == ["2", "100%"] and lines["squats"][4:] == ["moving", "moving"]
    written = json.loads((dataset / "exercise_motion.json").read_text())
    assert written == {"*plank*": "moving", "squats": "moving"}  # the user's word stays


def test_motion_classifier_makes_the_file(dataset, capsys):
    (dataset / "zero.mp4").touch()
    assert command("motion_classifier")(["--dataset-dir", str(dataset), "--write"]) == 0
    assert "cannot be read: zero.mp4: is empty (0 bytes)" in capsys.readouterr().out
    assert json.loads((dataset / "exercise_motion.json").read_text()) == {"plank": "still", "squats": "moving"}


@pytest.mark.parametrize(
    "arguments", [["--workers", "none"], ["--dataset-dir", "nowhere"], ["--motion-file", "no.json"]]
)
def test_wrong_arguments_of_motion_classifier(filmed, arguments):
    code, _, errors = ended("motion_classifier", "--dataset-dir", filmed, *arguments)
    assert code == 2 and len(errors.splitlines()) == 1


@pytest.mark.slow
def test_the_benchmark_runs():
    line = [sys.executable, ROOT / "benchmarks" / "cleaning.py", "--clips", "2", "--repeat", "1", "--workers", "1"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "decode every frame (baseline)" in done.stdout and "clips/s" in done.stdout
