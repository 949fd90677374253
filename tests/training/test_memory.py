"""The memory estimate against what PyTorch holds, and what the command says with it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from measured_memory import Trained, load, measure, workload
from resized import resized_8b

from formcoach.models import load_model, sizes_for
from formcoach.models.internvideo.checkpoint import CHECKPOINTS, config_from_original
from formcoach.models.internvideo.modeling import InternVideoForConditionalGeneration
from formcoach.models.internvideo.original import PUBLISHED_8B
from formcoach.models.internvideo.random_checkpoint import write_random_checkpoint
from formcoach.training import activations
from formcoach.training.memory import estimate, largest_micro_batch, trained_weights
from formcoach.training.workload import FROZEN, FULL, LORA, Workload

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURE = REPOSITORY / "tests" / "fixtures" / "internvideo2_5_tiny"
LARGE = "OpenGVLab/InternVideo2_5_Chat_8B"


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", [FIXTURE, "tiny"])
def test_every_parameter_is_counted(name):
    folder = FIXTURE if name == FIXTURE else REPOSITORY / "formcoach" / "assets" / "tiny"
    assert sizes_for(name).parameters == parameters(CHECKPOINTS.open(folder).model)


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


CASES = {
    "short": Trained(),
    "long": Trained(words=600),
    "long, kept": Trained(words=600, recompute=0),
    "long, half kept": Trained(words=600, recompute=0.5),
    "long, float32": Trained(words=600, dtype="float32"),
    "long answer": Trained(answers=300),
    "eager attention": Trained(words=600, attention="eager", feature_cache=True),
    "eager attention, kept": Trained(words=600, attention="eager", feature_cache=True, recompute=0),
    "feature cache": Trained(words=600, feature_cache=True),
    "feature cache, kept": Trained(feature_cache=True, recompute=0),
    "padded": Trained(words=300, clips=3),
    "packed": Trained(words=300, clips=3, packed=True),
    "packed, kept": Trained(words=300, clips=3, packed=True, recompute=0),
    "frozen language model": Trained(words=600, language=FROZEN, feature_cache=True),
    "whole language model": Trained(words=600, language=FULL),
    "whole language model, kept": Trained(words=600, language=FULL, recompute=0),
    "vision tower": Trained(words=600, vision=LORA),
    "vision tower, kept": Trained(vision=LORA, recompute=0),
    "whole vision tower": Trained(words=600, vision=FULL),
    "whole vision tower, kept": Trained(words=600, vision=FULL, recompute=0),
}


@pytest.mark.parametrize("case", CASES)
def test_activations_are_as_estimated(narrow, case, monkeypatch):
    accuracy = 0.15
    if not torch.cpu._is_amx_tile_supported():  # its constants were measured where that is
        monkeypatch.setattr(activations, "CONVOLUTION_BYTES", 0)
        accuracy = 0.2
    trained = CASES[case]
    measured, batch = measure(narrow, trained)
    sizes = sizes_for(narrow)
    assert estimate(sizes, workload(sizes, batch, trained)).activations == pytest.approx(measured, rel=accuracy)


@pytest.mark.parametrize("vision", [FROZEN, LORA, FULL])
@pytest.mark.parametrize("language", [FROZEN, LORA, FULL])
def test_trained_weights_are_counted(narrow, language, vision):
    model, _ = load(narrow, Trained(language=language, vision=vision))
    held = sum(one.numel() for one in model.parameters() if one.requires_grad)
    assert trained_weights(sizes_for(narrow), Workload(language=language, vision=vision)) == held


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
        {"answer_tokens": 300},
        {"micro_batch_size": 4, "answer_spread": 2000},
        {"vision": LORA},
        {"vision": FULL},
        {"recompute": 0.5},
    ):
        assert estimate(sizes, replace(work, **more)).total > least


def test_what_saves_memory_is_estimated_lower():
    sizes, work = sizes_for(LARGE), Workload(vision=FULL, micro_batch_size=8)
    most = estimate(sizes, work)
    for less in (
        {"feature_cache": True, "vision": FROZEN},
        {"pack_length": 2000},
        {"zero": 2, "processes": 2},
        {"zero": 3, "processes": 4},
        {"zero": 2, "offload_optimizer": True},
        {"zero": 3, "offload_optimizer": True, "offload_parameters": True},
    ):
        assert estimate(sizes, replace(work, **less)).total < most.total


def test_what_is_offloaded_lies_in_the_computers_memory():
    sizes, work = sizes_for(LARGE), Workload(vision=FULL, zero=2)
    kept, offloaded = estimate(sizes, work), estimate(sizes, replace(work, offload_optimizer=True))
    assert offloaded.host == kept.adapter + kept.gradients + kept.optimizer > 4e9
    assert kept.total - offloaded.total == pytest.approx(offloaded.host)
    on_cpu = estimate(sizes, replace(work, offload_optimizer=True, cuda=False))
    assert (on_cpu.host, on_cpu.optimizer) == (0, kept.optimizer)


def test_zero3_shares_out_weights_and_zero2_does_not():
    sizes, work = sizes_for(LARGE), Workload(zero=2, processes=4)
    whole, shared = estimate(sizes, work), estimate(sizes, replace(work, zero=3))
    assert whole.weights == 2 * sizes.parameters
    assert shared.weights == whole.weights / 4 + 2e9  # and what is put together for a moment
    assert whole.optimizer == shared.optimizer == estimate(sizes, replace(work, processes=1)).optimizer / 4


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
