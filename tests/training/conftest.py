"""A small dataset of real clips, and the trainer: as users start it, and in this process where that is enough."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
from small_models import SMALL, SmallModel, small_model

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINER = REPOSITORY / "unify_internvl2_train_r16.py"
ANSWERS = ("squats - not low enough", "push-ups - hips sagging, hands too wide apart", "lunges - good form")


def write_clip(path: Path, frames: int, seed: int, size: tuple[int, int] = (96, 64)) -> None:
    """Write a clip of moving noise with PyAV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    picture = generator.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.roll(picture, number * (seed + 1), axis=1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@dataclass(frozen=True)
class Project:
    """A user's folder: ``data/`` with registries and conversations, ``dataset/`` with clips; and what is trained."""

    root: Path
    small: SmallModel

    @property
    def datasets(self) -> Path:
        return self.root / "data" / "diy_ft_data.json"

    @property
    def clips(self) -> list[Path]:
        return sorted((self.root / "dataset").rglob("*.mp4"))

    def flags(self, *more: object) -> list[str]:
        fixed = ["--model", self.small.folder, "--datasets", self.datasets, "--freeze-vit", "--dtype", "fp32"]
        frames = ["--min_num_frames", self.small.frames, "--max_num_frames", self.small.frames]
        return [str(part) for part in (*fixed, *frames, "--global-batch-size", 2, "--lr", 1e-2, *more)]

    def train(self, *flags: object) -> Path:
        """Train in this process, with plain PyTorch; return the run directory."""
        from formcoach.training.launch import main

        run = self.root / "run"
        main(self.flags("--work-dir", run, "--deepspeed", "none", *flags))
        return run

    def start(self, *flags: object, launcher: tuple[str, ...] = (), **variables: str) -> subprocess.Popen:
        """Start the trainer as a user does."""
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
        path = os.pathsep.join(part for part in (str(REPOSITORY), os.environ.get("PYTHONPATH")) if part)
        return subprocess.Popen(
            [sys.executable, *launcher, str(TRAINER), *self.flags(*flags)],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self, *flags: object, launcher: tuple[str, ...] = (), **variables: str) -> tuple[int, str, str]:
        """Run the trainer as a user does; return exit code, output and errors."""
        return said(self.start(*flags, launcher=launcher, **variables))


def said(process: subprocess.Popen, timeout: float = 600) -> tuple[int, str, str]:
    """Wait for the trainer; return exit code, output and errors, without what a slow computer shows of its progress."""
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output, re.sub(r"^[a-z ]+: \d+/\d+\n", "", errors, flags=re.MULTILINE)


def logged(run: Path, name: str) -> list[float]:
    """Return the values of `name` in a run's `metrics.jsonl`."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record[name] for record in records if name in record]


def make_project(root: Path, small: SmallModel, train: int = 6, val: int = 2) -> Project:
    """Write clips, conversations and registries."""
    for split, count in (("train", train), ("val", val)):
        lines = []
        for number in range(count):
            path = f"clips {split}/é {number}.mp4"
            frames = 3 if number == 0 else 12 + 10 * number
            write_clip(root / "dataset" / path, frames, seed=number)
            turns = [
                {"from": "human", "value": "<image>\nWhat is wrong?"},
                {"from": "gpt", "value": ANSWERS[number % len(ANSWERS)]},
            ]
            record = {"id": f"{split}-{number}", "video": path, "conversations": turns, "duration": frames / 10}
            lines.append(json.dumps(record))
        (root / "data" / "annotaions").mkdir(parents=True, exist_ok=True)
        (root / "data" / "annotaions" / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, split in (("diy_ft_data.json", "train"), ("diy_ft_data_val.json", "val")):
        entry = {"root": "dataset", "annotation": f"data/annotaions/{split}.jsonl", "data_augment": False}
        entry |= {"repeat_time": 1, "video_read_type": "decord", "sampling_strategy": "all"}
        (root / "data" / name).write_text(json.dumps({"demo": entry}))
    return Project(root, small)


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Small models are faster with one thread, and several test runs do not get in each other's way."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(name="logged")
def _logged():
    return logged


@pytest.fixture(name="write_clip")
def _write_clip():
    return write_clip


@pytest.fixture(scope="session", params=SMALL)
def small(request, tmp_path_factory) -> SmallModel:
    """What is trained: a small model of each family."""
    return small_model(request.param, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def small_mobile(tmp_path_factory) -> Path:
    """A Mobile-VideoGPT with random weights: frames of 64 pixels, narrow towers, all visual tokens."""
    from resized import resized_05b

    from formcoach.models.mobilevideogpt.random_checkpoint import write_random_checkpoint

    image = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    language = image | {"num_key_value_heads": 1, "vocab_size": 400}
    folder = tmp_path_factory.mktemp("small") / "mobile"
    write_random_checkpoint(folder, resized_05b({"depth": 2, "embed_dim": 32}, image | {"image_size": 64}, language))
    return folder


@pytest.fixture
def steps(small):
    return small.steps


@pytest.fixture
def project(tmp_path: Path, small: SmallModel) -> Project:
    """Six training clips of different lengths, one of them 0.3 s, and two for validation."""
    return make_project(tmp_path, small)
