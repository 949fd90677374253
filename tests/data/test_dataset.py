"""Conversations and clips as training items."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from formcoach.data.collate import NO_LOSS, TrainingCollator
from formcoach.data.dataset import ClipDataset, Sample, read_resized, read_samples
from formcoach.errors import UserError
from formcoach.models import load_model

MODEL = Path(__file__).resolve().parents[1] / "fixtures" / "internvideo2_5_tiny"
ANSWER = "squats - not low enough"


@pytest.fixture(scope="module")
def processor():
    _, processor = load_model(MODEL)
    processor.min_frames, processor.max_frames = 4, 8
    return processor


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    path = tmp_path / "séance 1" / "clip.mp4"
    path.parent.mkdir()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(30):
            picture = np.full((64, 96, 3), 8 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return Sample("one", path, "What is wrong?", ANSWER, "pyav")


def test_item_is_what_the_processor_makes_of_the_clip(sample: Sample, processor) -> None:
    item = ClipDataset([sample], processor, {})[0]
    size = processor.settings.image_size
    assert item["pixel_values"].shape == (4, 3, size, size)
    assert item["id"] == "one"
    learned = item["labels"][item["labels"] != NO_LOSS]
    assert processor.tokenizer.decode(learned) == ANSWER + "<|im_end|>"
    assert "The video lasts for 3.00 seconds, and 4 frames" in processor.tokenizer.decode(item["input_ids"])


def test_sample_lengths_are_those_of_the_item(sample: Sample, processor) -> None:
    item = ClipDataset([sample], processor, {})[0]
    visual = (item["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")).sum().item()
    answer = (item["labels"] != NO_LOSS).sum().item()
    text = len(item["input_ids"]) - visual - answer
    assert processor.sample_lengths(sample.question, 4, 3.0, ANSWER) == (text, visual, answer)


def test_clip_in_memory_gives_the_same_item(sample: Sample, processor) -> None:
    fresh = ClipDataset([sample], processor, {})[0]
    kept = {sample.clip: read_resized(sample, processor)}
    sample.clip.unlink()
    again = ClipDataset([sample], processor, kept)[0]
    assert torch.equal(fresh["pixel_values"], again["pixel_values"])
    assert torch.equal(fresh["input_ids"], again["input_ids"])


def test_clip_that_vanished_is_named_and_not_replaced(sample: Sample, processor) -> None:
    sample.clip.unlink()
    loader = DataLoader(
        ClipDataset([sample], processor, {}),
        collate_fn=TrainingCollator(0),
        num_workers=1,
        multiprocessing_context="fork",
    )
    with pytest.raises(UserError) as raised:
        list(loader)
    last_line = str(raised.value).splitlines()[-1]
    assert "sample one" in last_line
    assert "clip.mp4: no such file" in last_line


def test_samples_of_several_datasets_keep_root_and_reader(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWell?"}, {"from": "gpt", "value": "fine"}]
    registry = {}
    for name, reader in (("one", "opencv"), ("two", "pyav")):
        record = {"id": f"{name}-1", "video": "a/b.mp4", "conversations": turns, "duration": 2.0}
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
        registry[name] = {"root": name, "annotation": f"data/{name}.jsonl", "video_read_type": reader}
    registry["two"]["repeat_time"] = 2
    (tmp_path / "data" / "diy.json").write_text(json.dumps(registry))
    samples = read_samples(tmp_path / "data" / "diy.json", seed=1)
    assert [(one.id, one.reader) for one in samples] == [("one-1", "opencv"), ("two-1", "pyav"), ("two-1", "pyav")]
    assert samples[1].clip == tmp_path / "two" / "a" / "b.mp4"
    assert (samples[0].question, samples[0].answer) == ("Well?", "fine")
