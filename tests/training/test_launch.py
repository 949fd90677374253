"""The trainer as users start it: DeepSpeed, several processes, mistakes, interrupts and a full disk."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_models import ONE, checkpoint

from formcoach.config import Defaults, Recipe, resolve
from formcoach.data.dataset import read_samples
from formcoach.errors import UserError
from formcoach.models import load_model, recipe_for
from formcoach.training.flags import add_training_flags, refuse_model_parallelism

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def adapter(run: Path, step: int) -> bytes:
    return (checkpoint(run, step) / "adapter_model.safetensors").read_bytes()


@pytest.mark.skipif(sys.platform == "win32", reason="DeepSpeed")
def test_zero2_trains_resumes_and_equals_plain_pytorch(project, logged) -> None:
    flags = ("--max-steps", 3, "--checkpoint-interval", 2, "--lora-dropout", 0.1)
    plain = project.train(*flags)
    code, output, errors = project.command(*flags, "--work-dir", "zero2", "--shard-strategy", "zero2")
    assert (code, errors) == (0, "")
    assert "DeepSpeed ZeRO-2" in output
    run = project.root / "zero2"
    for name in ("loss", "val_loss", "grad_norm"):
        assert logged(run, name) == pytest.approx(logged(plain, name), rel=1e-4)
    assert {path.suffix for path in run.rglob("*") if path.is_file()}.isdisjoint({".pt", ".pth", ".bin"})

    code, _, errors = project.command(*flags, "--work-dir", "again", "--resume-from", checkpoint(run, 2))
    assert (code, errors) == (0, "")
    assert adapter(project.root / "again", 3) == adapter(run, 3)


@pytest.mark.skipif(sys.platform == "win32", reason="DeepSpeed")
def test_two_processes_under_torchrun_equal_one(project, logged) -> None:
    plain = project.train("--max-steps", 2)
    code, output, errors = project.command("--max-steps", 2, "--work-dir", "two", launcher=TORCHRUN)
    assert code == 0, errors
    assert output.count("step 2/2") == 1  # only the first process speaks
    for name in ("loss", "val_loss"):
        assert logged(project.root / "two", name) == pytest.approx(logged(plain, name), abs=1e-5)


def test_nproc_per_node_starts_processes_and_a_mistake_stays_one_line(project) -> None:
    code, output, errors = project.command("--max-length", 20, NPROC_PER_NODE="2")
    assert code == 2, output
    (line,) = errors.splitlines()
    assert line.startswith("error: ")
    assert "6 samples have more than --max-length" in line
    assert not (project.root / "work_dirs").exists()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)], ids=["SIGTERM", "Ctrl-C"]
)
def test_interrupt_leaves_the_last_complete_checkpoint(project, number) -> None:
    process = project.start("--max-steps", 5000, "--checkpoint-interval", 3, "--deepspeed", "none", "--work-dir", "run")
    run = project.root / "run"
    wait_for(run / project.small.checkpoint(3), process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    newest = project.small.checkpoint(project.small.steps(run)[-1])
    assert errors == f"error: interrupted; run/{newest} is complete, --resume continues there\n"
    assert (run / newest / "resume" / "trainer_state.json").is_file()
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk")
def test_full_disk_leaves_the_last_complete_checkpoint(project) -> None:
    disk = project.root / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2200k", "tmpfs", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("cannot mount")
    try:
        full = rf"no space left on the disk of .*/run; .*/{project.small.checkpoint('')}\d+ is complete, --resume"
        with pytest.raises(UserError, match=full):
            project.train("--max-steps", 50, "--checkpoint-interval", 1, "--work-dir", disk / "run")
        complete = list((disk / "run").glob(project.small.checkpoint("*")))
        assert complete
        assert all((path / "resume" / "trainer_state.json").is_file() for path in complete)
        assert not list((disk / "run").glob(".*"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_files_too_large_for_the_disk_are_one_line(project) -> None:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(UserError, match=r"no space left on the disk of .*/run; no checkpoint was complete"):
            project.train("--max-steps", 1, "--num-workers", 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list((project.root / "run").glob("*/adapter_config.json"))


def test_bad_clips_are_named_and_nothing_is_written(project) -> None:
    whole, empty, text = project.clips[1:4]
    text.write_text("no video")
    empty.write_bytes(b"")
    whole.unlink()
    with pytest.raises(UserError, match=r"^3 clips cannot be read: .*no such file.*is empty.*is not a video") as raised:
        project.train("--max-steps", 1)
    assert "--skip-bad-clips" in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (project.root / "run").exists()


def test_bad_clips_are_left_out_and_counted(project, capsys) -> None:
    project.clips[1].write_bytes(b"")
    run = project.train("--max-steps", 1, "--skip-bad-clips")
    output = capsys.readouterr().out
    assert "left out 1 clip that cannot be read:" in output
    assert "5 samples, 2 for validation" in output
    assert str(project.clips[1]) in (run / "train.log").read_text()


def test_clip_that_vanishes_during_the_training_is_named(project, monkeypatch) -> None:
    from formcoach.training import inputs, run

    opened = run._open_run

    def open_run(prepared) -> None:
        opened(prepared)
        for clip in project.clips:
            clip.unlink()

    monkeypatch.setattr(inputs, "KEEP_BYTES", 0)
    monkeypatch.setattr(run, "_open_run", open_run)
    with pytest.raises(UserError, match=r"^sample train-\d: .*no such file; no checkpoint was complete yet$"):
        project.train("--max-steps", 3, "--num-workers", 1)


@ONE
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--datasets", "nope.json"), "nope.json: no such file"),
        (("--val-datasets", "nope.json"), "nope.json: no such file"),
        (("--model", "nope"), "model nope: no such folder"),
        (
            ("--mirco-batch-size", "3"),
            "--global-batch-size 2 is not a multiple of --mirco-batch-size 3 x 1 process; use 3",
        ),
        (("--deepspeed", "nope.json"), "nope.json: no such file"),
        (("--shard-strategy", "zero2"), "--shard-strategy zero2 contradicts --deepspeed none"),
        (("--dtype", "fp16"), "--dtype fp16 needs a CUDA GPU"),
        (("--lr-min", "1"), "--lr-min 1 is above --lr 0.01"),
        (("--lr", "0", "--connector_lr", "0"), "nothing to train"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_mistakes_are_found_before_anything_is_written(project, flags, message, monkeypatch) -> None:
    monkeypatch.chdir(project.root)
    with pytest.raises(UserError) as raised:
        project.train(*flags)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (project.root / "run").exists()


def test_a_sample_that_is_too_long_is_told_with_its_length(project) -> None:
    _, processor = load_model(project.small.folder)
    sample = read_samples(project.datasets, 42)[0]
    ids, _ = processor.text_inputs(sample.question, project.small.frames, 0.3, sample.answer)
    counts_all = recipe_for(project.small.folder).max_length_of == "all"
    length = len(ids) if counts_all else int((ids != processor.placeholder_id).sum())
    message = f"6 samples have more than --max-length 50 tokens: train-0 ({length}), train-1 "
    with pytest.raises(UserError, match=re.escape(message)):
        project.train("--max-length", 50)
    assert not (project.root / "run").exists()


def test_numbers_of_frames_that_the_model_does_not_take_are_refused(project) -> None:
    group = project.small.family.frame_group
    message = f"no multiple of {group} lies between"
    if project.small.more_frames is None:
        message = f"looks at {group} frames of each clip, no more and no fewer; leave both flags out"
    with pytest.raises(UserError, match=message):
        project.train("--min_num_frames", group + 1, "--max_num_frames", group + 2)


def test_work_dir_that_cannot_be_written(project) -> None:
    blocked = project.root / "a file"
    blocked.write_text("")
    with pytest.raises(UserError, match="a file is a file; name another folder"):
        project.train("--work-dir", blocked / "run")


@ONE
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"zero_optimization": {"stage": 4}}', "ZeRO stage 4 is not one of 1, 2 and 3"),
        ('{"optimizer": {}, "zero_optimization": {"stage": 2}}', "remove 'optimizer'"),
        ('{"train_batch_size": 4, "zero_optimization": {"stage": 2}}', 'set train_batch_size to "auto"'),
    ],
)
def test_deepspeed_file_that_does_not_fit(project, content, message) -> None:
    path = project.root / "ds.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        project.train("--deepspeed", path)


@pytest.mark.parametrize("flag", ["--sp-size", "--tp-size", "--ring-size"])
def test_sharing_out_one_sample_is_refused_with_what_to_use_instead(flag) -> None:
    with pytest.raises(UserError, match=f"{flag} above 1 is not available: .* NPROC_PER_NODE"):
        refuse_model_parallelism(parsed(flag, "2"))


@pytest.mark.parametrize(
    "flags",
    [["--unknown"], ["--epochs", "0"], ["--lr", "nan"], ["--selective-recompute", "1.5"], ["--max-keep-ckpts", "0"]],
    ids=lambda flags: flags[0],
)
def test_malformed_flags_end_with_one_line_and_code_2(flags, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        parsed(*flags)
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert flags[0] in errors


def test_flags_work_in_every_spelling() -> None:
    for flags in (
        ["--mirco-batch-size", "2", "--min_num_frames", "4", "--lr-min", "0", "--vit_lr", "1e-6"],
        ["--micro-batch-size", "2", "--min-num-frames", "4", "--lr_min", "0", "--vit-lr", "1e-6"],
        ["--mirco_batch_size", "2", "--min-num-frames", "4", "--lr-min", "0", "--vit_lr", "1e-6"],
    ):
        args = parsed(*flags)
        assert (args.micro_batch_size, args.min_frames, args.lr_min, args.vit_lr) == (2, 4, 0.0, 1e-6)


def test_what_is_not_given_comes_from_the_recipe() -> None:
    recipe = Recipe(epochs=6, lr=1e-3, selective_recompute=0.0)
    config = resolve(parsed("--lr", "5e-4"), Defaults("tiny", recipe, "data.json", "runs/one"), None)
    assert (config.model, config.datasets, config.work_dir) == ("tiny", "data.json", "runs/one")
    assert (config.epochs, config.lr, config.selective_recompute) == (6, 5e-4, 0.0)
    assert config.eval_interval == recipe.checkpoint_interval
    assert config.as_dict()["lora_rank"] == 16


def parsed(*flags: str):
    from formcoach.command import command_parser

    parser = command_parser("Train.", "python train.py")
    add_training_flags(parser)
    return parser.parse_args(flags)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    end = time.monotonic() + 90
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
