"""Mobile-VideoGPT's memory estimate against what PyTorch holds, and whether its recipe fits a laptop's GPU."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from measured_memory import Trained, load, measure, workload
from resized import resized_05b

from formcoach.models import recipe_for, sizes_for
from formcoach.models.mobilevideogpt.random_checkpoint import write_random_checkpoint
from formcoach.training import activations
from formcoach.training.advice import settings_that_fit
from formcoach.training.memory import estimate, trained_weights
from formcoach.training.workload import FROZEN, FULL, LORA, Workload

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = "Amshaker/Mobile-VideoGPT-0.5B"
LAPTOP = 8e9  # bytes of a laptop's GPU
FRAMES = 16


def write(folder, language):
    """Write a model with towers of a third of the 0.5B's widths, and two or three layers of each kind."""
    image = {"hidden_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 768}
    language = language | {"num_attention_heads": 4, "num_key_value_heads": 2}
    write_random_checkpoint(folder, resized_05b({"depth": 2, "embed_dim": 144}, image, language))
    return folder


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """The 0.5B's proportions."""
    language = {"hidden_size": 256, "num_hidden_layers": 3, "intermediate_size": 1280, "vocab_size": 32_768}
    return write(tmp_path_factory.mktemp("narrow") / "checkpoint", language)


@pytest.fixture(scope="module")
def all_eyes(tmp_path_factory):
    """A model whose towers hold more while they see than its language model ever does."""
    language = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64, "vocab_size": 400}
    return write(tmp_path_factory.mktemp("eyes") / "checkpoint", language)


def trained(**values):
    return Trained(frames=FRAMES, **values)


CASES = {
    "one clip, kept": trained(recompute=0),
    "four clips": trained(clips=4),
    "one clip, float32": trained(dtype="float32"),
    "feature cache": trained(feature_cache=True),
    "feature cache, kept": trained(feature_cache=True, recompute=0),
    "feature cache, four clips, long answers": trained(feature_cache=True, clips=4, answers=20),
    "feature cache, four clips, float32, kept": trained(feature_cache=True, clips=4, dtype="float32", recompute=0),
    "feature cache, frozen connector": trained(feature_cache=True, connector=False),
    "feature cache, packed": trained(feature_cache=True, clips=3, packed=True),
}


def check(folder, training, monkeypatch):
    if not torch.cpu._is_amx_tile_supported():
        monkeypatch.setattr(activations, "CONVOLUTION_BYTES", 0)
    measured, batch = measure(folder, training)
    sizes = sizes_for(folder)
    estimated = estimate(sizes, workload(sizes, batch, training)).activations
    assert estimated == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize("case", CASES)
def test_activations_are_as_estimated(narrow, case, monkeypatch):
    check(narrow, CASES[case], monkeypatch)


@pytest.mark.parametrize("training", [trained(clips=4), trained(dtype="float32")])
def test_what_the_towers_hold_while_they_see_is_as_estimated(all_eyes, training, monkeypatch):
    check(all_eyes, training, monkeypatch)


@pytest.mark.parametrize("training", [trained(vision=LORA, clips=2), trained(vision=FULL)])
def test_towers_that_are_trained_are_as_estimated(small_mobile, training, monkeypatch):
    check(small_mobile, training, monkeypatch)


@pytest.mark.parametrize("vision", [FROZEN, LORA, FULL])
@pytest.mark.parametrize("language", [FROZEN, LORA])
def test_trained_weights_are_counted(small_mobile, language, vision):
    model, _ = load(small_mobile, Trained(language=language, vision=vision))
    held = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert trained_weights(sizes_for(small_mobile), Workload(language=language, vision=vision)) == held


def recipe_work(**values):
    recipe = recipe_for(SMALL)
    assert (recipe.lora_rank, recipe.micro_batch_size, recipe.global_batch_size, recipe.max_length) == (64, 4, 16, 2048)
    frames = recipe.max_frames
    return Workload(
        frames=frames,
        min_frames=frames,
        micro_batch_size=recipe.micro_batch_size,
        lora_rank=recipe.lora_rank,
        **values,
    )


def test_the_recipe_fits_a_laptops_gpu():
    sizes = sizes_for(SMALL)
    for text, answer in ((300, 100), (2048, 200)):  # a usual sample, and the longest with a long answer
        work = recipe_work(text_tokens=text, answer_tokens=answer)
        assert settings_that_fit(sizes, work, LAPTOP) == []
        assert estimate(sizes, replace(work, feature_cache=True)).total <= estimate(sizes, work).total < LAPTOP
    # Where all of the longest sample is answer, its logits alone take more than there is.
    work = recipe_work(text_tokens=2048, answer_tokens=2000)
    assert estimate(sizes, work).logits > LAPTOP
    assert settings_that_fit(sizes, work, LAPTOP) == ["--mirco-batch-size", "1"]


def test_the_command_takes_the_recipe_and_needs_no_network():
    command = [sys.executable, REPOSITORY / "utils" / "estimate_memory.py", "--model", SMALL]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert "0.79 billion parameters, 38.0 million trained: LoRA rank 64 of the language model" in done.stdout
    assert "4 clips of 16 frames in a forward pass, 10808 tokens, 400 of them in answers" in done.stdout
    peak = float(re.search(r"^bf16 .* ([\d.]+)$", done.stdout, re.MULTILINE)[1])
    assert 3 < peak < LAPTOP / 1e9
    (fits,) = re.findall(r"^bf16 +(\d+) +\d+ ", done.stdout, re.MULTILINE)
    assert int(fits) >= 4


def test_other_frames_are_refused():
    command = [sys.executable, REPOSITORY / "utils" / "estimate_memory.py", "--model", SMALL, "--max_num_frames", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --max_num_frames 8: Mobile-VideoGPT looks at 16 frames of each clip, ")
