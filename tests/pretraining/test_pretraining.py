"""The packaged tiny models: what they are, and that the way they were made still works."""

import subprocess
import sys
from pathlib import Path

import pytest

from formcoach.data.demo import FPS, plan_clips
from formcoach.data.demo_descriptions import ATTRIBUTES, attributes, describe, described_take
from formcoach.data.demo_picture import Take, draw
from formcoach.models import FAMILIES, load_model, recipe_for

ROOT = Path(__file__).parents[2]

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.key)


def answer(model, processor, take: Take, question: str) -> str:
    """Ask about a clip as it would be read from a file."""
    import numpy as np

    places = processor.select_frames(round(take.duration * FPS), FPS)
    frames = np.stack([draw(take, place / FPS) for place in places])
    inputs = processor(frames, question, take.duration)
    return processor.decode(model.generate(**inputs, max_new_tokens=60)[0, inputs["input_ids"].shape[1] :])


@families
def test_the_tiny_model_is_small_and_answers_plainly(family):
    folder = ROOT / "formcoach/assets" / family.tiny
    assert sum(path.stat().st_size for path in folder.iterdir()) < 8e6
    model, processor = load_model(family.tiny, device="cpu")
    assert sum(parameter.numel() for parameter in model.parameters()) < 5e6
    sample = described_take(1, 5_000_000)
    said = answer(model, processor, sample.take, sample.question)
    assert said.startswith("A person ")
    assert " - " not in said


@families
def test_the_tiny_model_sees_what_people_of_the_demo_do_and_how_fast(family):
    model, processor = load_model(family.tiny, device="cpu")
    right = 0
    clips = plan_clips(clips=30, people=10, seed=11)
    for clip in clips:
        said = answer(model, processor, clip.take, "Describe the motion.")
        truth = describe(clip.take.exercise, clip.take.style)
        assert clip.take.exercise.name not in said
        right += said.split(",")[0] == truth.split(",")[0]  # "A person bends both legs deeply ... quickly"
    assert right >= 0.6 * len(clips)


@families
def test_the_tiny_model_brings_its_recipe(family):
    assert recipe_for(family.tiny) != family.recipe
    assert recipe_for(family.tiny).max_frames % family.frame_group == 0


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
@families
def test_pretraining_makes_a_loadable_model(family, tmp_path):
    stages = ("pose", "motion", "attribute", "word")
    steps = [*(f"--{stage}-steps=2" for stage in stages), "--steps=2", "--clips=32", "--check-clips=1"]
    wanted = ["--family", family.key, "--output", tmp_path / "tiny"]
    command = [sys.executable, ROOT / "utils/pretrain_tiny.py", *wanted, *steps]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "held-out people: right motion in" in done.stdout
    _, made = load_model(str(tmp_path / "tiny"), device="cpu")
    _, packaged = load_model(family.tiny, device="cpu")
    assert made.settings == packaged.settings
    assert made.tokenizer.get_vocab() == packaged.tokenizer.get_vocab()
