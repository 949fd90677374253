"""VideoMamba: a video encoder of bidirectional Mamba blocks (Li et al., VideoMamba, 2024).

Module names are those of its published weights.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from formcoach.models.mobilevideogpt.kernels import Kernel, convolution_kernel, scan_kernel
from formcoach.models.mobilevideogpt.selective_scan import selective_scan

DIRECTIONS = ("", "_b")  # suffixes of the weights: in the order of the tokens, and backwards


@dataclass(frozen=True)
class MambaSizes:
    """Sizes of the encoder; what has a default is the same in all published ones.

    Args:
        depth: blocks.
        width: channels of a token.
        frames: of a clip.
        image_size: side of a frame in pixels.
        patch: side of a patch in pixels.
        states: of a channel of the scan.
        kernel: tokens that the convolution sees.
        expand: channels of the scan for one of the token.
        eps: of the norms.
    """

    depth: int
    width: int
    frames: int = 8
    image_size: int = 224
    patch: int = 16
    states: int = 16
    kernel: int = 4
    expand: int = 2
    eps: float = 1e-5

    @property
    def inner(self) -> int:
        """Channels of the scan."""
        return self.expand * self.width

    @property
    def rank(self) -> int:
        """Channels from which the step sizes are computed."""
        return -(-self.width // 16)

    @property
    def side(self) -> int:
        """Patches along a side of a frame."""
        return self.image_size // self.patch


class VideoMamba(nn.Module):
    """Encodes a clip of `sizes.frames` frames."""

    def __init__(self, sizes: MambaSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + sizes.side**2, sizes.width))
        self.temporal_pos_embedding = nn.Parameter(torch.zeros(1, sizes.frames, sizes.width))
        self.patch_embed = PatchEmbedding(sizes)
        self.layers = nn.ModuleList(Block(sizes) for _ in range(sizes.depth))
        self.norm = nn.RMSNorm(sizes.width, eps=sizes.eps)

    def forward(self, frames: Tensor) -> Tensor:
        """Return the features of clips: (clips, frames, 3, size, size) -> (clips, 1 + frames * patches, width).

        The class token comes first, then the patches frame by frame.
        """
        clips = len(frames)
        patches = self.patch_embed(frames)  # (clips, frames, patches, width)
        patches = patches + self.pos_embed[:, 1:] + self.temporal_pos_embedding[:, :, None]
        first = (self.cls_token + self.pos_embed[:, :1]).expand(clips, -1, -1)
        hidden = torch.cat([first, patches.flatten(1, 2)], dim=1)
        residual = torch.zeros_like(hidden, dtype=torch.float32)
        for layer in self.layers:
            hidden, residual = layer(hidden, residual)
        return _normalised(self.norm, hidden + residual, hidden.dtype)


class PatchEmbedding(nn.Module):
    """Cuts frames into patches; a convolution over one frame at a time."""

    def __init__(self, sizes: MambaSizes) -> None:
        super().__init__()
        size = (1, sizes.patch, sizes.patch)
        self.proj = nn.Conv3d(3, sizes.width, size, size)

    def forward(self, frames: Tensor) -> Tensor:
        """(clips, frames, 3, size, size) -> (clips, frames, patches, width)."""
        weight = self.proj.weight[:, :, 0]  # (width, 3, patch, patch)
        grid = functional.conv2d(frames.flatten(0, 1), weight, self.proj.bias, stride=weight.shape[-1])
        return grid.flatten(2).mT.unflatten(0, frames.shape[:2])


class Block(nn.Module):
    """Adds, normalises, mixes; the residual stays in float32."""

    def __init__(self, sizes: MambaSizes) -> None:
        super().__init__()
        self.mixer = BidirectionalMixer(sizes)
        self.norm = nn.RMSNorm(sizes.width, eps=sizes.eps)

    def forward(self, hidden: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mixer's output and the residual, both (clips, tokens, width)."""
        residual = hidden + residual
        return self.mixer(_normalised(self.norm, residual, hidden.dtype)), residual


