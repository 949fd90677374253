"""The other engine: the same run, started by xtuner in an environment of its own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import REPOSITORY, logged
from packaging.requirements import Requirement
from safetensors.torch import load_file

from formcoach.models import load_model
from formcoach.training import xtuner_engine, xtuner_shim

SCRIPTS = REPOSITORY / "scripts"
TWENTY = ("--dtype", "fp32", "--max-steps", "20", "--checkpoint-interval", "10")
FOUR_BITS = ("--quantization", "nf4", "--max-steps", "2")


def script(home, name, *arguments, root=REPOSITORY, **variables):
    """Run a script without a terminal on the user's folder; the default engine is in this environment."""
    environment = os.environ | {
        "VIRTUAL_ENV": sys.prefix,
        "DATASET_DIR": str(home / "dataset"),
        "OUTPUT_DIR": str(home / "data/annotaions"),
        "MODEL_NAME": "tiny",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        ["bash", str(root / "scripts" / name), *map(str, arguments)],
        env=environment | variables,
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def train(home, run, *flags, **variables):
    done = script(home, "finetune_qved.sh", *flags, WORK_DIR=str(home / run), **variables)
    assert done.returncode == 0, done.stderr
    return home / run


def assert_same_course(run, other, tolerance=1e-5):
    for name in ("loss", "val_loss"):
        assert logged(run, name) == pytest.approx(logged(other, name), abs=tolerance), name


def assert_same_adapter(run, other, step, tolerance=1e-4):
    ours, theirs = (load_file(one / f"step_{step}/adapter_model.safetensors") for one in (run, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def xtuner() -> Path:
    """The folder of commands of .venv-xtuner, which is made where it is not there: always in a new clone."""
    made = subprocess.run(
        ["bash", str(SCRIPTS / "setup_env.sh"), "--xtuner", "--print-python"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return Path(made.stdout.strip()).parent


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The demo, with fewer clips."""
    home = tmp_path_factory.mktemp("xtuner")
    command = [sys.executable, REPOSITORY / "utils/make_demo_dataset.py", "--dataset-dir", home / "dataset"]
    subprocess.run([*command, "--clips", "72"], check=True, capture_output=True)
    prepared = script(home, "initialize_dataset.sh", "--yes")
    assert prepared.returncode == 0, prepared.stderr
    return home


@pytest.fixture(scope="module")
def plain(home):
    return train(home, "plain", *TWENTY)


@pytest.fixture(scope="module")
def ours(home, xtuner):
    return train(home, "ours", *TWENTY, "--engine", "xtuner")


@pytest.mark.slow
def test_twenty_steps_are_those_of_the_other_engine(plain, ours) -> None:
    assert "DeepSpeed ZeRO-2" in (ours / "train.log").read_text()
    assert_same_course(ours, plain)
    assert_same_adapter(ours, plain, 20)
    names = {path.name for path in plain.rglob("*") if "tfevents" not in path.name}
    assert {path.name for path in ours.rglob("*") if "tfevents" not in path.name} == names


@pytest.mark.slow
def test_the_other_engine_goes_on_with_its_run_and_loads_its_model(home, plain, ours) -> None:
    shutil.copytree(ours, home / "moved")
    shutil.rmtree(home / "moved/step_20")
    run = train(home, "moved", *TWENTY, "--resume")
    assert_same_course(run, plain)
    assert_same_adapter(run, plain, 20)
    model, _ = load_model(ours, dtype="float32", device="cpu")
    assert any("lora_" in name for name in model.state_dict())


@pytest.mark.slow
def test_xtuner_train_by_hand_goes_on_with_a_run_of_the_other_engine_under_torchrun(home, plain, xtuner) -> None:
    # Another micro batch and the same files by another name: changes that --force goes on with.
    chosen = ["model=tiny", "dtype=fp32", "max_steps=20", "checkpoint_interval=10", "mirco_batch_size=4", "force=True"]
    xtuners = ["--deepspeed", SCRIPTS / "zero2.json", "--work-dir", "by_hand", "--resume", plain / "step_10"]
    options = [f"training_args.{setting}" for setting in chosen]
    done = subprocess.run(
        [xtuner / "xtuner", "train", SCRIPTS / "xtuner_qved.py", *xtuners, "--cfg-options", *options],
        env=os.environ | {"PATH": f"{xtuner}:{os.environ['PATH']}", "NPROC_PER_NODE": "2", "OMP_NUM_THREADS": "1"},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    run = home / "by_hand"
    assert (run / "step_20").is_dir(), done.stdout + done.stderr
    assert done.stdout.count("step 20/20") == 1  # only the first process speaks
    assert json.loads((run / "training_config.json").read_text())["resolved"]["processes"] == 2
    assert logged(run, "loss") == pytest.approx(logged(plain, "loss")[10:], abs=1e-4)
    assert_same_adapter(run, plain, 20, tolerance=1e-3)  # sums in another order, enlarged by Adam


@pytest.mark.slow
def test_quickstart_with_four_bits(home, xtuner) -> None:
    work = str(home / "quick")
    done = script(home, "quickstart_finetune.sh", "--engine", "xtuner", *FOUR_BITS, WORK_DIR=work)
    assert done.returncode == 0, done.stderr
    assert "difference" in done.stdout
    cache = ("--feature-cache", home / "data/features")
    assert_same_course(home / "quick", train(home, "four_bits", *FOUR_BITS, *cache))


@pytest.mark.slow
def test_a_mistake_is_one_line(home, xtuner) -> None:
    done = script(home, "finetune_qved.sh", "--engine", "xtuner", "--max-length", "20", WORK_DIR=str(home / "mistake"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "--max-length 20" in line
    assert not (home / "mistake").exists()


def test_without_its_environment_one_line_tells_how_to_get_it(tmp_path) -> None:
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    done = script(tmp_path, "finetune_qved.sh", "--engine", "xtuner", root=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and line.endswith(f"bash {tmp_path}/scripts/setup_env.sh --xtuner")


def pins(name):
    lines = [line.partition("#")[0].strip() for line in (REPOSITORY / name).read_text().splitlines()]
    return {pin.name: (str(pin.specifier), str(pin.marker)) for pin in map(Requirement, filter(None, lines))}


def test_both_environments_have_the_same_versions_but_for_torch() -> None:
    ours, theirs = pins("requirements-xtuner.txt"), pins("requirements.txt")
    assert all(version.startswith("==") for version, _ in ours.values())
    assert {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]} == {"torch"}


def test_an_unknown_engine_is_refused(tmp_path) -> None:
    done = script(tmp_path, "finetune_qved.sh", "--engine=xtunr")
    assert (done.returncode, done.stderr) == (2, "error: --engine 'xtunr' is unknown; use transformers or xtuner\n")


def test_the_shim_puts_the_function_in_only_where_it_is_missing() -> None:
    utils = ModuleType("utils")
    xtuner_shim.put_in(utils)
    assert utils.is_safetensors_available()
    utils.is_safetensors_available = theirs = object()
    xtuner_shim.put_in(utils)
    assert utils.is_safetensors_available is theirs


def test_a_configs_settings_become_flags() -> None:
    settings = {"freeze_vit": True, "liger": False, "checkpoint_interval": -1, "seed": None, "report_to": ["none"]}
    assert xtuner_engine.as_flags(settings) == ["--freeze_vit", "--checkpoint_interval=-1", "--report_to=none"]


def test_what_xtuner_puts_in_place_of_a_models_forward_is_undone() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    ours = model[1].forward = torch.zeros_like
    before = xtuner_engine.forwards_of(model)
    for layer in model:
        layer.forward = torch.ones_like
    xtuner_engine.restore_forwards(before)
    assert "forward" not in vars(model[0])
    assert model[1].forward is ours


def test_new_weights_get_their_values_although_initialisation_is_switched_off(monkeypatch) -> None:
    initialisers = xtuner_engine.initialisers()
    off = lambda *_, **__: None  # noqa: E731
    monkeypatch.setattr(torch.nn.init, "zeros_", off)
    with xtuner_engine.initialising(initialisers):
        assert torch.nn.init.zeros_(torch.ones(1)).item() == 0
    assert torch.nn.init.zeros_ is off
