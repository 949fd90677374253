"""A run's curves as pictures: what is read of its metrics, and what is drawn of it."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from formcoach.curves import Curve, newest_recorded_run, read_curves
from formcoach.errors import UserError
from formcoach.plots import COLOURS, DRAWN, names, panels_of, running_mean, thinned, write_plots

COMMAND = Path(__file__).parents[1] / "utils" / "plot_training_stats.py"
KNOWN = {"loss", "learning_rates", "gradient_norm", "tokens_per_second", "samples_per_second"}
NEWER = {"data_wait", "seconds", "memory"}


def record(step, **more):
    speeds = {"tokens_per_second": 900.0, "samples_per_second": 2.5}
    return {"step": step, "epoch": step / 10, "loss": 4 / step, "lr": 1e-3, "connector_lr": 1e-3, "vit_lr": 0.0} | (
        {"grad_norm": 1.0 + 1 / step} | speeds | more
    )


def validation(step, loss):
    return {"step": step, "epoch": step / 10, "val_loss": loss}


def write_run(folder, records, best=None, tail=""):
    folder.mkdir(parents=True)
    lines = [json.dumps(one) + "\n" for one in records]
    (folder / "metrics.jsonl").write_text("".join(lines) + tail)
    (folder / "training_config.json").write_text(json.dumps({"settings": {"model": "tiny", "max_grad_norm": 1.0}}))
    if best is not None:
        (folder / "best.json").write_text(json.dumps({"checkpoint": f"step_{best[0]}", "val_loss": best[1]}))
    return folder


@pytest.fixture
def run(tmp_path):
    newer = {"seconds": 0.4, "data_wait": 0.02, "memory_gb": 1.5, "note": "unknown", "parts": [1, 2]}
    records = [record(step, **newer) for step in range(1, 41)]
    return write_run(tmp_path / "work_dirs" / "run", [*records, validation(20, 0.5), validation(40, 0.6)], (20, 0.5))


def command(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, check=False
    )


def coloured(path, colour):
    """How many pixels of a picture have a colour, nearly."""
    pixels = imread(path)[:, :, :3]  # 0 to 1
    wanted = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return int((abs(pixels - wanted).max(axis=2) < 0.05).sum())


def test_pictures_of_a_run(run) -> None:
    done = command(run)
    assert done.returncode == 0, done.stderr
    plots = run / "plots"
    pictures = {path.stem for path in plots.glob("*.png")}
    assert pictures == KNOWN | NEWER | {"overview"}
    assert done.stdout.splitlines()[-1] == f"wrote {plots / 'overview.png'}"
    assert (plots / "training.pdf").read_bytes().count(b"/Type /Page ") == len(pictures)
    assert not list(plots.glob(".*"))
    height, width, _ = imread(plots / "overview.png").shape
    assert width > 1500 and height > 900
    training, val, best = (coloured(plots / "loss.png", colour) for colour in COLOURS[:3])
    assert min(training, val, best) > 50
    again = {path: path.read_bytes() for path in plots.iterdir()}
    assert command("--run", run).returncode == 0
    assert {path: path.read_bytes() for path in plots.iterdir()} == again


def test_runs_are_compared_in_one_picture(run, tmp_path) -> None:
    older = write_run(tmp_path / "older", [record(step) for step in range(1, 31)])
    done = command(run, older)
    assert done.returncode == 0, done.stderr
    loss = run / "plots" / "compared" / "loss.png"
    assert min(coloured(loss, colour) for colour in COLOURS[:2]) > 50
    assert names([read_curves(run), read_curves(older)]) == ["run", "older"]
    assert not (older / "plots").exists()


def test_runs_of_the_same_name_are_told_apart(tmp_path) -> None:
    runs = [read_curves(write_run(tmp_path / parent / "run", [record(1)])) for parent in "ab"]
    assert [name[-6:] for name in names(runs)] == ["/a/run", "/b/run"]


def test_newest_run_is_drawn_where_none_is_named(run, tmp_path) -> None:
    newer = write_run(run.with_name("run_2"), [record(1)])
    write_run(run.with_name("run_other"), [record(1)])
    assert newest_recorded_run([run]) == newer
    done = command("--work_dir", "work_dirs/run", "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "overview.png").is_file()
    (newer / "metrics.jsonl").unlink()
    assert newest_recorded_run([tmp_path / "another", run]) == run


def test_a_run_that_was_killed_at_its_first_step(tmp_path) -> None:
    run = write_run(tmp_path / "run", [record(1)], tail='{"step": 2, "lo')
    curves = read_curves(run)
    assert curves.last_step == 1 and curves.best is None and curves.notes == ()
    assert {panel.name for panel in panels_of([curves])} == KNOWN
    assert {path.stem for path in write_plots([curves], tmp_path / "out")} == KNOWN | {"overview", "training"}


def test_lines_that_are_no_records_are_counted(tmp_path) -> None:
    run = write_run(tmp_path / "run", [record(1)], tail='[]\n{"step": 1.5}\n\x00\n' + json.dumps(record(2)) + "\n")
    curves = read_curves(run)
    assert curves.curves["loss"].steps.tolist() == [1, 2]
    assert curves.notes == (f"{run / 'metrics.jsonl'}: 3 lines are no records and are left out, the first is line 2",)
    assert "notice: " in command(run).stdout


def test_what_is_not_finite_is_marked(tmp_path) -> None:
    losses = [1.0, math.nan, math.inf, *[1.0] * 20]
    run = write_run(tmp_path / "run", [record(step, loss=loss) for step, loss in enumerate(losses, start=1)])
    curve = read_curves(run).curves["loss"]
    assert np.isfinite(curve.values).tolist() == [True, False, False, *[True] * 20]
    mean, _ = running_mean(curve)
    assert mean.values == pytest.approx(1.0)
    nothing = write_run(tmp_path / "nothing", [record(step, loss=math.nan, grad_norm=-math.inf) for step in (1, 2)])
    write_plots([read_curves(nothing)], tmp_path / "out")


def test_steps_that_a_resumed_run_repeats_are_drawn_once(tmp_path) -> None:
    before = [record(1), record(2), validation(2, 0.8), record(3), record(4), validation(4, 0.9)]
    run = write_run(tmp_path / "run", [*before, record(3, loss=7.0), record(4, loss=8.0)])
    curves = read_curves(run).curves
    assert curves["loss"].steps.tolist() == [1, 2, 3, 4]
    assert curves["loss"].values.tolist()[2:] == [7.0, 8.0]
    assert curves["val_loss"].steps.tolist() == [2]


def test_running_mean_is_the_mean_of_the_points_around() -> None:
    values = np.random.default_rng(0).normal(size=200)
    mean, width = running_mean(Curve(np.arange(200), values))
    assert width == 11
    assert mean.values[50] == pytest.approx(values[45:56].mean())
    assert mean.values[0] == pytest.approx(values[:6].mean())
    assert mean.values[-1] == pytest.approx(values[-6:].mean())


def test_thinning_keeps_spikes_and_ends() -> None:
    values = np.random.default_rng(0).normal(size=100_001)
    values[7] = np.nan
    values[54_321], values[77_777] = 99.0, -99.0
    thin = thinned(Curve(np.arange(100_001), values))
    assert len(thin.steps) <= DRAWN + 2
    assert {0, 54_321, 77_777, 100_000} <= set(thin.steps.tolist())
    assert (np.diff(thin.steps) > 0).all()


@pytest.mark.slow
def test_a_long_run_is_drawn_quickly(tmp_path) -> None:
    run = write_run(tmp_path / "run", [record(step, loss=math.sin(step) + 2) for step in range(1, 200_001)])
    began = time.process_time()
    write_plots([read_curves(run)], tmp_path / "out")
    assert time.process_time() - began < 30  # takes 6


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere"], "nowhere: no such folder. Name a run directory, or make one with scripts/finetune_qved.sh"),
        (["other"], "other: is no run directory: it has no metrics.jsonl. Name a run directory, or make one with"),
        (["empty"], "empty/metrics.jsonl: has no logged step yet. Try again after the first step, or name another run"),
        ([], "work_dirs/qevd_fit_300k_internvideo2_5_r16: no run yet. Name a run directory, or make one with"),
        (["run", "--output", "file"], "--output file: a file is in its place; name another folder"),
        (["run", "--output", "file/plots"], "--output file/plots: a file is in its place; name another folder"),
        (["damaged"], "damaged/best.json: is not JSON: Expecting value at line 1, column 1. Remove it to draw"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, arguments, told) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "file").touch()
    write_run(tmp_path / "run", [record(1)])
    write_run(tmp_path / "empty", [], tail='{"st')
    write_run(tmp_path / "damaged", [record(1)])
    (tmp_path / "damaged/best.json").write_text("nonsense")
    done = command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {told}") and done.stderr.count("\n") == 1


def test_more_runs_than_colours_are_refused(run, tmp_path) -> None:
    with pytest.raises(UserError, match="8 runs: name 7 at most"):
        write_plots([read_curves(run)] * 8, tmp_path / "out")
    assert not (tmp_path / "out").exists()
