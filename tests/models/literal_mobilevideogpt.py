"""Mobile-VideoGPT's forward pass as it is written down, on the tensors of an original checkpoint; slow and plain."""

import json
import math

import torch
from literal_model import attention
from safetensors.torch import load_file
from torch.nn.functional import adaptive_avg_pool2d, conv2d, cross_entropy, gelu, layer_norm, linear, silu, softplus

CHUNK, SELECTED = 8, 4
IMAGE = "model.image_vision_tower.vision_tower.vision_model"
VIDEO = "model.vision_tower.vision_encoder"


def quick_gelu(values):
    return values * torch.sigmoid(1.702 * values)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu, "silu": silu}


class LiteralMobileVideoGPT:
    """An original checkpoint's tensors in float32, under their own names, and what is computed with them."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.image = self.config["image_vision_tower_config"]
        self.tensors = {}
        for shard in folder.glob("*.safetensors"):
            self.tensors |= {name: tensor.float() for name, tensor in load_file(shard).items()}

    def __getitem__(self, name):
        return self.tensors[name]

    def visual_tokens(self, video, context):
        """Two of (16, 3, S, S) -> (2402, width of the language model)."""
        patches = self.clip(context)  # (16, patches, channels)
        images = torch.cat([self.projected("model.image_mm_projector", frame, 12) for frame in patches])
        chosen = [CHUNK * chunk + number for chunk in range(2) for number in self.selected(patches, chunk)]
        seen = self.videomamba(video[chosen])  # (8, patches, channels)
        side = math.isqrt(seen.shape[1])
        grids = seen.transpose(1, 2).unflatten(2, (side, side))
        pooled = adaptive_avg_pool2d(grids, 7).flatten(2).transpose(1, 2)  # (8, 49, channels)
        chunks = [pooled[:4].flatten(0, 1), pooled[4:].flatten(0, 1)]
        return torch.cat([images, *(self.projected("model.mm_projector", chunk, 7) for chunk in chunks)])

    def selected(self, patches, chunk):
        frames = patches[CHUNK * chunk : CHUNK * (chunk + 1)]
        tokens = frames.flatten(0, 1)
        weights = (tokens @ tokens.T / math.sqrt(tokens.shape[1])).softmax(dim=1)
        received = weights.sum(dim=0).unflatten(0, (CHUNK, -1)).sum(dim=1)
        return sorted(received.argsort(descending=True)[:SELECTED].tolist())

    def clip(self, frames):
        name, size = f"{IMAGE}.embeddings", self.image["patch_size"]
        patches = conv2d(frames, self[f"{name}.patch_embedding.weight"], stride=size).flatten(2).transpose(1, 2)
        begin = self[f"{name}.class_embedding"].expand(len(patches), 1, -1)
        tokens = torch.cat([begin, patches], dim=1) + self[f"{name}.position_embedding.weight"]
        states = [self.norm(f"{IMAGE}.pre_layrnorm", tokens)]
        for number in range(self.image["num_hidden_layers"]):
            states.append(self.clip_layer(f"{IMAGE}.encoder.layers.{number}", states[-1]))
        return states[self.config["mm_vision_select_layer"]][:, 1:]

    def clip_layer(self, name, tokens):
        inner = self.norm(f"{name}.layer_norm1", tokens)
        heads = self.image["num_attention_heads"]
        parts = [self.linear(f"{name}.self_attn.{part}_proj", inner) for part in "qkv"]
        seen = attention(*(part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts))
        tokens = tokens + self.linear(f"{name}.self_attn.out_proj", seen.transpose(1, 2).flatten(2))
        act = ACTIVATIONS[self.image.get("hidden_act", "quick_gelu")]
        inner = act(self.linear(f"{name}.mlp.fc1", self.norm(f"{name}.layer_norm2", tokens)))
        return tokens + self.linear(f"{name}.mlp.fc2", inner)

    def videomamba(self, frames):
        """(8, 3, S, S) -> (8, patches, channels)."""
        kernel, bias = self[f"{VIDEO}.patch_embed.proj.weight"], self[f"{VIDEO}.patch_embed.proj.bias"]
        patches = torch.stack(
            [conv2d(frame[None], kernel[:, :, 0], bias, stride=16)[0].flatten(1).T for frame in frames]
        )
        positions = self[f"{VIDEO}.pos_embed"][0]
        patches = patches + positions[1:] + self[f"{VIDEO}.temporal_pos_embedding"][0][:, None]
        begin = self[f"{VIDEO}.cls_token"][0] + positions[:1]
        hidden, residual = torch.cat([begin, patches.flatten(0, 1)]), 0
        for number in range(self.config["vision_tower_config"]["depth"]):
            name = f"{VIDEO}.layers.{number}"
            residual = residual + hidden
            hidden = self.mixer(f"{name}.mixer", self.rms_norm(f"{name}.norm", residual, 1e-5))
        tokens = self.rms_norm(f"{VIDEO}.norm", hidden + residual, 1e-5)[1:]
        return tokens.unflatten(0, (8, -1))

    def mixer(self, name, tokens):
        x, z = self.linear(f"{name}.in_proj", tokens).chunk(2, dim=1)
        forwards = self.direction(name, x, "", "A_log")
        backwards = self.direction(name, x.flip(0), "_b", "A_b_log").flip(0)
        return self.linear(f"{name}.out_proj", forwards * silu(z) + backwards * silu(z))

    def direction(self, name, x, suffix, rates):
        kernel, bias = self[f"{name}.conv1d{suffix}.weight"][:, 0], self[f"{name}.conv1d{suffix}.bias"]
        before = torch.cat([x.new_zeros(3, x.shape[1]), x])
        x = silu(sum(before[tap : tap + len(x)] * kernel[:, tap] for tap in range(4)) + bias)
        rank, states = self[f"{name}.dt_proj{suffix}.weight"].shape[1], 16
        step, b, c = self.linear(f"{name}.x_proj{suffix}", x).split([rank, states, states], dim=1)
        step = softplus(self.linear(f"{name}.dt_proj{suffix}", step))
        decay = -torch.exp(self[f"{name}.{rates}"])
        state, out = torch.zeros_like(decay), []
        for token in range(len(x)):
            entering = (step[token] * x[token])[:, None] * b[token]
            state = torch.exp(step[token][:, None] * decay) * state + entering
            out.append(state @ c[token] + self[f"{name}.D{suffix}"] * x[token])
        return torch.stack(out)

    def projected(self, name, tokens, side):
        tokens = self.linear(f"{name}.mlp.mlp.2", gelu(self.linear(f"{name}.mlp.mlp.0", tokens)))
        rows = math.isqrt(len(tokens))
        grid = adaptive_avg_pool2d(tokens.T.unflatten(1, (rows, rows))[None], side)
        weight, bias = self[f"{name}.peg.peg.0.weight"], self[f"{name}.peg.peg.0.bias"]
        return (grid + conv2d(grid, weight, bias, padding=1, groups=len(weight)))[0].flatten(1).T

    def logits(self, ids, image_token, video, context):
        """(L,), two of (clips, 16, 3, S, S) -> (L, vocabulary)."""
        words = self["model.embed_tokens.weight"]
        tokens = words[ids].clone()
        if (ids == image_token).any():
            tokens[ids == image_token] = torch.cat(
                [self.visual_tokens(*clip) for clip in zip(video, context, strict=True)]
            )
        for number in range(self.config["num_hidden_layers"]):
            tokens = self.language_layer(f"model.layers.{number}", tokens)
        tokens = self.rms_norm("model.norm", tokens, self.config["rms_norm_eps"])
        return linear(tokens, words if self.config["tie_word_embeddings"] else self["lm_head.weight"])

    def loss(self, ids, labels, *arguments):
        return cross_entropy(self.logits(ids, *arguments)[:-1], labels[1:])

    def greedy(self, ids, count, *arguments):
        begin = len(ids)
        for _ in range(count):
            ids = torch.cat([ids, self.logits(ids, *arguments)[-1].argmax()[None]])
        return ids[begin:].tolist()

    def language_layer(self, name, tokens):
        heads, groups = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        inner = self.rms_norm(f"{name}.input_layernorm", tokens, self.config["rms_norm_eps"])
        query, key, value = (
            self.linear(f"{name}.self_attn.{part}_proj", inner).unflatten(1, (count, -1)).transpose(0, 1)
            for part, count in (("q", heads), ("k", groups), ("v", groups))
        )
        key, value = (part.repeat_interleave(heads // groups, dim=0) for part in (self.rotate(key), value))
        later = torch.full((len(tokens), len(tokens)), -torch.inf).triu(1)
        seen = attention(self.rotate(query), key, value, later).transpose(0, 1).flatten(1)
        tokens = tokens + self.linear(f"{name}.self_attn.o_proj", seen)
        inner = self.rms_norm(f"{name}.post_attention_layernorm", tokens, self.config["rms_norm_eps"])
        gate, up = (self.linear(f"{name}.mlp.{part}_proj", inner) for part in ("gate", "up"))
        return tokens + self.linear(f"{name}.mlp.down_proj", silu(gate) * up)

    def rotate(self, heads):
        _, length, width = heads.shape
        speeds = self.config["rope_theta"] ** (-torch.arange(0, width, 2) / width)
        angles = torch.outer(torch.arange(length).float(), speeds).repeat(1, 2)
        turned = torch.cat([-heads[..., width // 2 :], heads[..., : width // 2]], dim=-1)
        return heads * angles.cos() + turned * angles.sin()

    def linear(self, name, values):
        return linear(values, self[f"{name}.weight"], self.tensors.get(f"{name}.bias"))

    def norm(self, name, values):
        eps = self.image.get("layer_norm_eps", 1e-5)
        return layer_norm(values, values.shape[-1:], self[f"{name}.weight"], self[f"{name}.bias"], eps)

    def rms_norm(self, name, values, eps):
        return self[f"{name}.weight"] * values * torch.rsqrt(values.pow(2).mean(-1, keepdim=True) + eps)
