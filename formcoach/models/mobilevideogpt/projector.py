"""The efficient token projector: into the language model's width, and fewer tokens."""

from torch import Tensor, nn
from torch.nn import functional


class TokenProjector(nn.Module):
    """Projects tokens, pools them as a square grid, and adds a depth-wise convolution of the grid to it."""

    def __init__(self, channels: int, width: int, side: int) -> None:
        """Build the projector.

        Args:
            channels: of a token of the encoder.
            width: of the language model.
            side: tokens along a side of the grid that is left.
        """
        super().__init__()
        self.side = side
        self.mlp = nn.Sequential(nn.Linear(channels, width), nn.GELU(), nn.Linear(width, width))
        self.peg = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(grids, rows * rows, channels) -> (grids, side * side, width)."""
        projected = self.mlp(tokens)
        rows = int(projected.shape[1] ** 0.5)
        grid = projected.mT.unflatten(2, (rows, rows))
        grid = functional.adaptive_avg_pool2d(grid, self.side)
        return (grid + self.peg(grid)).flatten(2).mT
