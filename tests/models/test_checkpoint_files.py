"""Damaged and hostile weight files of either family: refused by name before anything large is read."""

import json

import pytest
import torch
from mobile_checkpoints import write_mobile
from original_checkpoints import write_original
from safetensors.torch import load_file, save_file

from formcoach.errors import UserError
from formcoach.models import load_model

# Of each family's small checkpoint: a matrix of its connector, and its shape.
FAMILIES = {
    "InternVideo2.5": (write_original, "mlp1.1.weight", (64, 128)),
    "Mobile-VideoGPT": (write_mobile, "model.mm_projector.mlp.mlp.0.weight", (32, 48)),
}


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def damaged(request, tmp_path):
    """A checkpoint to be damaged, the name of one of its tensors and that tensor's shape."""
    write, name, shape = request.param
    return write(tmp_path / "original"), name, shape


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def refusal(folder):
    with pytest.raises(UserError) as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_tensor_is_named(damaged):
    folder, name, _ = damaged
    edit_tensors(folder, lambda tensors: tensors.pop(name))
    assert f"tensor {name} is missing." in refusal(folder)


def test_a_surplus_tensor_is_named(damaged):
    folder, _, _ = damaged
    edit_tensors(folder, lambda tensors: tensors.update({"sampler.weight": torch.zeros(2)}))
    assert "tensor sampler.weight belongs to no part" in refusal(folder)


def test_a_misshapen_tensor_is_named(damaged):
    folder, name, (rows, columns) = damaged
    edit_tensors(folder, lambda tensors: tensors.update({name: torch.zeros(rows, columns - 1)}))
    wanted = f"tensor {name} has shape ({rows}, {columns - 1}), but config.json asks for ({rows}, {columns})"
    assert wanted in refusal(folder)


def test_a_tensor_of_whole_numbers_is_named(damaged):
    folder, name, shape = damaged
    edit_tensors(folder, lambda tensors: tensors.update({name: torch.zeros(shape, dtype=torch.int32)}))
    assert f"tensor {name} is I32, not one of bfloat16" in refusal(folder)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([], "Expected `object`, got `array`"),
        ({}, "missing required field `weight_map`"),
        ({"weight_map": {"lm_head.weight": 1}}, "Expected `str`, got `int`"),
        ({"weight_map": {"lm_head.weight": "/etc/passwd"}}, "'/etc/passwd' is not inside"),
    ],
)
def test_a_damaged_index_is_named(damaged, index, message):
    folder, _, _ = damaged
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert message in refusal(folder)


def test_generation_settings_of_the_checkpoint_do_not_matter(damaged):
    folder, _, _ = damaged
    (folder / "generation_config.json").write_text("[")
    model, _ = load_model(folder, device="cpu")
    assert model.generation_config.do_sample is False


def test_a_truncated_shard_is_named(damaged):
    folder, _, _ = damaged
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.safetensors: is damaged" in refusal(folder)


def test_a_shard_that_is_not_there_is_named(damaged):
    folder, name, _ = damaged
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00001.safetensors: no such file" in refusal(folder)


def test_pickled_weights_are_refused(damaged):
    folder, _, _ = damaged
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pickled weights" in refusal(folder)


def test_no_weights_at_all(damaged):
    folder, _, _ = damaged
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "config.json: is not JSON"), ("[]", "model_type null is not supported")]
)
def test_a_config_that_is_none(damaged, content, message):
    folder, _, _ = damaged
    (folder / "config.json").write_text(content)
    assert message in refusal(folder)
