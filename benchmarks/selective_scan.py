"""Time Mamba's selective scan at VideoMamba's size against the recurrence as published.

One direction of one clip: 1,152 channels, 16 states, 1,569 tokens. The baseline is the reference of Mamba's authors:
all decays and inputs of all tokens are formed at once, then there is a step a token. `both directions` scans two
sequences, as a layer of VideoMamba does; its baseline is twice the reference. Each time is the best of some runs, in
turn; memory is what PyTorch's allocator holds at most beyond the inputs.
"""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from machine import describe_machine

from formcoach.command import command_parser, positive, run

if TYPE_CHECKING:
    from torch import Tensor

BASELINE = "published recurrence"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__, "python benchmarks/selective_scan.py --repeat 10")
    parser.add_argument("--tokens", type=positive, default=1569, metavar="N", help="of a clip (default: %(default)s)")
    parser.add_argument("--channels", type=positive, default=1152, metavar="N", help="default: %(default)s")
    parser.add_argument("--states", type=positive, default=16, metavar="N", help="default: %(default)s")
    parser.add_argument("--repeat", type=positive, default=5, metavar="N", help="runs of each (default: %(default)s)")
    args = parser.parse_args(argv)

    import torch

    from formcoach.models.mobilevideogpt.selective_scan import selective_scan

    print(f"machine: {describe_machine('cpu')}")
    print(
        f"settings: {args.channels} channels, {args.states} states, {args.tokens} tokens, float32, "
        f"{torch.get_num_threads()} threads, best of {args.repeat} runs, in turn"
    )
    one, two = (random_inputs(scans, args.tokens, args.channels, args.states) for scans in (1, 2))
    ways = {
        BASELINE: (lambda: published(*one), 1),
        "selective_scan": (lambda: selective_scan(*one), 1),
        "both directions": (lambda: selective_scan(*two), 2),
    }
    with torch.no_grad():
        print_ways(ways, args.repeat)
    return 0


def print_ways(ways: "dict[str, tuple[Callable[[], Tensor], int]]", repeat: int) -> None:
    """Print a line for each way, with its time and memory against the baseline's."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(repeat):
        for name, (compute, _) in ways.items():
            began = time.perf_counter()
            compute()
            best[name] = min(best[name], time.perf_counter() - began)
    held = {name: peak(compute) for name, (compute, _) in ways.items()}
    expected = ways[BASELINE][0]()
    print(f"{'':<22}{'ms':>8}{'speed':>9}{'peak MB':>9}{'share':>9}{'largest difference':>20}")
    for name, (compute, scans) in ways.items():
        difference = (compute()[:1] - expected).abs().max()
        print(
            f"{name:<22}{1000 * best[name]:>8.1f}{scans * best[BASELINE] / best[name]:>8.2f}x{held[name] / 1e6:>9.1f}"
            f"{held[name] / (scans * held[BASELINE]):>8.3f}x{difference:>20.1e}"
        )


def random_inputs(scans: int, tokens: int, channels: int, states: int) -> "tuple[Tensor, ...]":
    """Return x, delta, a, b, c, d of `selective_scan`; the first scan is the same for any number of them."""
    import torch
    from torch.nn.functional import softplus

    generator = torch.Generator().manual_seed(0)
    steps = torch.arange(1, states + 1).float().log()
    each = []
    for _ in range(scans):
        x, delta = (torch.randn(1, tokens, channels, generator=generator) for _ in range(2))
        b, c = (torch.randn(1, tokens, states, generator=generator) for _ in range(2))
        a = -torch.exp(steps + 0.05 * torch.randn(channels, states, generator=generator))
        each.append((x, softplus(delta - 3), a, b, c, torch.randn(channels, generator=generator)))
    return tuple(torch.stack(parts) for parts in zip(*each, strict=True))


def published(x: "Tensor", delta: "Tensor", a: "Tensor", b: "Tensor", c: "Tensor", d: "Tensor") -> "Tensor":
    """Compute the scan as Mamba's authors' reference does; arguments as in `selective_scan`."""
    import torch

    decay = torch.exp(torch.einsum("sbld,sdn->sbdln", delta, a))
    enters = torch.einsum("sbld,sbln,sbld->sbdln", delta, b, x)
    state = x.new_zeros(*x.shape[:2], x.shape[3], a.shape[2])
    read = []
    for token in range(x.shape[2]):
        state = decay[:, :, :, token] * state + enters[:, :, :, token]
        read.append(torch.einsum("sbdn,sbn->sbd", state, c[:, :, token]))
    return torch.stack(read, dim=2) + x * d[:, None, None]


def peak(compute: "Callable[[], Tensor]") -> int:
    """Return the most bytes that are held at a time, as PyTorch's allocator counts them."""
    import numpy as np
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        compute()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(held.max())


if __name__ == "__main__":
    run(main)
