"""Adapters: what they train, that they come back, and that they stay with their base."""

import json

import pytest
import torch
from original_checkpoints import FIXTURE
from peft import PeftModel
from safetensors.torch import load_file

from formcoach.errors import UserError
from formcoach.files import read_json, write_json
from formcoach.models import load_model
from formcoach.models.adapters import add_lora, load_adapter, save_adapter
from formcoach.models.internvideo import INTERNVIDEO

PARTS = (INTERNVIDEO.language, INTERNVIDEO.connector, INTERNVIDEO.vision)
FORMATS = [("float32", None), ("bfloat16", None), ("bfloat16", "nf4"), ("bfloat16", "int8")]


def adapted(dtype="float32", quantization=None, **options):
    model, processor = load_model(FIXTURE, dtype=dtype, quantization=quantization, device="cpu")
    torch.manual_seed(0)
    return add_lora(model, INTERNVIDEO, str(FIXTURE), rank=4, alpha=8, **options), processor


def train(model, inputs, labels, steps=3):
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=5e-3)
    losses = []
    for _ in range(steps):
        loss = model.train()(**inputs, labels=labels, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    model.eval()
    return losses


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize(("dtype", "quantization"), FORMATS)
def test_a_trained_adapter_comes_back(tmp_path, full_inputs, recorded, dtype, quantization):
    if quantization:
        pytest.importorskip("bitsandbytes")
    model, processor = adapted(dtype, quantization)
    losses = train(model, full_inputs, recorded["labels"])
    assert losses[-1] < losses[0]
    save_adapter(model, processor, tmp_path)
    again, its_processor = load_model(tmp_path, dtype=dtype, quantization=quantization, device="cpu")
    tolerance = 0 if quantization is None else 0.06  # evaluation uses another NF4 kernel than training
    torch.testing.assert_close(logits(again, full_inputs), logits(model, full_inputs), atol=tolerance, rtol=0)
    assert its_processor.settings == processor.settings
    assert not any(value.requires_grad for value in again.parameters())


@pytest.mark.parametrize(("dtype", "quantization"), FORMATS)
def test_without_adapter_it_is_the_base_again(tmp_path, full_inputs, recorded, dtype, quantization):
    if quantization:
        pytest.importorskip("bitsandbytes")
    model, processor = adapted(dtype, quantization, train_vit=True)
    train(model, full_inputs, recorded["labels"])
    save_adapter(model, processor, tmp_path)
    base, _ = load_model(FIXTURE, dtype=dtype, quantization=quantization, device="cpu")
    again, _ = load_model(tmp_path, dtype=dtype, quantization=quantization, device="cpu")
    with again.disable_adapter():
        assert logits(again, full_inputs).equal(logits(base, full_inputs))
    assert not logits(again, full_inputs).equal(logits(base, full_inputs))


def test_plain_peft_reads_it(tmp_path, full_inputs, recorded):
    model, processor = adapted()
    train(model, full_inputs, recorded["labels"])
    save_adapter(model, processor, tmp_path)
    base, _ = load_model(FIXTURE, dtype="float32", device="cpu")
    plain = PeftModel.from_pretrained(base, tmp_path).eval()
    assert logits(plain, full_inputs).equal(logits(model, full_inputs))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(FIXTURE)


def test_training_can_go_on(tmp_path, full_inputs, recorded):
    model, processor = adapted()
    train(model, full_inputs, recorded["labels"])
    save_adapter(model, processor, tmp_path)
    base, _ = load_model(FIXTURE, dtype="float32", device="cpu")
    again = load_adapter(base, tmp_path, trainable=True)
    names = {name for name, value in again.named_parameters() if value.requires_grad}
    assert names == {name for name, value in model.named_parameters() if value.requires_grad}
    assert train(again, full_inputs, recorded["labels"], 1)[0] < recorded["loss"][0]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, {"language_model", "multi_modal_projector"}),
        ({"train_connector": False}, {"language_model"}),
        ({"train_language": False}, {"multi_modal_projector"}),
        ({"train_vit": True}, {"language_model", "multi_modal_projector", "vision_tower"}),
        ({"targets": r".*language_model.*q_proj"}, {"language_model", "multi_modal_projector"}),
    ],
)
def test_what_is_trained(tmp_path, options, parts):
    model, processor = adapted("bfloat16", **options)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert {part for part in PARTS for name in trained if part in name} == parts
    assert {value.dtype for value in trained.values()} == {torch.float32}
    save_adapter(model, processor, tmp_path)
    assert len(load_file(tmp_path / "adapter_model.safetensors")) == len(trained)


@pytest.mark.parametrize("train_vit", [False, True])
@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_a_frozen_vision_tower_gets_no_backward_pass(recorded, train_vit, quantization):
    model, _ = adapted(dtype="bfloat16", quantization=quantization, train_vit=train_vit)
    model.train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert model.base_model.model.model.merge_frames(recorded["pixel_values"]).requires_grad == train_vit


def test_a_new_adapter_changes_nothing(full_inputs, fixture_model):
    model, _ = adapted(train_vit=True)
    assert logits(model.eval(), full_inputs).equal(logits(fixture_model[0], full_inputs))


def test_nothing_to_train_is_refused():
    with pytest.raises(UserError, match="all frozen"):
        adapted(train_language=False, train_connector=False)
    with pytest.raises(UserError, match="no linear layer 'no_such_layer'"):
        adapted(targets="no_such_layer")


@pytest.mark.parametrize("evaluated", ["before the adapter", "after the adapter"])
def test_nf4_layers_pass_gradients_after_an_evaluation(full_inputs, recorded, evaluated):
    pytest.importorskip("bitsandbytes")

    def gradients(when):
        model, _ = load_model(FIXTURE, dtype="bfloat16", quantization="nf4", device="cpu")
        if when == "before the adapter":
            logits(model, full_inputs)
        torch.manual_seed(0)
        model = add_lora(model, INTERNVIDEO, str(FIXTURE), rank=4, alpha=8)
        if when == "after the adapter":
            logits(model.eval(), full_inputs)
        model.train()(**full_inputs, labels=recorded["labels"]).loss.backward()
        return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}

    expected, found = gradients(None), gradients(evaluated)
    first = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_B.default.weight"
    assert expected[first].norm() > 0
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= 0.05 * gradient.norm(), name


def test_an_adapter_of_another_base_is_refused(tmp_path, original):
    model, processor = adapted()
    save_adapter(model, processor, tmp_path / "adapter")
    with pytest.raises(UserError, match=r"was trained on .*; it cannot be used with") as caught:
        load_model(original, adapter=tmp_path / "adapter")
    assert str(FIXTURE) in str(caught.value) and str(original) in str(caught.value)
    load_model(FIXTURE, adapter=tmp_path / "adapter", device="cpu")


def test_a_damaged_adapter_is_named(tmp_path):
    model, processor = adapted()
    save_adapter(model, processor, tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(UserError, match="the adapter cannot be loaded") as caught:
        load_model(tmp_path, device="cpu")
    assert "\n" not in str(caught.value)


def test_an_adapter_whose_processor_is_of_another_model_is_refused(tmp_path):
    model, processor = adapted()
    save_adapter(model, processor, tmp_path)
    settings = read_json(tmp_path / "processor_config.json", "")
    write_json(tmp_path / "processor_config.json", settings | {"tokens_per_frame": 64})
    with pytest.raises(UserError, match=r"processor_config.json: tokens_per_frame is 64, but its base has 16"):
        load_model(tmp_path, device="cpu")
