"""DeepSpeed shares a training out among processes, stages and machines without changing what is learned."""

import shutil
import signal
import socket
import sys
from itertools import product

import pytest
import torch
from conftest import REPOSITORY, logged, make_project, said
from safetensors.torch import load_file
from small_models import ONE, checkpoint

from formcoach.errors import UserError
from formcoach.models import load_model

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="DeepSpeed")

SCRIPTS = REPOSITORY / "scripts"
FILES = ("zero2", "zero2_offload", "zero3", "zero3_offload")
TWENTY = ("--max-steps", 20, "--lr", 1e-3, "--checkpoint-interval", 10)
# Adam divides by the size of the gradient: where that is rounding error, weights differ by a part of the learning rate.
EXACT = ("--max-steps", 4, "--lr", 2e-5, "--connector_lr", 2e-5, "--checkpoint-interval", 2)
SETUPS = list(product(FILES, ("1", "2")))
RESUMED = (("zero2_offload", "1"), ("zero3_offload", "1"), ("zero2", "2"), ("zero3", "2"))


@pytest.fixture(scope="module", name="shared")
def _shared(tmp_path_factory, small):
    """A project whose runs several tests look at."""
    return make_project(tmp_path_factory.mktemp("deepspeed"), small)


@pytest.fixture(scope="module")
def plain(shared):
    return shared.train(*TWENTY)


@pytest.fixture(scope="module")
def zero3(shared):
    return train(shared, "zero3_two", *TWENTY, "--shard-strategy", "full", processes="2")


def train(project, name, *flags, processes="1", **variables):
    code, output, errors = project.command(*flags, "--work-dir", name, NPROC_PER_NODE=processes, **variables)
    assert (code, errors) == (0, ""), output + errors
    return project.root / name


def assert_equal_course(run, other, tolerance=1e-5):
    for name in ("loss", "val_loss", "grad_norm"):
        assert logged(run, name) == pytest.approx(logged(other, name), abs=tolerance), name


def adapter(run, step):
    return load_file(checkpoint(run, step) / "adapter_model.safetensors")


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def on_two_machines(project, name, *flags, processes="1"):
    """Start the trainer on two "machines" that are this one."""
    meeting = {"NNODES": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "NPROC_PER_NODE": processes}
    return [project.start(*flags, "--work-dir", name, NODE_RANK=rank, **meeting) for rank in ("0", "1")]


def ends(machines):
    """Wait for the commands; return the exit code, the output and the errors of each."""
    return [said(machine, timeout=600) for machine in machines]


def test_zero2_in_two_processes_equals_plain_pytorch_in_one(shared, plain) -> None:
    run = train(shared, "zero2_two", *TWENTY, processes="2")
    assert "DeepSpeed ZeRO-2" in (run / "train.log").read_text()
    assert_equal_course(run, plain)


def test_zero3_in_two_processes_equals_plain_pytorch_in_one(plain, zero3) -> None:
    assert "DeepSpeed ZeRO-3" in (zero3 / "train.log").read_text()
    assert_equal_course(zero3, plain)
    assert {path.suffix for path in zero3.rglob("*") if path.is_file()}.isdisjoint({".pt", ".pth", ".bin"})


@pytest.mark.slow
def test_zero3_run_goes_on_as_if_it_had_not_been_stopped(shared, zero3) -> None:
    resumed = ("--shard-strategy", "full", "--resume-from", checkpoint(zero3, 10))
    run = train(shared, "zero3_again", *TWENTY, *resumed, processes="2")
    expected, found = adapter(zero3, 20), adapter(run, 20)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@ONE
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantised_weights_are_not_shared_out(project, quantization) -> None:
    with pytest.raises(UserError, match=rf"--quantization {quantization} does not go with ZeRO-3 .* use --shard-strat"):
        project.train("--deepspeed", SCRIPTS / "zero3.json", "--quantization", quantization)


@pytest.fixture(scope="module")
def exact(shared):
    """Plain PyTorch, for the weights."""
    shutil.rmtree(shared.root / "run", ignore_errors=True)
    return shared.train(*EXACT).rename(shared.root / "exact")


@pytest.fixture(scope="module")
def runs(shared, exact):
    """A run of each file with one process and with two."""
    return train_all(shared, dict.fromkeys(SETUPS, ("", ())))


