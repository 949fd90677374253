"""Number formats, devices and attention: what is chosen, and what is refused."""

import pytest
import torch
import transformers.utils
from original_checkpoints import FIXTURE

from formcoach.errors import UserError
from formcoach.models import Precision, load_model


@pytest.fixture
def gpu_with_flash_attention(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(transformers.utils, "is_flash_attn_2_available", lambda: True)


@pytest.mark.parametrize(
    ("dtype", "stored", "device", "chosen"),
    [
        ("bfloat16", "float32", "auto", "flash_attention_2"),
        ("auto", "float16", "cuda:0", "flash_attention_2"),
        ("auto", "float32", "auto", "sdpa"),
        ("float32", "bfloat16", "auto", "sdpa"),
        ("bfloat16", "bfloat16", "cpu", "sdpa"),
    ],
)
def test_flash_attention_is_taken_where_it_works(gpu_with_flash_attention, dtype, stored, device, chosen):
    arguments = Precision(dtype, device=device).loading_arguments((), stored)
    assert arguments["attn_implementation"] == chosen


def test_flash_attention_that_is_not_there_is_never_fetched():
    with pytest.raises(UserError, match="pip install flash-attn"):
        load_model(FIXTURE, dtype="bfloat16", device="cpu", attention="flash_attention_2")


def test_apple_gpus_come_after_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert Precision().torch_device() == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Precision().torch_device() == "cuda:0"


@pytest.mark.parametrize("attention", ["auto", "sdpa", "eager"])
def test_attentions_agree(fixture_model, full_inputs, attention):
    model, _ = load_model(FIXTURE, dtype="float32", device="cpu", attention=attention)
    with torch.no_grad():
        logits = model(**full_inputs).logits
        torch.testing.assert_close(logits, fixture_model[0](**full_inputs).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantization": "fp5"}, "quantization 'fp5' is unknown; choose one of nf4, int8"),
        ({"dtype": "double"}, "dtype 'double' is unknown"),
        ({"attention": "none"}, "attention 'none' is unknown; choose one of auto, sdpa"),
        ({"device": "gpu"}, "device 'gpu' is unknown; use auto, cpu, cuda"),
        ({"device": "cuda:7"}, "device cuda:7: torch sees"),
    ],
)
def test_what_is_not_known_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        load_model(FIXTURE, **arguments)
