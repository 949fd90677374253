"""How many processes a training has on how many machines, and how they share it out."""

import argparse
from pathlib import Path

import pytest

from formcoach.errors import UserError
from formcoach.training.processes import Place, Wanted, run_processes, wanted_processes
from formcoach.training.sharding import choose_deepspeed, loading_device, settings_for

VARIABLES = ("RANK", "NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
ALONE, ONE_MACHINE = Place(), Place(1, 1, 2, 2)
TWO_MACHINES, ONE_EACH = Place(3, 1, 4, 2), Place(1, 0, 2, 1)
SECOND = {"NNODES": "2", "MASTER_ADDR": "first", "NODE_RANK": "1"}


@pytest.fixture
def environment(monkeypatch):
    def set_variables(**variables: str) -> None:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, None),
        ({"NPROC_PER_NODE": "1", "MASTER_ADDR": "left over"}, None),
        ({"NPROC_PER_NODE": "4"}, Wanted(4)),
        (SECOND, Wanted(1, 2, 1, "first", 29500)),
        (SECOND | {"NPROC_PER_NODE": "8", "MASTER_PORT": "2000"}, Wanted(8, 2, 1, "first", 2000)),
        (SECOND | {"RANK": "0"}, None),
    ],
    ids=["nothing", "one", "four", "two machines", "two machines with eight", "already started"],
)
def test_environment_says_what_is_started(environment, variables, wanted) -> None:
    environment(**variables)
    assert wanted_processes() == wanted


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NPROC_PER_NODE": "all"}, "NPROC_PER_NODE=all is not a number of processes; use 1, or the number of GPUs"),
        ({"NPROC_PER_NODE": "0"}, "NPROC_PER_NODE=0 is not a number of processes"),
        ({"NNODES": "-1"}, "NNODES=-1 is not a number of machines from 1 up"),
        ({"NNODES": "2", "NODE_RANK": "0"}, "NNODES=2 needs MASTER_ADDR, the first machine's name or address"),
        ({"NNODES": "2", "MASTER_ADDR": "a"}, "NNODES=2 needs NODE_RANK, this machine's number, from 0"),
        (SECOND | {"NODE_RANK": "2"}, "NODE_RANK=2 is not a machine of NNODES=2; use 0 to 1"),
        (SECOND | {"MASTER_PORT": "70000"}, "MASTER_PORT=70000 is not a port; use a free one from 1024 to 65535"),
    ],
)
def test_bad_environment_is_one_line(environment, variables, message) -> None:
    environment(**variables)
    with pytest.raises(UserError) as raised:
        wanted_processes()
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_machine_that_does_not_exist_is_named() -> None:
    with pytest.raises(UserError, match=r"MASTER_ADDR=nowhere.invalid: no such machine"):
        run_processes(Wanted(1, 2, 1, "nowhere.invalid"), "script.py", [])


def flags(strategy=None, deepspeed=None, quantization=None):
    return argparse.Namespace(shard_strategy=strategy, deepspeed=deepspeed, quantization=quantization, nan="stop")


@pytest.mark.parametrize(
    ("strategy", "place", "file", "notices"),
    [
        (None, ALONE, "zero2.json", 0),
        ("zero2", TWO_MACHINES, "zero2.json", 0),
        ("full", ONE_MACHINE, "zero3.json", 0),
        ("hybrid", ONE_MACHINE, "zero3.json", 1),
        ("hybrid", TWO_MACHINES, "zero3_hybrid.json", 0),
        ("hybrid", ONE_EACH, "zero2.json", 1),
    ],
)
def test_strategy_picks_a_file(strategy, place, file, notices) -> None:
    choice = choose_deepspeed(flags(strategy), place)
    assert Path(choice.path).name == file
    assert len(choice.notices) == notices


def test_no_sharing_is_plain_pytorch() -> None:
    assert choose_deepspeed(flags("no"), ALONE).path is None
    assert choose_deepspeed(flags(deepspeed="none"), ALONE).path is None


@pytest.mark.parametrize(
    ("strategy", "file"),
    [("zero2", "zero3"), ("full", "zero2"), ("hybrid", "zero2"), ("no", "zero2"), ("full", "none"), ("hybrid", "none")],
)
def test_contradiction_is_refused(strategy, file) -> None:
    path = file if file == "none" else settings_file(file)
    with pytest.raises(UserError, match=f"--shard-strategy {strategy} contradicts --deepspeed .*{file}.*leave one"):
        choose_deepspeed(flags(strategy, path), ALONE)


def test_settings_follow_the_processes() -> None:
    offload = settings_for(settings_file("zero3_offload"), ALONE, cuda=False)["zero_optimization"]
    assert not offload["offload_param"]["pin_memory"]
    assert settings_for(settings_file("zero3_offload"), ALONE, cuda=True)["zero_optimization"]["offload_param"][
        "pin_memory"
    ]
    assert (
        settings_for(settings_file("zero3_hybrid"), TWO_MACHINES, cuda=True)["zero_optimization"][
            "zero_hpz_partition_size"
        ]
        == 2
    )


def test_weights_to_be_shared_out_are_not_loaded_onto_a_gpu() -> None:
    assert loading_device(settings_file("zero3"), TWO_MACHINES, cuda=True) == "cpu"
    assert loading_device(settings_file("zero2"), TWO_MACHINES, cuda=True) == "cuda:1"
    assert loading_device(None, ALONE, cuda=False) == "cpu"


def settings_file(name: str) -> str:
    return str(Path(__file__).resolve().parents[2] / "scripts" / f"{name}.json")
