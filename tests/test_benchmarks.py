"""The benchmarks run and print what they promise; how fast things are is not asserted."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from clip_scenes import film, scene
from resized import resized_05b, resized_8b

from formcoach.data.annotations import Conversation, Turn, write_conversations

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def benchmark(name, *arguments):
    command = [sys.executable, BENCHMARKS / name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    return done.returncode, done.stdout, done.stderr


def test_token_merging():
    code, output, errors = benchmark("token_merging.py", "--frames", 4, "--repeat", 1, "--dtype", "float32")
    assert code == 0, errors
    assert "cores" in output and re.search(r"\d\.\dx +\d\.\de-0\d\n$", output)


def test_wrong_frames_are_refused(tmp_path):
    for arguments in (("token_merging.py", "--frames", 6), ("real_size.py", "--frames", 6, "--checkpoint", tmp_path)):
        code, _, errors = benchmark(*arguments)
        assert code == 2 and len(errors.splitlines()) == 1 and "not a multiple of 4" in errors


def test_real_size_does_not_write_into_a_full_folder(tmp_path):
    (tmp_path / "thesis.txt").touch()
    code, _, errors = benchmark("real_size.py", "--checkpoint", tmp_path)
    assert code == 2 and errors == f"error: {tmp_path}: is not empty and no checkpoint; name a new folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is told by Linux only")
def test_real_size_on_a_small_checkpoint(tmp_path):
    pytest.importorskip("bitsandbytes")
    from formcoach.models.internvideo.random_checkpoint import write_random_checkpoint

    config = resized_8b({"num_hidden_layers": 1}, {"num_hidden_layers": 1, "vocab_size": 8192})
    write_random_checkpoint(tmp_path / "checkpoint", config)
    code, output, errors = benchmark("real_size.py", "--checkpoint", tmp_path / "checkpoint", "--device", "cpu")
    assert code == 0, errors
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", output)]
    assert losses[1] < losses[0]
    for phase in ("load", "add adapters", "training step 1", "training step 2", "answer, 16 tokens"):
        assert re.search(rf"^{phase} +\d+\.\d +\d+\.\d\d", output, re.MULTILINE)
    assert re.search(r"peak \d+\.\d\d GB, estimated \d+\.\d\d GB", output)


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is told by Linux only")
def test_real_size_of_the_other_family(tmp_path):
    from formcoach.models.mobilevideogpt.random_checkpoint import write_random_checkpoint

    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 64}
    language = layers | {"num_key_value_heads": 1, "vocab_size": 400}
    config = resized_05b({"depth": 1, "embed_dim": 32}, layers | {"image_size": 64}, language)
    write_random_checkpoint(tmp_path / "checkpoint", config)
    flags = "--family", "mobilevideogpt", "--checkpoint", tmp_path / "checkpoint", "--device", "cpu"
    code, output, errors = benchmark("real_size.py", *flags)
    assert code == 0, errors
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", output)]
    assert losses[1] < losses[0]
    towers = ("CLIP, 16 frames", "frame selection", "VideoMamba, 8 frames", "connectors")
    for phase in ("load", *towers, "add adapters", "training step 1", "training step 2", "answer, 32 tokens"):
        assert re.search(rf"^{phase} +\d+\.\d +\d+\.\d\d", output, re.MULTILINE)
    assert "2402 visual tokens" in output
    assert re.search(r"peak \d+\.\d\d GB, estimated \d+\.\d\d GB", output)
    code, _, errors = benchmark("real_size.py", *flags, "--frames", 32)
    assert code == 2 and "Mobile-VideoGPT looks at 16 frames" in errors


@pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is told by Linux only")
def test_train_step():
    code, output, errors = benchmark("train_step.py", "--small", "--dtype", "fp32", "--rounds", 1)
    assert code == 0, errors
    rows = re.findall(r"^(.+?) +\d+ +\d+\.\d\dx +\d+\.\d\d +\d+\.\d\dx +(\d+\.\d{4})  ", output, re.MULTILINE)
    ours = ["answer positions", "feature cache"]
    assert [name for name, _ in rows] == ["plain recipe", *ours, *(f"{name}, 0.6" for name in ours)]
    assert len({loss for _, loss in rows}) == 1
    assert re.search(r"padded \d+ tokens/s, packed \d+ tokens/s \(\d+\.\d\dx\)", output)


def test_gpu_qlora_on_whatever_there_is():
    fixture = BENCHMARKS.parent / "tests" / "fixtures" / "internvideo2_5_tiny"
    code, output, errors = benchmark(
        "gpu_qlora.py",
        "--checkpoint",
        fixture,
        "--frames",
        8,
        4,
        "--precision",
        "bf16",
        "--steps",
        1,
        "--device",
        "cpu",
    )
    assert code == 0, errors
    assert [row.split()[:2] for row in output.splitlines()[-2:]] == [["bf16", "4"], ["bf16", "8"]]


def test_prepare(tmp_path):
    code, output, errors = benchmark("prepare.py", "--clips", 60, "--folder", tmp_path)
    assert code == 0, errors
    assert re.search(r"durations cached +\d+\.\d +\d+ +\d\.\d\d", output)


def test_inference(tmp_path):
    film(tmp_path / "1.mp4", scene(size=(64, 48), seconds=1))
    turns = [Turn("human", "<image>\nWhat is wrong?"), Turn("gpt", "squats - too fast")]
    records = [Conversation(str(number), "1.mp4", turns, 1.0) for number in range(5)]
    write_conversations(tmp_path / "test.jsonl", records)
    flags = ["--model_path", "tiny", "--test_json", tmp_path / "test.jsonl", "--data_path", tmp_path, "--device", "cpu"]
    more = ["--max_new_tokens", 4, "--repeat", 1, "--batch_sizes", 2]
    code, output, errors = benchmark("inference.py", *flags, *more)
    assert code == 0, errors
    assert "5 clips" in output
    rows = re.findall(r"^ +(\d+) +\d+\.\d\d +\d+\.\d +(\d+\.\d\d)x +(\d+)$", output, re.MULTILINE)
    assert [(size, different) for size, _, different in rows] == [("1", "0"), ("2", "0")]


def test_selective_scan():
    code, output, errors = benchmark("selective_scan.py", "--tokens", 40, "--channels", 8, "--repeat", 1)
    assert code == 0, errors
    rows = re.findall(r"^(\S.+?) +\d+\.\d +\d+\.\d\dx +\d+\.\d +\d\.\d{3}x +(\S+)$", output, re.MULTILINE)
    assert [name for name, _ in rows] == ["published recurrence", "selective_scan", "both directions"]
    assert all(float(difference) < 1e-4 for _, difference in rows)