class BidirectionalMixer(nn.Module):
    """Mamba's mixer with a selective scan in either direction, each with weights of its own."""

    def __init__(self, sizes: MambaSizes) -> None:
        super().__init__()
        self.sizes = sizes
        inner, states = sizes.inner, sizes.states
        self.in_proj = nn.Linear(sizes.width, 2 * inner, bias=False)
        self.out_proj = nn.Linear(inner, sizes.width, bias=False)
        for suffix in DIRECTIONS:
            self.register_parameter(f"A{suffix}_log", nn.Parameter(torch.zeros(inner, states)))
            self.register_parameter(f"D{suffix}", nn.Parameter(torch.ones(inner)))
            conv = nn.Conv1d(inner, inner, sizes.kernel, groups=inner, padding=sizes.kernel - 1)
            self.add_module(f"conv1d{suffix}", conv)
            self.add_module(f"x_proj{suffix}", nn.Linear(inner, sizes.rank + 2 * states, bias=False))
            self.add_module(f"dt_proj{suffix}", nn.Linear(sizes.rank, inner))

    def forward(self, hidden: Tensor) -> Tensor:
        """(clips, tokens, width) -> the same."""
        x, gate = self.in_proj(hidden).chunk(2, dim=-1)  # (clips, tokens, inner) each
        convolve, scan = convolution_kernel(hidden.device), scan_kernel(hidden.device)
        sequences = [self._convolved(x, "", convolve), self._convolved(x.flip(1), "_b", convolve)]
        mixed = self._scan(sequences, gate) if scan is None else self._scan_on_gpu(sequences, gate, scan)
        return self.out_proj(mixed)

    def _convolved(self, x: Tensor, suffix: str, kernel: Kernel | None) -> Tensor:
        """Mix neighbouring tokens, of which none sees a later one: (clips, tokens, inner) -> the same."""
        convolution = self.get_submodule(f"conv1d{suffix}")
        if kernel is None:
            return functional.silu(convolution(x.mT)[..., : x.shape[1]].mT)
        weight = convolution.weight[:, 0].to(x.dtype)  # (inner, kernel)
        return kernel(x.mT.contiguous(), weight, convolution.bias.to(x.dtype), activation="silu").mT

    def _scan(self, sequences: list[Tensor], gate: Tensor) -> Tensor:
        """Scan a sequence in each direction and add up: two of (clips, tokens, inner) -> one, gated."""
        parts = []
        for x, suffix in zip(sequences, DIRECTIONS, strict=True):
            step, b, c = self._projected(x, suffix)
            delta = functional.softplus(self.get_submodule(f"dt_proj{suffix}")(step).float())
            parts.append((x, delta, self._rates(suffix), b, c, self.get_parameter(f"D{suffix}")))
        scanned = selective_scan(*(torch.stack(part) for part in zip(*parts, strict=True)))
        return (scanned[0] + scanned[1].flip(1)) * functional.silu(gate)

    def _scan_on_gpu(self, sequences: list[Tensor], gate: Tensor, kernel: Kernel) -> Tensor:
        """Compute the same in one call of mamba-ssm's kernel: its groups of channels are the two directions.

        It takes channels before tokens, A, D and the step sizes' bias in float32, and all else in the type of x.
        """
        parts = []
        for x, suffix in zip(sequences, DIRECTIONS, strict=True):
            step, b, c = self._projected(x, suffix)
            projection = self.get_submodule(f"dt_proj{suffix}")
            delta = functional.linear(step, projection.weight)
            own = self.get_parameter(f"D{suffix}").float(), projection.bias.float()
            parts.append((x.mT, delta.mT.to(x.dtype), self._rates(suffix), b.mT.to(x.dtype), c.mT.to(x.dtype), *own))
        x, delta, rates, b, c, direct, bias = zip(*parts, strict=True)
        scanned = kernel(
            torch.cat(x, dim=1),  # (clips, 2 * inner, tokens)
            torch.cat(delta, dim=1),
            torch.cat(rates),  # (2 * inner, states)
            torch.stack(b, dim=1).contiguous(),  # (clips, 2, states, tokens)
            torch.stack(c, dim=1).contiguous(),
            torch.cat(direct),
            z=torch.cat([gate.mT, gate.mT.flip(2)], dim=1).to(x[0].dtype),
            delta_bias=torch.cat(bias),
            delta_softplus=True,
        )
        forwards, backwards = scanned.chunk(2, dim=1)
        return (forwards + backwards.flip(2)).mT

    def _projected(self, x: Tensor, suffix: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return what depends on a token: its step sizes' origin, and how the states are entered and read."""
        sizes = [self.sizes.rank, self.sizes.states, self.sizes.states]
        return self.get_submodule(f"x_proj{suffix}")(x).split(sizes, dim=-1)

    def _rates(self, suffix: str) -> Tensor:
        """Return the decay rates of one direction, (inner, states), in float32."""
        return -torch.exp(self.get_parameter(f"A{suffix}_log").float())


def _normalised(norm: nn.RMSNorm, residual: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalise the float32 residual, and return it in the type that the block computes in."""
    return functional.rms_norm(residual, norm.normalized_shape, norm.weight.float(), norm.eps).to(dtype)
