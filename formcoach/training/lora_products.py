"""LoRA's products with fewer passes over large tensors than PEFT's, to the same result."""

from typing import Any

from peft.tuners.lora.layer import LoraLayer, LoraVariant
from torch import Tensor, nn


class ScaledInside(LoraVariant):
    """``W x + B (s A x)`` instead of ``W x + s (B A x)``: what is scaled has the rank's width, and none is copied.

    For training only: PEFT asks it for nothing but the forward pass.
    """

    @staticmethod
    def forward(module: LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """Add an adapter's product to the base layer's, in place.

        Args:
            module: the layer.
            active_adapter: the adapter's name.
            x: (..., in), the layer's input.
            result: (..., out), the base layer's output; of a quantised one a copy of it.
        """
        reduced = module.lora_A[active_adapter](module.lora_dropout[active_adapter](x))  # (..., rank)
        # Called as a module, since ZeRO-3 gathers its weight at the call.
        added = module.lora_B[active_adapter](reduced * module.scaling[active_adapter])
        return result.add_(added.to(result.dtype))


def scale_inside(model: nn.Module) -> None:
    """Let all LoRA layers of a model that is trained compute as `ScaledInside`."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.lora_variant.update(dict.fromkeys(module.lora_A, ScaledInside))
