"""Measure a training step of the tiny model on the CPU with PyTorch's fused attention (SDPA) and with plain attention.

This is why training without a GPU uses `eager` attention: the fused kernel saves memory that a model of this size does
not need, and its backward pass on CPUs is slow.
"""

import statistics
import time
from collections.abc import Sequence

from formcoach.command import command_parser, run

CLIPS, ANSWER_TOKENS = 8, 24


def main(argv: Sequence[str] | None = None) -> int:
    """Time both and print a table."""
    parser = command_parser(__doc__, "python benchmarks/cpu_attention.py")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each")
    args = parser.parse_args(argv)
    print("| attention | numbers | forward (s) | backward (s) | step (s) |\n|---|---|---|---|---|")
    for dtype in ("bfloat16", "float32"):
        for attention in ("sdpa", "eager"):
            forward, backward = measure(attention, dtype, args.steps)
            print(f"| {attention} | {dtype} | {forward:.3f} | {backward:.3f} | {forward + backward:.3f} |", flush=True)
    return 0


def measure(attention: str, dtype: str, steps: int) -> tuple[float, float]:
    """Return the median seconds of forward and backward pass for 8 random clips, LoRA and connector trained."""
    import numpy as np
    import torch

    from formcoach.data.collate import NO_LOSS, collate_prompts
    from formcoach.data.convert import QUESTION
    from formcoach.models import family_of, load_model
    from formcoach.models.adapters import add_lora

    torch.manual_seed(0)
    base, processor = load_model("tiny", dtype=dtype, device="cpu")
    base.set_attn_implementation(attention)
    model = add_lora(base, family_of("tiny"), "tiny", rank=16, alpha=32).train()
    frames = np.random.default_rng(0).integers(0, 256, (processor.max_frames, 140, 140, 3), dtype=np.uint8)
    inputs = collate_prompts([processor(frames, QUESTION, 4.0)] * CLIPS, processor.tokenizer.pad_token_id)
    labels = inputs["input_ids"].clone()
    labels[:, :-ANSWER_TOKENS] = NO_LOSS
    seconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = model(**inputs, labels=labels).loss
        middle = time.perf_counter()
        loss.backward()
        seconds.append((middle - start, time.perf_counter() - middle))
    forward, backward = zip(*seconds[2:], strict=True)  # the first steps allocate
    return statistics.median(forward), statistics.median(backward)


if __name__ == "__main__":
    run(main)
