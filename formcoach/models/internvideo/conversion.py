"""The original checkpoint's tensors and ours: which becomes which, and how it is regrouped, in both directions.

The table is registered with transformers, which applies it while it streams the tensors from the shards.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import (
    Chunk,
    ConversionOps,
    WeightConverter,
    WeightRenaming,
    apply_converters,
    apply_renamings,
)

from formcoach.models.layout import Counterpart


class UngroupHeads(ConversionOps):
    """Split InternLM2's `wqkv` into q, k and v.

    Its rows are, for each key-value head in turn, the query heads of its group, then its key head, then its value
    head, each head_dim rows.
    """

    @torch.no_grad()
    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Return q, k and v under their three target patterns."""
        (fused,) = (_one(tensors) for tensors in input_dict.values())
        text = kwargs["config"].text_config
        group = text.num_attention_heads // text.num_key_value_heads
        heads = fused.unflatten(0, (text.num_key_value_heads, group + 2, -1))  # (kv heads, group + 2, head_dim, ...)
        parts = heads.split([group, 1, 1], dim=1)
        return {name: part.flatten(0, 2).contiguous() for name, part in zip(target_patterns, parts, strict=True)}

    @property
    def reverse_op(self) -> ConversionOps:
        """The operation that undoes this one."""
        return GroupHeads()


class GroupHeads(ConversionOps):
    """Put q, k and v together to InternLM2's `wqkv`; see `UngroupHeads`."""

    @torch.no_grad()
    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Return `wqkv` under its target pattern."""
        kv_heads = kwargs["config"].text_config.num_key_value_heads
        head_dim = kwargs["config"].text_config.head_dim
        parts = [_one(input_dict[name]).unflatten(0, (kv_heads, -1, head_dim)) for name in source_patterns]
        return {target_patterns[0]: torch.cat(parts, dim=1).flatten(0, 2).contiguous()}

    @property
    def reverse_op(self) -> ConversionOps:
        """The operation that undoes this one."""
        return UngroupHeads()


def _one(tensors: list[torch.Tensor] | torch.Tensor) -> torch.Tensor:
    return tensors[0] if isinstance(tensors, list) else tensors


def _renaming(original: str, ours: str) -> WeightRenaming:
    """Map names that start with `original` to names that start with `ours`, and back."""
    return WeightRenaming("^" + original.replace(".", r"\."), "^" + ours.replace(".", r"\."))


def _part(original: str, ours: str) -> WeightRenaming:
    """Map `original` inside of names to `ours`, and back."""
    return WeightRenaming(original.replace(".", r"\."), ours.replace(".", r"\."))


# Original names -> ours. Renamings run in order, then at most one converter; saving runs all of it backwards.
CONVERSIONS = [
    _renaming("vision_model.embeddings.class_embedding", "model.vision_tower.embeddings.cls_token"),
    _renaming("vision_model.embeddings.position_embedding", "model.vision_tower.embeddings.position_embeddings"),
    _renaming("vision_model.embeddings.patch_embedding.", "model.vision_tower.embeddings.patch_embeddings.projection."),
    _renaming("vision_model.encoder.layers.", "model.vision_tower.encoder.layer."),
    _part(".attn.proj.", ".attention.projection_layer."),
    _part(".attn.q_norm.", ".attention.q_norm."),
    _part(".attn.k_norm.", ".attention.k_norm."),
    _part(".ls1", ".lambda_1"),
    _part(".ls2", ".lambda_2"),
    _part(".norm1.", ".layernorm_before."),
    _part(".norm2.", ".layernorm_after."),
    _renaming("mlp1.0.", "model.multi_modal_projector.layer_norm."),
    _renaming("mlp1.1.", "model.multi_modal_projector.linear_1."),
    _renaming("mlp1.3.", "model.multi_modal_projector.linear_2."),
    _renaming("language_model.output.", "lm_head."),
    _renaming("language_model.model.tok_embeddings.", "model.language_model.embed_tokens."),
    _renaming("language_model.model.norm.", "model.language_model.norm."),
    _renaming("language_model.model.layers.", "model.language_model.layers."),
    _part(".attention_norm.", ".input_layernorm."),
    _part(".ffn_norm.", ".post_attention_layernorm."),
    _part(".attention.wo.", ".self_attn.o_proj."),
    _part(".feed_forward.w1.", ".mlp.gate_proj."),
    _part(".feed_forward.w2.", ".mlp.down_proj."),
    _part(".feed_forward.w3.", ".mlp.up_proj."),
    WeightConverter("attn.qkv", ["attention.q_proj", "attention.k_proj", "attention.v_proj"], [Chunk(0)]),
    WeightConverter("attention.wqkv", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], [UngroupHeads()]),
]

register_checkpoint_conversion_mapping("InternVideoForConditionalGeneration", CONVERSIONS)


def counterparts(ours: Iterable[str]) -> list[Counterpart]:
    """Return the tensors of the original layout that hold the model's tensors `ours`."""
    backwards = [conversion.reverse_transform() for conversion in reversed(CONVERSIONS)]
    renamings = [entry for entry in backwards if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in backwards if isinstance(entry, WeightConverter)]
    parts: dict[str, list[str]] = {}
    splits: dict[str, ConversionOps | None] = {}
    for name in ours:
        fused, pattern = apply_converters(name, converters)
        original = apply_renamings(fused, renamings)
        parts.setdefault(original, []).append(name)
        splits[original] = next(
            (one.operations[0].reverse_op for one in converters if pattern in one.source_patterns), None
        )
    return [Counterpart(name, tuple(parts[name]), splits[name]) for name in parts]


def expected_shapes(tensors: Iterable[Counterpart], ours: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a checkpoint's tensors, in which q, k and v lie one behind the other.

    Args:
        tensors: of the checkpoint.
        ours: the model's; only their shapes count.
    """
    return {one.name: (sum(len(ours[part]) for part in one.parts), *ours[one.parts[0]].shape[1:]) for one in tensors}
