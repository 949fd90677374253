"""Answering, scoring and reporting ask nothing of a network: they run where there is none, and do not try."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from formcoach.data.annotations import write_conversations

PROJECT = Path(__file__).parents[2]
ALONE = ["unshare", "--map-root-user", "--net"]  # a network namespace without interfaces
# Loaded by every Python process, those that commands start included.
WATCH = """
import os, sys

def watch(event, args):
    is_network = event == "socket.connect" and isinstance(args[1], tuple) or event == "socket.getaddrinfo"
    if is_network:
        with open(os.environ["NETWORK_LOG"], "a") as log:
            print(event, args, sys.argv, file=log)

sys.addaudithook(watch)
"""


def can_be_alone() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def alone(tmp_path):
    """Return a function that runs a command without a network and returns what it tried to reach."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    log = tmp_path / "network.log"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "watch"), "NETWORK_LOG": str(log)}
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        environment.pop(name, None)

    def run(*command: object) -> str:
        line = [*ALONE, sys.executable, *map(str, command)]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return log.read_text() if log.exists() else ""

    return run


@pytest.mark.skipif(not can_be_alone(), reason="no network namespaces here")
def test_nothing_is_asked_of_a_network(alone, adapter, clips, tmp_path):
    reach = "import socket\ntry: socket.create_connection(('192.0.2.1', 80), 1)\nexcept OSError: pass"
    assert "192.0.2.1" in alone("-c", reach)  # it would be seen
    (tmp_path / "network.log").unlink()
    root, records = clips
    write_conversations(tmp_path / "test.jsonl", records)
    model = ["--model_path", adapter.parent, "--max_new_tokens", 8]
    test_set = ["--test_json", tmp_path / "test.jsonl", "--data_path", root, "--output_dir", tmp_path / "out"]
    assert alone(PROJECT / "utils/test_inference.py", *model, *test_set, "--compare", "--report") == ""
    assert (tmp_path / "out" / "test_evaluation_report.html").is_file()
    assert alone(PROJECT / "utils/infer_qved.py", *model, "--video_path", root / records[3].video) == ""
