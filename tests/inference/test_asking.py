"""Questions about clips: one, several, folders, long ones; on a terminal and in a pipe."""

import fcntl
import json
import os
import pty
import subprocess
import sys
import termios
import threading
import tracemalloc
from dataclasses import replace

import pytest
import torch
from small_models import ONE

from formcoach.errors import ClipError, UserError
from inference.conftest import write_clip
from inference.test_commands import UTILS, command

QUESTION = "What is wrong?"


@pytest.fixture
def folder(clips, tmp_path):
    """Clips 0 to 3 as `2.mp4`, `10.mp4`, `20.mp4`, `100.mp4`."""
    root, records = clips
    (tmp_path / "clips").mkdir()
    for number, record in zip((2, 10, 20, 100), records, strict=False):
        (tmp_path / f"clips/{number}.mp4").symlink_to(root / record.video)
    return tmp_path / "clips"


@pytest.fixture
def asked(adapter):
    return ["--model_path", str(adapter), "--prompt", QUESTION, "--max_new_tokens", "12", "--device", "cpu"]


@pytest.fixture
def loads(monkeypatch):
    """The models that were loaded."""
    import formcoach.models

    loaded, load_model = [], formcoach.models.load_model
    monkeypatch.setattr(
        formcoach.models, "load_model", lambda *named, **how: loaded.append(named) or load_model(*named, **how)
    )
    return loaded


def alone(predictor, path):
    return predictor.answer(predictor.prompt(predictor.read(path), QUESTION))


def damage(path):
    """Leave the clip's index whole and make its pictures unreadable; return the path."""
    data = bytearray(path.read_bytes())
    begin, end = data.index(b"mdat") + 4, data.index(b"moov") - 4  # PyAV writes the index behind the pictures
    data[begin:end] = bytes(end - begin)
    path.unlink()
    path.write_bytes(data)
    return path


def test_answers_of_several_clips_are_those_of_each_alone(asked, folder, predictor, loads, capsys):
    paths = [folder / f"{number}.mp4" for number in (2, 10, 20, 100)]
    command("infer_qved")([*asked, "--video_path", str(folder)])
    told = capsys.readouterr()
    assert told.out == "".join(f"{path}: {alone(predictor, path)}\n" for path in paths)
    assert len(loads) == 1
    twice = ["--video_path", str(paths[3]), str(paths[1]), "--video-path", str(paths[0])]
    command("infer_qved")([*asked, *twice, "--json"])
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(told["video"], told["prediction"]) for told in objects] == [
        (str(path), alone(predictor, path)) for path in (paths[3], paths[1], paths[0])
    ]
    frames = predictor.processor.max_frames
    assert all(told["prompt"] == QUESTION and len(told["frames"]) == frames for told in objects)
    assert all(told["duration"] > 0 for told in objects)


