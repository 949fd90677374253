"""Online augmentation: fresh in every epoch, the same wherever and whenever an item is made."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_models import write_small_mobilevideogpt
from torch.utils.data import DataLoader

from formcoach.data.augment import DEFAULT
from formcoach.data.augment_picture import PictureChange
from formcoach.data.collate import NO_LOSS, TrainingCollator
from formcoach.data.dataset import ClipDataset, Pick, ResizedClip, Sample, View, read_resized
from formcoach.models import load_model

MODEL = Path(__file__).resolve().parents[1] / "fixtures" / "internvideo2_5_tiny"
SEED = 7


@pytest.fixture(scope="module")
def processor():
    _, processor = load_model(MODEL)
    processor.min_frames, processor.max_frames = 4, 8
    return processor


@pytest.fixture(scope="module")
def samples(tmp_path_factory, write_clip) -> list[Sample]:
    folder = tmp_path_factory.mktemp("clips")
    clips = [write_clip(folder / f"{number}.mp4", frames=40 + number) for number in range(4)]
    return [
        Sample(f"s{number}", clip, "How is the left arm?", "press (right arm) - good form", "pyav", DEFAULT)
        for number, clip in enumerate(clips)
    ]


def items(dataset: ClipDataset, workers: int = 0, epochs: int = 1) -> list[list[dict]]:
    picks = [[Pick(index, epoch)] for epoch in range(epochs) for index in range(len(dataset))]
    loader = DataLoader(dataset, batch_sampler=picks, num_workers=workers, collate_fn=TrainingCollator(0))
    found = list(loader)
    return [found[epoch * len(dataset) : (epoch + 1) * len(dataset)] for epoch in range(epochs)]


def same(one: dict, other: dict) -> bool:
    return torch.equal(one["pixel_values"], other["pixel_values"]) and torch.equal(one["input_ids"], other["input_ids"])


def test_workers_give_the_same_items_and_epochs_other_ones(samples, processor):
    alone = items(ClipDataset(samples, processor, {}, SEED), workers=0, epochs=3)
    helped = items(ClipDataset(samples, processor, {}, SEED), workers=2, epochs=3)
    for epoch, again in zip(alone, helped, strict=True):
        assert all(map(same, epoch, again))
    assert not any(map(same, alone[0], alone[1]))
    assert not any(map(same, alone[1], alone[2]))


def test_an_epoch_can_be_entered_anywhere(samples, processor):
    dataset = ClipDataset(samples, processor, {}, SEED)
    whole = items(dataset, epochs=3)
    late = ClipDataset(samples, processor, {}, SEED)[Pick(3, epoch=2)]
    assert torch.equal(late["pixel_values"], whole[2][3]["pixel_values"])
    other = ClipDataset(samples, processor, {}, SEED + 1)[Pick(3, epoch=2)]
    assert not torch.equal(other["pixel_values"], late["pixel_values"])


def test_clips_in_memory_give_the_same_items(samples, processor):
    kept = {sample.clip: read_resized(sample, processor) for sample in samples}
    before = {clip: resized.frames.copy() for clip, resized in kept.items()}
    with_memory, without = ClipDataset(samples, processor, kept, SEED), ClipDataset(samples, processor, {}, SEED)
    for epoch in range(4):
        for index in range(len(samples)):
            one, other = with_memory[Pick(index, epoch)], without[Pick(index, epoch)]
            assert torch.equal(one["pixel_values"], other["pixel_values"])
            assert torch.equal(one["input_ids"], other["input_ids"])
    assert all(np.array_equal(kept[clip].frames, frames) for clip, frames in before.items())


def test_a_mirrored_sample_has_mirrored_pixels_and_texts(samples, processor):
    sample = replace(samples[0], augmentations=("horizontal_flip",))
    plain = ClipDataset([sample], processor, {})[0]
    dataset = ClipDataset([sample], processor, {}, SEED)
    seen = set()
    for epoch in range(12):
        item = dataset[Pick(0, epoch)]
        text = processor.tokenizer.decode(item["input_ids"])
        answer = processor.tokenizer.decode(item["labels"][item["labels"] != NO_LOSS])
        flipped = "right arm?" in text
        seen.add(flipped)
        assert answer == f"press ({'left' if flipped else 'right'} arm) - good form<|im_end|>"
        expected = plain["pixel_values"].flip(3) if flipped else plain["pixel_values"]
        assert torch.equal(item["pixel_values"], expected)
    assert seen == {True, False}


def test_a_changed_tempo_changes_frames_and_duration_together(samples, processor, frame_numbers):
    sample = samples[0]  # 40 frames at 15 a second
    fast = read_resized(sample, processor, {"tempo": 1.25})
    assert fast.duration == pytest.approx(32 / 15)
    plain = read_resized(sample, processor)
    assert plain.duration == pytest.approx(40 / 15)
    assert frame_numbers(plain.frames) == [4, 14, 24, 34]
    cut = read_resized(sample, processor, {"cut_start": 0.5})
    assert cut.duration == pytest.approx(20 / 15)
    assert frame_numbers(cut.frames)[0] >= 20


def test_what_an_epoch_repeats_is_changed_in_another_way(samples, processor):
    dataset = ClipDataset([samples[0], samples[0]], processor, {}, SEED)
    assert not torch.equal(dataset[0]["pixel_values"], dataset[1]["pixel_values"])


@pytest.mark.parametrize("size", [(160, 120), (96, 128)], ids=["landscape", "portrait"])
def test_each_view_of_a_frame_is_changed_as_the_whole_frame_is(tmp_path, size):
    """Mobile-VideoGPT sees a frame squeezed, and its middle cut out."""
    _, two_views = load_model(write_small_mobilevideogpt(tmp_path / "model"), device="cpu")
    width, height = size
    noise = np.random.default_rng(1).integers(0, 255, (6, 8, 3), np.uint8)
    frames = np.repeat(cv2.resize(noise, size, interpolation=cv2.INTER_CUBIC)[None], 16, axis=0)
    changes = {"rotation": 12.0, "translation_x": 0.1, "translation_y": -0.08, "scale": 1.2, "blur": 10.0}
    whole = PictureChange(changes, width, height).all(frames, np.random.default_rng(0))
    expected = two_views.visual_inputs(whole)["pixel_values"]
    clip = ResizedClip(two_views.resize(frames), 16, 1.0, width / height)
    sample = Sample("s", tmp_path / "clip.mp4", "?", "squats - good", "pyav")
    dataset = ClipDataset([sample], two_views, {sample.clip: clip})
    found = dataset.read(sample, View(changes, (1,))).tensors["pixel_values"]
    unchanged = dataset.read(sample, View({})).tensors["pixel_values"]
    middle = (..., slice(8, 24), slice(8, 24))  # what comes in over the border is a reflection of what is in sight
    for view in (slice(0, 16), slice(16, 32)):
        off = (found[view][middle] - expected[view][middle]).abs().mean()
        assert off < 0.15 * (unchanged[view][middle] - expected[view][middle]).abs().mean()


def test_variants_come_again(samples, processor):
    dataset = ClipDataset(samples, processor, {}, SEED, variants=2)
    first, second, third = (dataset[Pick(0, epoch)] for epoch in range(3))
    assert same(first, third)
    assert not same(first, second)


def test_validation_is_never_changed(samples, processor):
    plain = [replace(sample, augmentations=()) for sample in samples]
    for one, other in zip(ClipDataset(samples, processor, {}), ClipDataset(plain, processor, {}, SEED), strict=True):
        assert torch.equal(one["pixel_values"], other["pixel_values"])
