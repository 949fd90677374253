"""LoRA training of the 8B on a GPU: peak memory, tokens a second and model FLOPs utilisation by number of frames.

The weights are random and the frames are noise: nothing is downloaded; shapes, number formats and code are those of a
real training. Utilisation is the arithmetic that the model needs, without what gradient checkpointing repeats, as a
share of what one large matrix product reaches on the same device.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import describe_machine
from real_size import ANSWER, QUESTION, SECONDS, Measured, write_if_missing

from formcoach.command import command_parser, positive, run
from formcoach.errors import UserError

if TYPE_CHECKING:
    from formcoach.models.sizes import ModelSizes, Tower

PRECISIONS = {"nf4": "nf4", "int8": "int8", "bf16": None}
MATRIX = {"cuda": 8192, "cpu": 1024}  # side of the matrices whose product is taken as the device's speed


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Args:
        precision: of the frozen weights.
        frames: of the clip.
        tokens: of the sample.
        seconds: of a step.
        peak: bytes.
        flops: that a step needs.
    """

    precision: str
    frames: int
    tokens: int
    seconds: float
    peak: int
    flops: float


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = command_parser(__doc__, "python benchmarks/gpu_qlora.py --checkpoint /data/random_8b --frames 8 32 128")
    parser.add_argument(
        "--checkpoint", required=True, type=Path, metavar="DIR", help="written if it is missing: 16.2 GB"
    )
    parser.add_argument("--frames", type=positive, nargs="+", default=[8, 32, 128], metavar="N", help="8 32 128")
    parser.add_argument("--precision", choices=PRECISIONS, nargs="+", default=["nf4", "bf16"], help="nf4 bf16")
    parser.add_argument("--steps", type=positive, default=3, metavar="N", help="that are timed (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    args = parser.parse_args(argv)
    if odd := [frames for frames in args.frames if frames % 4]:
        parser.error(f"--frames {odd[0]}: is not a multiple of 4")

    from formcoach.models import Precision, sizes_for

    device = Precision(device=args.device).torch_device()
    write_if_missing(args.checkpoint, Measured(device.startswith("cuda")))
    sizes, speed = sizes_for(args.checkpoint), matrix_speed(device)
    print(describe_machine(device))
    print(f"LoRA rank 16 and the connector, gradient checkpointing; a matrix product: {speed / 1e12:.1f} TFLOP/s")
    print(
        f"\n{'weights':<9}{'frames':>7}{'tokens':>8}{'s a step':>10}{'tokens/s':>10}{'peak GB':>9}{'utilisation':>13}"
    )
    for precision in args.precision:
        measure(args.checkpoint, sizes, precision, sorted(args.frames), args.steps, device, speed)
    return 0


def measure(
    checkpoint: Path, sizes: "ModelSizes", precision: str, frames: Sequence[int], steps: int, device: str, speed: float
) -> None:
    """Load the model once and print a line for each number of frames, until memory is exhausted."""
    import torch

    model, processor = load(checkpoint, PRECISIONS[precision], device)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    for count in frames:
        try:
            row = step_row(model, optimizer, processor, sizes, precision, count, steps, device)
        except torch.OutOfMemoryError:
            print(f"{precision:<9}{count:>7}  does not fit")
            return
        share = row.flops / row.seconds / speed
        print(
            f"{precision:<9}{count:>7}{row.tokens:>8}{row.seconds:>10.2f}{row.tokens / row.seconds:>10.0f}"
            f"{row.peak / 1e9:>9.2f}{share:>12.0%}",
            flush=True,
        )


def load(checkpoint: Path, quantization: str | None, device: str) -> tuple[Any, Any]:
    """Return the model as the trainer loads it for ``--freeze-vit``, and its processor."""
    import argparse
    from dataclasses import replace

    from formcoach.config import Defaults, Recipe, resolve
    from formcoach.training.flags import add_training_flags
    from formcoach.training.trainable import load_trainable

    parser = argparse.ArgumentParser()
    add_training_flags(parser)
    defaults = Defaults(str(checkpoint), Recipe(), datasets="none.json", work_dir="none")
    config = resolve(parser.parse_args(["--freeze-vit"]), defaults, None)
    model, processor = load_trainable(replace(config, dtype="bfloat16", quantization=quantization), device)
    return model.train(), processor


def step_row(
    model: Any,
    optimizer: Any,
    processor: Any,
    sizes: "ModelSizes",
    precision: str,
    frames: int,
    steps: int,
    device: str,
) -> Row:
    """Take training steps on a clip of noise, micro batch 1."""
    import numpy as np

    from formcoach.data.collate import NO_LOSS, TrainingCollator

    side = processor.settings.image_size
    clip = np.random.default_rng(0).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    ids, labels = processor.text_inputs(QUESTION, frames, SECONDS, ANSWER)
    batch = TrainingCollator(0)([{"input_ids": ids, "labels": labels, **processor.visual_inputs(clip), "id": "noise"}])
    batch = {name: value if name == "lengths" else value.to(device) for name, value in batch.items() if name != "ids"}
    take_step(model, optimizer, batch, device)
    with Memory(device) as memory:
        start = time.perf_counter()
        for _ in range(steps):
            take_step(model, optimizer, batch, device)
        seconds = (time.perf_counter() - start) / steps
    answers = int((labels != NO_LOSS).sum())
    return Row(precision, frames, len(ids), seconds, memory.peak, step_flops(sizes, frames, len(ids), answers))


def take_step(model: Any, optimizer: Any, batch: dict[str, Any], device: str) -> None:
    """Compute loss and gradients, and change the weights."""
    import torch

    from formcoach.training.answer_loss import token_losses

    with torch.autocast(torch.device(device).type, torch.bfloat16):
        losses, answers = token_losses(model, batch)
        loss = losses.sum() / answers.sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    loss.item()  # waits for the GPU


class Memory:
    """The peak of the memory while the block runs: what PyTorch holds on the GPU, or this process's own.

    Args:
        device: torch's name.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device.startswith("cuda")
        self.peak = 0

    def __enter__(self) -> "Memory":
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
        return self

    def __exit__(self, *_: object) -> None:
        from formcoach.training.callbacks import peak_bytes

        self.peak = peak_bytes()


def step_flops(sizes: "ModelSizes", frames: int, tokens: int, answers: int) -> float:
    """Return the floating point operations of a training step with a frozen base.

    A matrix takes two for each weight and token. Gradients go back to the inputs of the language model's layers, not to
    their weights: as many again. The vision tower has no backward pass. What LoRA itself needs is left out.
    """
    vision = frames * tower_flops(sizes.vision, sizes.patch_tokens, causal=False)
    language = tower_flops(sizes.language, tokens, causal=True)
    head = 2 * sizes.language.width * sizes.vocabulary * answers
    return vision + 2 * (language + head)


def tower_flops(tower: "Tower", tokens: int, causal: bool) -> float:
    """Return the operations of a forward pass: the linear layers, and attention between all pairs of tokens."""
    attention = 4 * tower.layers * tower.width * tokens**2
    return 2 * tower.linear_parameters * tokens + attention / (2 if causal else 1)


def matrix_speed(device: str) -> float:
    """Return the operations a second of a large matrix product in bfloat16."""
    import torch

    kind = torch.device(device).type
    if kind not in MATRIX:
        raise UserError(f"--device {device}: only CPUs and CUDA GPUs are measured")
    side = MATRIX[kind]
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        product = left @ right
        product[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


if __name__ == "__main__":
    run(main)
