"""Real clips, and a small model of each family with random weights and a random adapter."""

from pathlib import Path

import av
import numpy as np
import pytest
from small_models import SMALL, SmallModel, small_model

from formcoach.data.annotations import Conversation, Turn


def write_clip(path: Path, seed: int = 0, frames: int = 24, fps: int = 12, size: tuple[int, int] = (64, 48)) -> None:
    """Write an H.264 clip of a bright square that moves over a dark ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ground = np.random.default_rng(seed).integers(0, 128, 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            picture = np.empty((size[1], size[0], 3), np.uint8)
            picture[:] = ground
            left = (number * (seed + 1)) % (size[0] - 12)
            picture[10:22, left : left + 12] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def conversation(number: int, question: str = "What is wrong?") -> Conversation:
    turns = [Turn("human", f"<image>\n{question}"), Turn("gpt", f"squats - fault {number % 3}")]
    return Conversation(f"clip {number}", f"squats/clip {number}.mp4", turns, 2.0, [f"squats - fault {number % 3}"])


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """A folder with six clips of different lengths, and the records about them."""
    root = tmp_path_factory.mktemp("dataset")
    records = [conversation(number, "What is wrong" + " here" * number + "?") for number in range(6)]
    for number, record in enumerate(records):
        write_clip(root / record.video, seed=number, frames=5 + 12 * number)
    return root, records


@pytest.fixture(scope="session", params=SMALL)
def small(request, tmp_path_factory) -> SmallModel:
    """What answers: a small model of each family."""
    return small_model(request.param, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def base_model(small):
    """The folder of the base model."""
    return small.folder


@pytest.fixture(scope="session")
def adapter(small, tmp_path_factory):
    """A checkpoint folder: an adapter that changes the small model's answers."""
    import torch

    from formcoach.models import load_model
    from formcoach.models.adapters import add_lora, save_adapter

    torch.manual_seed(0)
    model, processor = load_model(small.folder, device="cpu")
    tuned = add_lora(model, small.family, str(small.folder), rank=4, alpha=8)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("runs") / "run" / small.checkpoint(3)
    save_adapter(tuned, processor, folder)
    (folder.parent / "training_config.json").write_text("{}")
    return folder


@pytest.fixture(scope="session")
def predictor(adapter):
    from formcoach.inference.predict import Predictor
    from formcoach.models import load_model

    model, processor = load_model(adapter, device="cpu")
    return Predictor(model, processor, max_new_tokens=12)
