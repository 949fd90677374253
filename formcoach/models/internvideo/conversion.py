"""The original checkpoint's tensors and ours: which becomes which, and how it is regrouped, in both directions.

The table is registered with transformers, which applies it while it streams the tensors from the shards.
"""

from typing import Any

import torch
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, ConversionOps, WeightConverter

from formcoach.models.conversion import renaming, renaming_inside


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


# Original names -> ours.
CONVERSIONS = [
    renaming("vision_model.embeddings.class_embedding", "model.vision_tower.embeddings.cls_token"),
    renaming("vision_model.embeddings.position_embedding", "model.vision_tower.embeddings.position_embeddings"),
    renaming("vision_model.embeddings.patch_embedding.", "model.vision_tower.embeddings.patch_embeddings.projection."),
    renaming("vision_model.encoder.layers.", "model.vision_tower.encoder.layer."),
    renaming_inside(".attn.proj.", ".attention.projection_layer."),
    renaming_inside(".attn.q_norm.", ".attention.q_norm."),
    renaming_inside(".attn.k_norm.", ".attention.k_norm."),
    renaming_inside(".ls1", ".lambda_1"),
    renaming_inside(".ls2", ".lambda_2"),
    renaming_inside(".norm1.", ".layernorm_before."),
    renaming_inside(".norm2.", ".layernorm_after."),
    renaming("mlp1.0.", "model.multi_modal_projector.layer_norm."),
    renaming("mlp1.1.", "model.multi_modal_projector.linear_1."),
    renaming("mlp1.3.", "model.multi_modal_projector.linear_2."),
    renaming("language_model.output.", "lm_head."),
    renaming("language_model.model.tok_embeddings.", "model.language_model.embed_tokens."),
    renaming("language_model.model.norm.", "model.language_model.norm."),
    renaming("language_model.model.layers.", "model.language_model.layers."),
    renaming_inside(".attention_norm.", ".input_layernorm."),
    renaming_inside(".ffn_norm.", ".post_attention_layernorm."),
    renaming_inside(".attention.wo.", ".self_attn.o_proj."),
    renaming_inside(".feed_forward.w1.", ".mlp.gate_proj."),
    renaming_inside(".feed_forward.w2.", ".mlp.down_proj."),
    renaming_inside(".feed_forward.w3.", ".mlp.up_proj."),
    WeightConverter("attn.qkv", ["attention.q_proj", "attention.k_proj", "attention.v_proj"], [Chunk(0)]),
    WeightConverter("attention.wqkv", ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], [UngroupHeads()]),
]

register_checkpoint_conversion_mapping("InternVideoForConditionalGeneration", CONVERSIONS)
