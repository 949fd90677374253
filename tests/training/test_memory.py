"""The memory estimate against what PyTorch holds, and what the command says with it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from resized import resized_8b
from torch.profiler import ProfilerActivity, profile

from formcoach.models import family_of, load_model, sizes_for
from formcoach.models.adapters import add_lora
from formcoach.models.internvideo.checkpoint import config_from_original, open_checkpoint
from formcoach.models.internvideo.modeling import InternVideoForConditionalGeneration
from formcoach.models.internvideo.original import PUBLISHED_8B
from formcoach.models.internvideo.random_checkpoint import write_random_checkpoint
from formcoach.training.memory import FRAME_WORDS, Workload, estimate, largest_micro_batch

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURE = REPOSITORY / "tests" / "fixtures" / "internvideo2_5_tiny"
LARGE = "OpenGVLab/InternVideo2_5_Chat_8B"


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", [FIXTURE, "tiny"])
def test_every_parameter_is_counted(name):
    folder = FIXTURE if name == FIXTURE else REPOSITORY / "formcoach" / "assets" / "tiny"
    assert sizes_for(name).parameters == parameters(open_checkpoint(folder).model)


def test_the_published_model_is_known_without_a_download():
    with torch.device("meta"):
        model = InternVideoForConditionalGeneration(config_from_original(Path("config.json"), PUBLISHED_8B, 92_546))
    assert sizes_for(LARGE).parameters == parameters(model) == 8_075_365_376


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """The 8B's proportions at an eighth of its width, two layers of either kind, frames of 224 pixels."""
    vision = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    language = {"hidden_size": 512, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2}
    language |= {"intermediate_size": 1792, "vocab_size": 32_768}
    folder = tmp_path_factory.mktemp("narrow") / "checkpoint"
    write_random_checkpoint(folder, resized_8b(vision | {"image_size": 224}, language))
    return folder


def allocated(step):
    """Return the most bytes that a step holds beyond what was held before it, as PyTorch's allocator counts them."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return held.max()


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("words", [20, 600])
@pytest.mark.parametrize("lora_vit", [False, True])
def test_activations_are_as_estimated(narrow, checkpointing, words, lora_vit):
    base, processor = load_model(narrow, dtype="bfloat16", device="cpu")
    model = add_lora(base, family_of(narrow), str(narrow), rank=16, alpha=32, train_vit=lora_vit).train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    sample = processor(np.zeros((8, 224, 224, 3), np.uint8), "Well?" + " squat" * words, 4.8, answer="squats - fine")

    def step():
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**sample, use_cache=False).loss
        loss.backward()

    sizes = sizes_for(narrow)
    text = sample["input_ids"].shape[1] - 8 * (sizes.frame_tokens + FRAME_WORDS)
    work = Workload(frames=8, text_tokens=text, checkpointing=checkpointing, lora_vit=lora_vit, cuda=False)
    measured = allocated(step) + sample["pixel_values"].nbytes
    assert estimate(sizes, work).activations == pytest.approx(measured, rel=0.15)


def test_quantised_weights_are_as_estimated(narrow):
    pytest.importorskip("bitsandbytes")
    model, _ = load_model(narrow, dtype="bfloat16", quantization="nf4", device="cpu")
    held = 0
    for parameter in model.parameters():
        held += parameter.nbytes
        if state := vars(parameter).get("quant_state"):
            held += state.absmax.nbytes + state.state2.absmax.nbytes
    assert estimate(sizes_for(narrow), Workload(quantization="nf4")).weights == pytest.approx(held, rel=0.001)


def test_what_costs_more_is_estimated_higher():
    sizes, work = sizes_for(LARGE), Workload(quantization="nf4")
    least = estimate(sizes, work).total
    for more in (
        {"quantization": "int8"},
        {"quantization": None},
        {"frames": 32},
        {"micro_batch_size": 4},
        {"text_tokens": 2000},
        {"lora_rank": 64},
        {"lora_vit": True},
        {"checkpointing": False},
    ):
        assert estimate(sizes, replace(work, **more)).total > least


def test_the_largest_micro_batch_fits_and_one_more_does_not():
    sizes, work = sizes_for(LARGE), Workload(quantization="nf4")
    most = largest_micro_batch(sizes, work, 24e9)
    assert estimate(sizes, replace(work, micro_batch_size=most)).total <= 24e9
    assert estimate(sizes, replace(work, micro_batch_size=most + 1)).total > 24e9
    assert largest_micro_batch(sizes, Workload(), 12e9) == 0


def test_the_command_needs_neither_torch_nor_a_network():
    code = (
        f"import sys; sys.path[:0] = [{str(REPOSITORY)!r}, {str(REPOSITORY / 'utils')!r}]; import estimate_memory;"
        "estimate_memory.main([]); assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "8.08 billion parameters" in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("nf4  ") and "." in line]
    assert 6 < float(row.split()[-1]) < 12
    assert len([line for line in done.stdout.splitlines() if line.startswith(("nf4", "int8", "bf16"))]) == 12
