"""An adapter's weights put into those of its base, one tensor at a time, so that the base is never in memory whole."""

from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn

from formcoach.errors import UserError
from formcoach.models.adapters import ADAPTER, load_adapter


class Merger:
    """Computes the weights of a base with an adapter merged in.

    The base's weights are given as they are on the disk, so that an adapter that was trained on a quantised base is
    merged into the exact one. PEFT does the sum, in float32; it is rounded once.

    Args:
        model: the base without weights, on torch's meta device; is changed.
        adapter: the adapter's folder.

    Attributes:
        names: the base's tensors that the adapter changes.

    Raises:
        UserError: if the adapter is damaged, does not fit the model or cannot be merged.
    """

    def __init__(self, model: Any, adapter: Path) -> None:
        names = list(model.state_dict())
        adapted = load_adapter(model, adapter)
        self._layers: dict[str, BaseTunerLayer] = {}
        self._replaced: dict[str, Tensor] = {}
        for name, module in adapted.get_base_model().named_modules():
            if isinstance(module, BaseTunerLayer):
                self._layers[f"{name}.weight"] = module
            elif isinstance(module, ModulesToSaveWrapper):
                trained = module.modules_to_save[ADAPTER].state_dict()
                self._replaced |= {f"{name}.{part}": value for part, value in trained.items()}
        self.names = {name for name in names if name in self._layers or name in self._replaced}
        if not self.names:
            raise UserError(f"{adapter}: this kind of adapter cannot be merged; export it with --format adapter")

    def merged(self, name: str, weight: Tensor) -> Tensor:
        """Return one of the base's tensors with the adapter merged in, in the type of `weight`.

        Args:
            name: the model's name of the tensor.
            weight: the base's.
        """
        if name in self._replaced:
            return self._replaced[name].to(weight.dtype)
        if name not in self._layers:
            return weight
        layer = self._layers[name]
        base = layer.get_base_layer()
        base.weight = nn.Parameter(weight.float(), requires_grad=False)
        layer.merge()
        merged = base.weight.data.to(weight.dtype)
        base.weight = nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)
        return merged
