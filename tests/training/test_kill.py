"""A run that is killed again and again ends as one that never was."""

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from formcoach.models.internvideo import INTERNVIDEO
from formcoach.models.mobilevideogpt import MOBILEVIDEOGPT

KILLS = {INTERNVIDEO.key: 20, MOBILEVIDEOGPT.key: 5}
SERVER = Path(__file__).with_name("forking_trainer.py")
FLAGS = (
    "--epochs",
    4,
    "--lora-dropout",
    0.1,
    "--checkpoint-interval",
    1,
    "--connector_lr",
    1e-3,
    "--max-keep-ckpts",
    2,
)


class Trainings:
    """Trainings in processes of their own."""

    def __init__(self, root: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(SERVER.parents[2]), "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, SERVER],
            cwd=root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments: list[str], kill_after: float | None = None) -> int:
        """Train; return the exit code, negative if it was killed before it ended; `seconds` is how long it took."""
        self._server.stdin.write(json.dumps(arguments) + "\n")
        self._server.stdin.flush()
        pid = int(self._answer("started"))
        began = time.monotonic()
        if kill_after is not None and not select.select([self._server.stdout], [], [], kill_after)[0]:
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(pid, signal.SIGKILL)
        status = int(self._answer("ended"))
        self.seconds = time.monotonic() - began
        return status

    def _answer(self, word: str) -> str:
        for line in self._server.stdout:  # DeepSpeed tells about itself in between
            if line.startswith(word):
                return line.removeprefix(word)
        raise AssertionError("the server has stopped")

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(timeout=200)
        self._server.stdout.close()


@pytest.fixture
def trainings(project) -> Iterator[Trainings]:
    server = Trainings(project.root)
    yield server
    server.close()


def outcome(run: Path) -> dict[str, object]:
    """Return what a run leaves, but for how long it took."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    learned = ("step", "epoch", "loss", "lr", "connector_lr", "grad_norm", "val_loss")
    checkpoints = sorted(path.parent for path in run.glob("*/adapter_config.json"))
    return {
        "checkpoints": [path.name for path in checkpoints],
        "adapters": [(path / "adapter_model.safetensors").read_bytes() for path in checkpoints],
        "best": (run / "best.json").read_text(),
        "metrics": [{name: record[name] for name in learned if name in record} for record in records],
        "hidden": [path.name for path in run.iterdir() if path.name.startswith(".")],
    }


@pytest.mark.slow
@pytest.mark.parametrize("engine", [("--deepspeed", "none"), ()], ids=["plain", "zero2"])
def test_killed_at_any_moment_and_resumed_equals_the_uninterrupted_run(project, trainings, engine) -> None:
    def flags(run: Path, *more: str) -> list[str]:
        return project.flags(*FLAGS, *engine, "--work-dir", run, *more)

    whole = project.root / "whole"
    assert trainings.run(flags(whole)) == 0
    seconds, expected = trainings.seconds, outcome(whole)
    generator = random.Random(5)
    run, kills = project.root / "killed", 0
    while kills < KILLS[project.small.family.key]:
        kills += (
            trainings.run(flags(run, "--resume") if run.exists() else flags(run), generator.uniform(0, seconds)) < 0
        )
        if (run / project.small.checkpoint(12)).is_dir():
            trainings.run(flags(run, "--resume"))  # what follows the last checkpoint
            assert outcome(run) == expected
            shutil.rmtree(run)
    assert trainings.run(flags(run, "--resume") if run.exists() else flags(run)) == 0
    assert outcome(run) == expected
