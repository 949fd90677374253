"""The last layer of the language model, computed where its output is used: in front of answer tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from formcoach.models.family import Family
from formcoach.models.segment_attention import queries_at


def tower_layers(model: nn.Module, tower: str) -> list[nn.Module]:
    """Return the layers of a tower in order; of one that is trained in full, those of the copy that is trained.

    Args:
        model: with its trainable weights.
        tower: its module's name, from the family.
    """
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, GradientCheckpointingLayer)
        and f".{tower}." in f".{name}."
        and ".original_module." not in name  # PEFT's, beside the copy that is trained in full
    ]


def last_layer(model: nn.Module, family: Family) -> nn.Module:
    """Return the layer whose output goes to the language model's head."""
    return tower_layers(model, family.language)[-1]


@contextmanager
def only_rows(layer: Any, columns: Tensor) -> Iterator[None]:
    """Within the context, compute of a decoder layer only what its output at some positions depends on.

    Queries, the attention's output and all behind it are needed there alone, keys and values everywhere. The output
    keeps its shape; what it has at other positions means nothing. The layer must not be checkpointed: it would be
    computed again after the context.

    Args:
        layer: of transformers' Llama or of a model with the same names.
        columns: positions (K), those of the rows in common.
    """
    attention = layer.self_attn
    spans = (
        (attention.q_proj, attention.q_proj),
        (attention.o_proj, attention.o_proj),
        (layer.post_attention_layernorm, layer.mlp),
    )
    length = 0

    def select(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        nonlocal length
        length = arguments[0].shape[1]
        return (arguments[0][:, columns], *arguments[1:])  # (B, L, D) -> (B, K, D)

    def spread(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        everywhere = output.new_zeros(len(output), length, output.shape[2])
        return everywhere.index_copy(1, columns, output)  # (B, K, D) -> (B, L, D)

    hooks = [first.register_forward_pre_hook(select) for first, _ in spans]
    hooks += [last.register_forward_hook(spread) for _, last in spans]
    try:
        with queries_at(attention, columns):
            yield
    finally:
        for hook in hooks:
            hook.remove()
