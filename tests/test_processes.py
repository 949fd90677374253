"""How many processes a command has, on how many machines."""

import pytest

from formcoach.errors import UserError
from formcoach.processes import Wanted, run_processes, wanted_processes

VARIABLES = ("RANK", "NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
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
