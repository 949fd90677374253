"""What draws curves while a run trains: TensorBoard's event files, and Weights & Biases.

The package `wandb` is an optional one that test environments do not have, and its server cannot be had offline. A
stand-in takes its place: a module of the same calls that writes each of them to a file, and fails where it is told to.
"""

import json
import shutil
import sys

import pytest
from small_models import checkpoint
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from formcoach.errors import UserError
from formcoach.training.callbacks import RunReport
from formcoach.training.trackers import check_trackers

STAND_IN = """
import json
from pathlib import Path
from types import SimpleNamespace

HERE = Path(__file__).parent

def note(call, **values):
    with (HERE / "calls.jsonl").open("a") as file:
        file.write(json.dumps({"call": call, **values}) + "\\n")
    failing = HERE / "failing"
    if failing.is_file() and failing.read_text() == call and values.get("mode") != "offline":
        raise RuntimeError("the network is unreachable\\nand more lines.")

def Settings(**settings):
    return settings

def init(**options):
    note("init", **options)
    return Run(options)

class Run:
    url = "https://wandb.example/run"

    def __init__(self, options):
        self.offline = options.get("mode") == "offline"

    def define_metric(self, name, step_metric):
        note("define_metric", name=name, step_metric=step_metric)

    def log(self, values):
        note("log", values=values)

    def finish(self, exit_code):
        note("finish", exit_code=exit_code)
"""


class StandIn:
    """The stand-in's folder."""

    def __init__(self, folder):
        self.folder = folder

    def fail(self, call):
        (self.folder / "failing").write_text(call)

    def calls(self, name):
        lines = (self.folder / "calls.jsonl").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call["call"] == name]


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    folder = tmp_path / "packages" / "wandb"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(STAND_IN)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.syspath_prepend(folder.parent)
    yield StandIn(folder)
    sys.modules.pop("wandb", None)


def record(step):
    return {"step": step, "epoch": step / 2, "loss": 1 / step, "lr": 1e-3, "tokens_per_second": 10.0}


def report(run, steps, total):
    """Report a training without training."""
    told = RunReport(run, True, ("wandb",), {"lr": 1e-3})
    told.open()
    told.begin(0, total)
    for step in range(1, steps + 1):
        told.step(record(step), total)
    told.validation(steps, steps / 2, 0.5)
    told.close()


def test_none_draws_nothing(project, logged) -> None:
    run = project.train("--max-steps", 1, "--report-to", "none")
    assert len(logged(run, "loss")) == 1
    assert not list(run.glob("events*"))
    assert not list(run.glob("wandb*"))


def test_tensorboard_shows_each_step_of_a_resumed_run_once(project, logged) -> None:
    flags = ("--max-steps", 4, "--checkpoint-interval", 2)
    run = project.train(*flags)
    shutil.rmtree(checkpoint(run, 4))
    project.train(*flags, "--resume")
    events = EventAccumulator(str(run)).Reload()
    for tag, name in (("train/loss", "loss"), ("train/lr", "lr"), ("validation/val_loss", "val_loss")):
        drawn = events.Scalars(tag)
        assert [one.step for one in drawn] == ([2, 4] if name == "val_loss" else [1, 2, 3, 4])
        assert [one.value for one in drawn] == pytest.approx(logged(run, name))


def test_a_run_that_was_stopped_before_its_first_checkpoint_starts_a_new_curve(tmp_path) -> None:
    for loss in (1.0, 2.0):
        told = RunReport(tmp_path, True, ("tensorboard",), {})
        told.open()
        told.begin(0, 2)
        told.step(record(1) | {"loss": loss}, 2)
        told.close()
    assert [one.value for one in EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")] == [2.0]


def test_wandb_goes_on_as_the_same_run(project, wandb, capsys) -> None:
    flags = ("--max-steps", 4, "--checkpoint-interval", 2, "--report-to", "wandb")
    run = project.train(*flags)
    assert not list(run.glob("events*"))
    shutil.rmtree(checkpoint(run, 4))
    project.train(*flags, "--resume")
    assert "Weights & Biases: https://wandb.example/run" in capsys.readouterr().out
    first, second = wandb.calls("init")
    assert first["id"] == second["id"] == json.loads((run / "wandb_run.json").read_text())["id"]
    assert (first["project"], first["name"], first["dir"]) == ("formcoach", "run", str(run))
    assert first["config"]["max_steps"] == 4
    assert {call["step_metric"] for call in wandb.calls("define_metric")} == {"step"}
    values = [call["values"] for call in wandb.calls("log")]
    assert [one["step"] for one in values if "train/loss" in one] == [1, 2, 3, 4, 3, 4]
    assert [one["step"] for one in values if "validation/val_loss" in one] == [2, 4, 4]
    assert [call["exit_code"] for call in wandb.calls("finish")] == [0, 0]


def test_a_run_from_the_beginning_is_a_new_one(tmp_path, wandb) -> None:
    report(tmp_path / "run", 1, 1)
    report(tmp_path / "run", 1, 1)
    first, second = wandb.calls("init")
    assert first["id"] != second["id"]


def test_a_stopped_training_ends_as_failed(tmp_path, wandb) -> None:
    report(tmp_path / "run", 1, 2)
    assert [call["exit_code"] for call in wandb.calls("finish")] == [1]


@pytest.mark.parametrize("call", ["define_metric", "log", "finish"])
def test_trouble_with_wandb_is_told_once_and_stops_nothing(tmp_path, wandb, capsys, call) -> None:
    wandb.fail(call)
    report(tmp_path / "run", 3, 3)
    assert len((tmp_path / "run/metrics.jsonl").read_text().splitlines()) == 4
    told = "Weights & Biases: the network is unreachable; the training goes on without it"
    assert capsys.readouterr().out.count(told) == 1
    assert len(wandb.calls(call)) == 1


def test_without_a_network_the_run_is_recorded_on_the_disk(tmp_path, wandb, capsys) -> None:
    wandb.fail("init")
    report(tmp_path / "run", 2, 2)
    assert [call.get("mode") for call in wandb.calls("init")] == [None, "offline"]
    assert len(wandb.calls("log")) == 3
    output = capsys.readouterr().out
    assert "Weights & Biases: the network is unreachable\n" in output
    assert f"`wandb sync {tmp_path / 'run' / 'wandb'}` uploads it" in output


def test_damaged_note_of_the_run_is_named(tmp_path, wandb) -> None:
    (tmp_path / "wandb_run.json").write_text('{"id": 3}')
    told = RunReport(tmp_path, True, ("wandb",), {})
    told.open()
    with pytest.raises(UserError, match=r"wandb_run\.json: .*Remove it to go on as a new W&B run\."):
        told.begin(2, 4)


def test_missing_package_is_told_before_anything_is_written(project, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(UserError, match=r"--report-to wandb .*pip install wandb$"):
        project.train("--max-steps", 1, "--report-to", "tensorboard,wandb")
    assert not (project.root / "run").exists()


def test_the_folder_that_wandb_leaves_behind_is_not_the_package(tmp_path, monkeypatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="pip install wandb"):
        check_trackers(("wandb",))