def train_all(project, wanted):
    """Train with each file and number of processes, given a name's end and more flags; two commands at a time."""
    setups, runs = list(wanted), {}
    for pair in (setups[first : first + 2] for first in range(0, len(setups), 2)):
        names = [f"{file}_{count}{wanted[file, count][0]}" for file, count in pair]
        started = [
            project.start(
                *(*EXACT, "--deepspeed", SCRIPTS / f"{file}.json", "--work-dir", name, *wanted[file, count][1]),
                NPROC_PER_NODE=count,
            )
            for (file, count), name in zip(pair, names, strict=True)
        ]
        assert [(code, errors) for code, _, errors in ends(started)] == [(0, "")] * len(pair)
        runs |= {setup: project.root / name for setup, name in zip(pair, names, strict=True)}
    return runs


@ONE
@pytest.mark.slow
@pytest.mark.parametrize("setup", SETUPS, ids="-".join)
def test_adapter_of_each_file_has_the_weights_of_plain_pytorch(runs, exact, setup) -> None:
    expected, _ = load_model(exact, dtype="float32", device="cpu")
    model, _ = load_model(runs[setup], dtype="float32", device="cpu")
    trained = [name for name in model.state_dict() if "lora_" in name or "modules_to_save" in name]
    assert trained
    for name in trained:
        torch.testing.assert_close(model.state_dict()[name], expected.state_dict()[name], rtol=0, atol=1e-6)


@ONE
@pytest.mark.slow
def test_resumed_run_of_each_file_equals_the_uninterrupted_one(shared, runs) -> None:
    again = {setup: ("_again", ("--resume-from", checkpoint(runs[setup], 2))) for setup in RESUMED}
    resumed = train_all(shared, again)
    for setup, run in resumed.items():
        expected, found = adapter(runs[setup], 4), adapter(run, 4)
        assert all(torch.equal(expected[name], found[name]) for name in expected), setup


@ONE
@pytest.mark.slow
def test_run_goes_on_with_another_stage_and_number_of_processes(shared, runs) -> None:
    before = runs["zero3_offload", "2"]
    flags = ("--shard-strategy", "zero2", "--resume-from", checkpoint(before, 2))
    after = train(shared, "other_stage", *EXACT, *flags)
    for name, value in adapter(before, 4).items():
        torch.testing.assert_close(adapter(after, 4)[name], value, rtol=0, atol=1e-6)


@ONE
@pytest.mark.slow
def test_two_machines_equal_one(shared, zero3) -> None:
    first, second = ends(on_two_machines(shared, "machines", *TWENTY, "--shard-strategy", "full"))
    assert first[0] == second[0] == 0, first + second
    assert second[1:] == ("", "")  # only the first process speaks
    assert_equal_course(shared.root / "machines", zero3, tolerance=0)


@ONE
@pytest.mark.slow
def test_hybrid_shares_weights_out_within_a_machine(shared, exact) -> None:
    shorter = ("--global-batch-size", 4, "--max-steps", 2)
    machines = on_two_machines(shared, "hybrid", *EXACT, *shorter, "--shard-strategy", "hybrid", processes="2")
    first, second = ends(machines)
    assert first[0] == second[0] == 0, first + second
    plain = train(shared, "plain_4", *EXACT, *shorter, "--shard-strategy", "no")
    assert_equal_course(shared.root / "hybrid", plain)


@ONE
@pytest.mark.slow
def test_interrupt_on_one_machine_ends_both(shared) -> None:
    flags = ("--max-steps", 5000, "--checkpoint-interval", 2, "--max-keep-ckpts", 2)
    machines = on_two_machines(shared, "interrupted", *flags)
    while not (shared.root / "interrupted" / shared.small.checkpoint(2)).exists():
        assert machines[0].poll() is None
        with pytest.raises(Exception, match="timed out"):
            machines[0].wait(timeout=0.2)
    machines[1].send_signal(signal.SIGTERM)
    for code, _, errors in ends(machines):
        assert code == 2
        assert errors.count("\n") <= 1
        assert not errors or errors.startswith("error: ")


@ONE
@pytest.mark.slow
def test_mistake_is_told_once_on_each_machine(shared) -> None:
    for code, _, errors in ends(on_two_machines(shared, "mistake", "--max-length", 20)):
        assert code == 2
        assert errors.count("\n") <= 1, errors
