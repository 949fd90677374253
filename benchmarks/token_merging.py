"""Time HiCo token merging at the sizes of the 8B model against the algorithm written down literally.

Both get the same random tokens and no gradient, average in float32 and return the type of the tokens, so that results
in bfloat16 differ by one step of that format at most. Where two similarities are equal but for rounding, the two may
match otherwise; then the largest difference is one of different averages.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from machine import describe_machine

from formcoach.command import command_parser, positive, run
from formcoach.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FRAMES_PER_GROUP, TOKENS_PER_FRAME, TOKENS_PER_GROUP, CHANNELS, HEADS = 4, 256, 64, 4096, 32
DTYPES = ("float32", "bfloat16")
COLUMNS = "{:>6}  {:>8}  {:>10}  {:>8}  {:>6}  {:>18}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__, "python benchmarks/token_merging.py --frames 8 --dtype bfloat16 --repeat 50")
    parser.add_argument(
        "--frames", type=_whole_groups, nargs="+", default=[8, 16, 32], metavar="N", help="default: 8 16 32"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--repeat", type=positive, default=15, metavar="N", help="runs of each, in turn (default: 15)")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=DTYPES, help="default: both")
    args = parser.parse_args(argv)

    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: this torch sees no GPU; use --device cpu")
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    print(f"machine: {describe_machine(device)}")
    print(
        f"settings: groups of {FRAMES_PER_GROUP} frames, {FRAMES_PER_GROUP * TOKENS_PER_FRAME} -> {TOKENS_PER_GROUP} "
        f"tokens of {CHANNELS} channels, {HEADS} heads, on {device}; median of {args.repeat} runs each, in turn"
    )
    print(COLUMNS.format("frames", "dtype", "literal ms", "ours ms", "ratio", "largest difference"))
    for dtype in args.dtype:
        for frames in args.frames:
            literal, ours, difference = _compare(frames, getattr(torch, dtype), device, args.repeat)
            times = f"{1000 * literal:.1f}", f"{1000 * ours:.1f}", f"{literal / ours:.1f}x"
            print(COLUMNS.format(frames, dtype, *times, f"{difference:.1e}"), flush=True)
    return 0


def merge_literally(tokens: "Tensor", keep: int, heads: int) -> "Tensor":
    """Merge tokens as the published algorithm reads, round by round at full width; see `merge_tokens`.

    Args:
        tokens: (groups, n, channels).
        keep: tokens to keep of each group.
        heads: the similarity is taken on channels averaged over this many heads.

    Returns:
        (groups, keep, channels) in the type of `tokens`; averages are taken in float32.
    """
    values = tokens.float()
    sizes = values.new_ones(*values.shape[:2], 1)
    while (count := values.shape[1]) > keep:
        merged = min(count // 2, count - keep)
        metric = values.unflatten(-1, (heads, -1)).mean(dim=2)  # (groups, n, channels / heads)
        metric = metric / metric.norm(dim=-1, keepdim=True)
        best, partner = (metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)).max(dim=-1)
        order = best.argsort(dim=-1, descending=True)
        goes, stays = order[:, :merged], order[:, merged:]
        partner = partner.gather(1, goes)
        sums = _merge_even_into_odd(values * sizes, goes, stays, partner)
        sizes = _merge_even_into_odd(sizes, goes, stays, partner)
        values = sums / sizes
    return values.to(tokens.dtype)


def _merge_even_into_odd(values: "Tensor", goes: "Tensor", stays: "Tensor", partner: "Tensor") -> "Tensor":
    """Add the even tokens at `goes` to their odd partners: (groups, n, c) -> (groups, n - number that goes, c)."""
    import torch

    even, odd = values[:, ::2], values[:, 1::2]
    goes, stays, partner = (index[..., None].expand(-1, -1, values.shape[-1]) for index in (goes, stays, partner))
    return torch.cat([even.gather(1, stays), odd.scatter_add(1, partner, even.gather(1, goes))], dim=1)


def _compare(frames: int, dtype: "torch.dtype", device: str, repeat: int) -> tuple[float, float, float]:
    """Return the median seconds of the literal algorithm and of ours, and the largest difference of their results."""
    import torch

    from formcoach.models.internvideo.token_merging import merge_tokens

    shape = frames // FRAMES_PER_GROUP, FRAMES_PER_GROUP * TOKENS_PER_FRAME, CHANNELS
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(frames)).to(device, dtype)
    ways = merge_literally, merge_tokens
    with torch.inference_mode():
        literal, ours = (merge(tokens, TOKENS_PER_GROUP, HEADS) for merge in ways)  # also warms up
        seconds = [[_seconds(merge, tokens) for merge in ways] for _ in range(repeat)]
    medians = [statistics.median(times) for times in zip(*seconds, strict=True)]
    return medians[0], medians[1], (literal.float() - ours.float()).abs().max().item()


def _seconds(merge: Callable[["Tensor", int, int], "Tensor"], tokens: "Tensor") -> float:
    """Return how long one merging takes."""
    import torch

    if tokens.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    merge(tokens, TOKENS_PER_GROUP, HEADS)
    if tokens.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _whole_groups(text: str) -> int:
    """Parse a number of frames that fills whole groups."""
    if positive(text) % FRAMES_PER_GROUP:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of {FRAMES_PER_GROUP}")
    return int(text)


if __name__ == "__main__":
    run(main)
