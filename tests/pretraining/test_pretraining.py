"""The packaged tiny model: what it is, and that the way it was made still works."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from formcoach.config import Recipe
from formcoach.data.demo import plan_clips
from formcoach.data.demo_descriptions import ATTRIBUTES, attributes, describe, described_take
from formcoach.data.demo_picture import draw
from formcoach.models import load_model, recipe_for
from formcoach.pretraining.clips import frame_times

ROOT = Path(__file__).parents[2]


def test_the_tiny_model_is_small_and_answers_plainly():
    folder = ROOT / "formcoach/assets/tiny"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
    model, processor = load_model("tiny", device="cpu")
    assert sum(parameter.numel() for parameter in model.parameters()) < 5e6
    sample = described_take(1, 5_000_000)
    frames = np.stack([draw(sample.take, time) for time in np.linspace(0, sample.take.duration, 12)])
    inputs = processor(frames, sample.question, sample.take.duration)
    answer = processor.decode(model.generate(**inputs, max_new_tokens=60)[0, inputs["input_ids"].shape[1] :])
    assert answer.startswith("A person ")
    assert " - " not in answer


def test_the_tiny_model_sees_what_people_of_the_demo_do_and_how_fast():
    model, processor = load_model("tiny", device="cpu")
    right = 0
    clips = plan_clips(clips=30, people=10, seed=11)
    for clip in clips:
        frames = np.stack([draw(clip.take, time) for time in frame_times(clip.take)])
        inputs = processor(frames, "Describe the motion.", clip.take.duration)
        answer = processor.decode(model.generate(**inputs, max_new_tokens=60)[0, inputs["input_ids"].shape[1] :])
        truth = describe(clip.take.exercise, clip.take.style)
        assert clip.take.exercise.name not in answer
        right += answer.split(",")[0] == truth.split(",")[0]  # "A person bends both legs deeply ... quickly"
    assert right >= 0.6 * len(clips)


def test_the_tiny_model_brings_its_recipe():
    assert recipe_for("tiny") != Recipe()


def test_attributes_say_what_the_description_says():
    for number in range(60):
        sample = described_take(3, number)
        exercise, style = sample.take.exercise, sample.take.style
        values = attributes(exercise, style)
        assert all(0 <= value < count for value, count in zip(values, ATTRIBUTES.values(), strict=True))
        assert describe(exercise, style) == sample.description
        assert ("stands still" in sample.description) == bool(values[-1])
        assert ("slowly", "steadily", "quickly")[values[-2]] in sample.description


@pytest.mark.slow
def test_pretraining_makes_a_loadable_model(tmp_path):
    stages = ("pose", "attribute", "word")
    steps = [*(f"--{stage}-steps=2" for stage in stages), "--steps=2", "--clips=32", "--check-clips=1"]
    command = [sys.executable, ROOT / "utils/pretrain_tiny.py", "--output", tmp_path / "tiny", *steps]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "held-out people: right motion in" in done.stdout
    model, processor = load_model(str(tmp_path / "tiny"), device="cpu")
    assert processor.max_frames == 12
    assert model.config.tokens_per_frame == 16
