"""LoRA's products as the trainer computes them are PEFT's."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn

from formcoach.training.lora_products import scale_inside


def adapted(dropout: float = 0.0) -> nn.Module:
    """Return two linear layers, one with a bias, with LoRA that adds something."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 6, bias=False))
    model = get_peft_model(layers, LoraConfig(r=4, lora_alpha=12, lora_dropout=dropout, target_modules=["0", "2"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("autocast", [False, True])
def test_outputs_and_gradients_are_those_of_peft(dropout, autocast) -> None:
    plain = adapted(dropout)
    inside = copy.deepcopy(plain)
    scale_inside(inside)
    results = []
    for model in (plain, inside):
        inputs = torch.linspace(-1, 1, 3 * 5 * 8).view(3, 5, 8).requires_grad_()
        torch.manual_seed(1)  # of the dropout
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model(inputs)
        output.float().square().sum().backward()
        gradients = [one.grad for one in model.parameters() if one.requires_grad]
        results.append([output, inputs.grad, *gradients])
    for one, other in zip(*results, strict=True):
        limit = 0.03 * other.abs().max().item() if autocast else 1e-5
        torch.testing.assert_close(one, other, rtol=1e-4, atol=limit)  # sums in another order


def test_what_is_saved_and_the_base_alone_stay_the_same() -> None:
    plain = adapted()
    inside = copy.deepcopy(plain)
    scale_inside(inside)
    saved = get_peft_model_state_dict(inside)
    for name, tensor in get_peft_model_state_dict(plain).items():
        torch.testing.assert_close(saved[name], tensor, rtol=0, atol=0)
    inputs = torch.randn(2, 8)
    with plain.disable_adapter(), inside.disable_adapter():
        torch.testing.assert_close(inside(inputs), plain(inputs), rtol=0, atol=0)