def test_base_and_tuned_answers_come_from_one_loaded_model(asked, folder, predictor, loads, capsys):
    command("base_model_inference")([*asked, "--video_path", str(folder)])
    lines = capsys.readouterr().out
    expected = ""
    for number in (2, 10, 20, 100):
        path = folder / f"{number}.mp4"
        with predictor.base():
            expected += f"{path}: base: {alone(predictor, path)}\n"
        expected += f"{path}: tuned: {alone(predictor, path)}\n"
    assert lines == expected
    assert len(loads) == 1
    command("base_model_inference")([*asked, "--video_path", str(folder / "2.mp4"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["tuned"] == alone(predictor, folder / "2.mp4") and told["base"] != told["tuned"]


def test_a_bad_clip_is_told_and_the_others_are_answered(asked, folder, predictor, capsys):
    missing, damaged = folder / "missing.mp4", damage(folder / "20.mp4")
    named = ["--video_path", str(missing), str(folder)]
    with pytest.raises(UserError, match=r"^2 of 5 clips cannot be read, see above; repair or leave them out$"):
        command("infer_qved")([*asked, *named])
    told = capsys.readouterr()
    good = [folder / f"{number}.mp4" for number in (2, 10, 100)]
    assert told.out == "".join(f"{path}: {alone(predictor, path)}\n" for path in good)
    assert told.err.splitlines()[0] == f"{missing}: no such file"
    assert told.err.splitlines()[-1].startswith(f"{damaged}: is damaged")
    with pytest.raises(UserError, match=r"^2 of 5 clips"):
        command("infer_qved")([*asked, *named, "--json"])
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [told["video"] for told in objects] == [str(path) for path in (missing, *good[:2], damaged, good[2])]
    assert [("prediction" in told, "error" in told) for told in objects] == [
        (False, True),
        (True, False),
        (True, False),
        (False, True),
        (True, False),
    ]
    assert objects[0]["error"] == f"{missing}: no such file"


@pytest.mark.parametrize("name", ["infer_qved", "base_model_inference"])
def test_a_bad_clip_alone_is_one_error(name, asked, folder, capsys):
    damaged = damage(folder / "20.mp4")
    with pytest.raises(ClipError, match=r"20.mp4: is damaged"):
        command(name)([*asked, "--video_path", str(damaged)])
    assert capsys.readouterr().out == ""
    with pytest.raises(ClipError, match=r"20.mp4: is damaged"):
        command(name)([*asked, "--video_path", str(damaged), "--json"])
    assert json.loads(capsys.readouterr().out)["error"].startswith(f"{damaged}: is damaged")


def test_wrong_paths_are_told_before_a_model_is_loaded(asked, tmp_path, loads, capsys):
    (tmp_path / "empty").mkdir()
    missing = [str(tmp_path / f"{number}.mp4") for number in range(2)]
    with pytest.raises(UserError, match=r"empty: has no clips in it or below it"):
        command("infer_qved")([*asked, "--video_path", str(tmp_path / "empty"), *missing])
    with pytest.raises(UserError, match=r"^2 of 2 clips cannot be read"):
        command("base_model_inference")([*asked, "--video_path", *missing])
    assert capsys.readouterr().err == "".join(f"{path}: no such file\n" for path in missing)
    assert loads == []


def test_a_file_name_that_is_not_text(asked, folder, predictor, capsys):
    path = os.fsdecode(os.fsencode(folder) + b"/\xff.mp4")
    (folder / "2.mp4").rename(path)
    command("infer_qved")([*asked, "--video_path", path, str(folder / "10.mp4"), "--json"])
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (first["video"], first["prediction"]) == (path, alone(predictor, path))
    command("infer_qved")([*asked, "--video_path", path, str(folder / "10.mp4")])
    assert "\\udcff.mp4: " in capsys.readouterr().out


def test_the_model_answers_where_none_is_named(folder, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    command("base_model_inference")(["--video_path", str(folder / "2.mp4"), "--max_new_tokens", "4"])
    told = capsys.readouterr()
    assert told.out.startswith("base: ") and told.out.count("\n") == 1
    assert "using tiny, the packaged demo model" in told.err


@pytest.mark.parametrize("name", ["infer_qved", "base_model_inference"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--model_path", "work_dirs/my/run"],
            r"^model work_dirs/my/run: no such folder. Give a folder with a checkpoint",
        ),
        (["--model_path", "{base}", "--base_model", "{base}"], r"has no adapter_config.json, so it is not an adapter$"),
        (["--model_path", "{adapter}", "--base_model", "tiny"], r"was trained on .*; it cannot be used with tiny"),
        (["--model_path", "{clips}"], r"has no config.json. Train one with scripts/finetune_qved.sh"),
        (["--model_path", "{adapter}", "--prompt", "a <|im_end|>?"], r"question 'a .*\?' contains the control token"),
        pytest.param(
            ["--model_path", "{adapter}", "--device", "cuda"],
            r"^device cuda: torch sees 0 GPUs; use auto or cpu$",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU"),
        ),
    ],
)
def test_a_wrong_model_is_one_line(name, flags, message, adapter, base_model, folder, capsys):
    named = [flag.format(adapter=adapter, base=base_model, clips=folder) for flag in flags]
    with pytest.raises(UserError, match=message) as raised:
        command(name)([*named, "--video_path", str(folder)])
    assert "\n" not in str(raised.value)
    assert capsys.readouterr().out == ""


def test_of_a_long_clip_only_the_frames_needed_are_kept(predictor, tmp_path):
    path = tmp_path / "webcam.mp4"
    write_clip(path, frames=1200, fps=2, size=(160, 120))  # 10 minutes
    tracemalloc.start()
    prompt = predictor.prompt(predictor.read(path), QUESTION)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert prompt.duration == 600 and len(prompt.indices) == predictor.processor.max_frames
    assert prompt.indices[0] < 100 and prompt.indices[-1] > 1100
    assert peak < 1200 * 160 * 120 * 3 / 10
    assert replace(predictor, max_new_tokens=4).answer(prompt)


@ONE
def test_the_next_clips_are_read_while_the_model_answers(predictor, monkeypatch):
    started, enough = [], threading.Event()

    def read(_predictor, path):
        started.append(path)
        if len(started) == 3:
            enough.set()
        raise ClipError(path, "is not read")

    monkeypatch.setattr(type(predictor), "read", read)
    prompts = predictor.prompts([f"{number}.mp4" for number in range(20)], QUESTION)
    assert str(next(prompts)) == "0.mp4: is not read"
    assert enough.wait(timeout=300)  # though only one was asked for
    assert len(started) == 3
    assert [problem.path for problem in prompts] == [f"{number}.mp4" for number in range(1, 20)]


@ONE
def test_a_reader_that_goes_away(asked, folder):
    with subprocess.Popen(
        [sys.executable, UTILS / "infer_qved.py", *asked, "--video_path", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline().startswith(f"{folder / '2.mp4'}: ")
        process.stdout.close()
        assert "Error" not in process.stderr.read()
    assert process.returncode == 1


@ONE
def test_on_a_terminal_answers_come_in_pieces_and_ctrl_c_ends_them(asked, folder, predictor):
    """Ctrl-C is pressed on a piece of the second answer: had answers come whole, there would have been none."""
    asked[asked.index("--max_new_tokens") + 1] = "400"
    answers = [alone(replace(predictor, max_new_tokens=400), folder / f"{number}.mp4") for number in (2, 10)]
    keyboard, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, UTILS / "infer_qved.py", *asked, "--video_path", folder],
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - one system call
    ) as process:
        os.close(terminal)
        shown, second = b"", f"{folder / '10.mp4'}: ".encode()
        while not shown.partition(second)[2].strip():
            shown += os.read(keyboard, 1024)
        os.write(keyboard, b"\x03")
        errors = process.stderr.read()
    os.close(keyboard)
    first, _, piece = shown.decode(errors="ignore").replace("\r\n", "\n").partition(second.decode())
    assert first.split() == f"{folder / '2.mp4'}: {answers[0]}".split()
    assert answers[1].startswith(piece.strip()) and len(piece.strip()) < len(answers[1]) / 2
    assert errors == "error: interrupted; complete files and checkpoints are kept\n"
    assert process.returncode == 2
