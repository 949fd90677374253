"""InternVideo2.5's forward pass as it is written down, on the tensors of an original checkpoint; slow and plain."""

import json
import math

import torch
from safetensors.torch import load_file
from test_token_merging import merge_literally
from torch.nn.functional import conv2d, gelu, layer_norm, linear, silu


class LiteralModel:
    """An original checkpoint's tensors in float32, under their own names, and what is computed with them."""

    def __init__(self, folder):
        config = json.loads((folder / "config.json").read_text())
        self.config, self.vision, self.language = config, config["vision_config"], config["llm_config"]
        self.tensors = {}
        for shard in folder.glob("*.safetensors"):
            self.tensors |= {name: tensor.float() for name, tensor in load_file(shard).items()}

    def logits(self, pixels, ids, image_token):
        """(frames, 3, S, S), (1, L) -> (L, vocabulary)."""
        words = self.tensors["language_model.model.tok_embeddings.weight"]
        tokens = words[ids[0]].clone()
        tokens[ids[0] == image_token] = self.features(pixels).flatten(0, 1)
        for number in range(self.language["num_hidden_layers"]):
            tokens = self.language_layer(f"language_model.model.layers.{number}", tokens)
        tokens = self.rms_norm("language_model.model.norm", tokens, self.language["rms_norm_eps"])
        return linear(tokens, self.tensors.get("language_model.output.weight", words))

    def features(self, pixels):
        """(frames, 3, S, S) -> (groups, 64, width of the language model)."""
        name, size = "vision_model.embeddings", self.vision["patch_size"]
        kernel = self.tensors[f"{name}.patch_embedding.weight"], self.tensors[f"{name}.patch_embedding.bias"]
        patches = conv2d(pixels, *kernel, stride=size).flatten(2).transpose(1, 2)
        begin = self.tensors[f"{name}.class_embedding"].expand(len(patches), 1, -1)
        states = [torch.cat([begin, patches], dim=1) + self.tensors[f"{name}.position_embedding"]]
        for number in range(self.vision["num_hidden_layers"]):
            states.append(self.vision_layer(f"vision_model.encoder.layers.{number}", states[-1]))
        grid = states[self.config["select_layer"]][:, 1:]
        frames, count, width = grid.shape
        side = math.isqrt(count)
        grid = grid.reshape(frames, side, side // 2, width * 2).permute(0, 2, 1, 3)
        grid = grid.reshape(frames, side // 2, side // 2, width * 4).permute(0, 2, 1, 3)
        groups = merge_literally(grid.reshape(frames // 4, -1, width * 4), 64, self.language["num_attention_heads"])
        inner = self.norm("mlp1.0", groups, 1e-5)
        return self.linear("mlp1.3", gelu(self.linear("mlp1.1", inner)))

    def vision_layer(self, name, tokens):
        heads, eps = self.vision["num_attention_heads"], self.vision["layer_norm_eps"]
        norm = self.rms_norm if self.vision["norm_type"] == "rms_norm" else self.norm
        query, key, value = self.linear(f"{name}.attn.qkv", norm(f"{name}.norm1", tokens, eps)).chunk(3, dim=-1)
        if self.vision["qk_normalization"]:
            query = self.rms_norm(f"{name}.attn.q_norm", query, eps)
            key = self.rms_norm(f"{name}.attn.k_norm", key, eps)
        query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
        seen = attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self.linear(f"{name}.attn.proj", seen) * self.tensors[f"{name}.ls1"]
        inner = gelu(self.linear(f"{name}.mlp.fc1", norm(f"{name}.norm2", tokens, eps)))
        return tokens + self.linear(f"{name}.mlp.fc2", inner) * self.tensors[f"{name}.ls2"]

    def language_layer(self, name, tokens):
        heads, eps = self.language["num_attention_heads"], self.language["rms_norm_eps"]
        groups = self.language["num_key_value_heads"]
        each = heads // groups
        inner = self.rms_norm(f"{name}.attention_norm", tokens, eps)
        fused = self.linear(f"{name}.attention.wqkv", inner).unflatten(-1, (groups, each + 2, -1))
        query = self.rotate(fused[:, :, :each].flatten(1, 2).transpose(0, 1))  # (heads, L, head width)
        key = self.rotate(fused[:, :, each].transpose(0, 1)).repeat_interleave(each, dim=0)
        value = fused[:, :, each + 1].transpose(0, 1).repeat_interleave(each, dim=0)
        later = torch.full((len(tokens), len(tokens)), -torch.inf).triu(1)
        seen = attention(query, key, value, later).transpose(0, 1).flatten(1)
        tokens = tokens + self.linear(f"{name}.attention.wo", seen)
        inner = self.rms_norm(f"{name}.ffn_norm", tokens, eps)
        gate, up = (self.linear(f"{name}.feed_forward.{part}", inner) for part in ("w1", "w3"))
        return tokens + self.linear(f"{name}.feed_forward.w2", silu(gate) * up)

    def rotate(self, heads):
        """Turn pairs of channels by their position; within the first 32,768, `dynamic` scaling changes nothing."""
        _, length, width = heads.shape
        scaling = self.language["rope_scaling"] or {"type": "dynamic"}
        positions = torch.arange(length) / (scaling["factor"] if scaling["type"] == "linear" else 1)
        angles = torch.outer(positions, self.language["rope_theta"] ** (-torch.arange(0, width, 2) / width)).repeat(
            1, 2
        )
        turned = torch.cat([-heads[..., width // 2 :], heads[..., : width // 2]], dim=-1)
        return heads * angles.cos() + turned * angles.sin()

    def linear(self, name, values):
        return linear(values, self.tensors[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def norm(self, name, values, eps):
        return layer_norm(values, values.shape[-1:], self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], eps)

    def rms_norm(self, name, values, eps):
        return self.tensors[f"{name}.weight"] * values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + eps)


def attention(query, key, value, mask=0.0):
    return (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]) + mask).softmax(-1) @ value
