"""Estimate the memory of a training, and what fits on which GPU; nothing is downloaded or loaded."""

from collections.abc import Sequence
from dataclasses import replace

from formcoach.command import command_parser, positive, run
from formcoach.inference.options import add_flag
from formcoach.models import LARGE, sizes_for
from formcoach.models.sizes import ModelSizes
from formcoach.training.memory import CARDS, GB, Estimate, Workload, estimate, largest_micro_batch, sample_tokens

COLUMNS = ("weights", "adapter", "gradients", "optimizer", "activations", "overhead")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__, "python utils/estimate_memory.py --max_num_frames 16 --micro-batch-size 2")
    parser.add_argument(
        "--model", default=LARGE, metavar="NAME", help="hub id, folder or `tiny` (default: %(default)s)"
    )
    add_flag(parser, "--max_num_frames", type=positive, default=8, metavar="N", help="of a clip (default: %(default)s)")
    parser.add_argument(
        "--micro-batch-size", "--mirco-batch-size", type=positive, default=1, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--text-tokens",
        type=positive,
        default=300,
        metavar="N",
        help="of the longest sample without its frames: system message, question, answer (default: %(default)s)",
    )
    parser.add_argument("--lora-rank", type=positive, default=16, metavar="N", help="default: %(default)s")
    parser.add_argument("--lora-vit", action="store_true", help="adapters on the vision tower too")
    parser.add_argument("--cpu", action="store_true", help="training on the CPU: memory of the host instead of the GPU")
    args = parser.parse_args(argv)

    sizes = sizes_for(args.model)
    work = Workload(
        frames=args.max_num_frames + -args.max_num_frames % 4,
        micro_batch_size=args.micro_batch_size,
        text_tokens=args.text_tokens,
        lora_rank=args.lora_rank,
        lora_vit=args.lora_vit,
        cuda=not args.cpu,
    )
    _print(args.model, sizes, work)
    return 0


def _print(model: str, sizes: ModelSizes, work: Workload) -> None:
    """Print the parts for each way to hold the base, and the largest micro batch for each GPU."""
    clips = f"{work.micro_batch_size} clips" if work.micro_batch_size > 1 else "1 clip"
    print(f"{model}: {sizes.parameters / 1e9:.2f} billion parameters")
    print(
        f"{clips} of {work.frames} frames and {sample_tokens(sizes, work)} tokens, LoRA rank {work.lora_rank}"
        f"{' on language model and vision tower' if work.lora_vit else ''}, the connector trained\n"
    )
    ways = {
        f"{quantization or 'bf16'}{'' if checkpointing else ', kept'}": replace(
            work, quantization=quantization, checkpointing=checkpointing
        )
        for quantization in ("nf4", "int8", None)
        for checkpointing in (True, False)
    }
    where = "GPU" if work.cuda else "host"
    print(f"{where + ' memory, GB':<16}" + "".join(f"{name:>13}" for name in (*COLUMNS, "peak")))
    for name, way in ways.items():
        print(f"{name:<16}" + _parts(estimate(sizes, way)))
    logits = estimate(sizes, work).logits
    print(f"\nkept: activations are kept instead of computed again (--selective-recompute 0); logits {_gb(logits)} GB")
    if not work.cuda:
        return
    print(f"\n{'largest micro batch':<20}" + "".join(f"{card:>6} GB" for card in CARDS))
    for name, way in ways.items():
        fits = (largest_micro_batch(sizes, way, card * GB) for card in CARDS)
        print(f"{name:<20}" + "".join(f"{most or '-':>9}" for most in fits))


def _parts(estimated: Estimate) -> str:
    values = [vars(estimated)[name] for name in COLUMNS]
    return "".join(f"{_gb(value):>13}" for value in (*values, estimated.total))


def _gb(count: float) -> str:
    return f"{count / GB:.2f}"


if __name__ == "__main__":
    run(main)
