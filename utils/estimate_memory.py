"""Estimate the memory of a training, and what fits on which GPU; nothing is downloaded or loaded."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from formcoach.command import command_parser, positive, run
from formcoach.config import Recipe
from formcoach.errors import UserError
from formcoach.inference.options import add_flag
from formcoach.models import FAMILIES, family_of, recipe_for, sizes_for
from formcoach.models.family import Family
from formcoach.models.sizes import ModelSizes
from formcoach.training.memory import CARDS, GB, Estimate, estimate, largest_micro_batch, trained_weights
from formcoach.training.workload import (
    FROZEN,
    FULL,
    LORA,
    Workload,
    pass_answers,
    pass_clips,
    pass_tokens,
)

EXAMPLE = "python utils/estimate_memory.py --max_num_frames 16 --answer-tokens 60 --zero-stage 2 --offload"
RECIPE = "the model's recipe"
COLUMNS = ("weights", "adapter", "gradients", "optimizer", "activations", "overhead")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(__doc__, EXAMPLE)
    _add_data_flags(parser)
    _add_training_flags(parser)
    args = parser.parse_args(argv)
    sizes = sizes_for(args.model)
    _print(args.model, sizes, _workload(args, sizes, family_of(args.model), recipe_for(args.model)))
    return 0


def _add_data_flags(parser: argparse.ArgumentParser) -> None:
    large = FAMILIES[0].large
    parser.add_argument(
        "--model", default=large, metavar="NAME", help="hub id, folder or `tiny` (default: %(default)s)"
    )
    add_flag(parser, "--max_num_frames", type=positive, metavar="N", help=f"of a clip (default: {RECIPE})")
    add_flag(
        parser,
        "--text-tokens",
        type=positive,
        default=Workload.text_tokens,
        metavar="N",
        help="of the longest sample without its frames: system message, question, answer (default: %(default)s)",
    )
    add_flag(
        parser,
        "--answer-tokens",
        type=positive,
        default=Workload.answer_tokens,
        metavar="N",
        help="of them those of the answer (default: %(default)s)",
    )
    parser.add_argument(
        "--micro-batch-size", "--mirco-batch-size", type=positive, metavar="N", help=f"default: {RECIPE}"
    )
    add_flag(parser, "--pack-max-length", type=positive, metavar="N", help="of rows that are packed (--dset-pack)")
    parser.add_argument("--feature-cache", action="store_true", help="the vision tower's results come from the disk")


def _add_training_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lora-rank", type=positive, metavar="N", help=f"default: {RECIPE}")
    parser.add_argument("--lora-vit", action="store_true", help="LoRA on the vision tower too")
    parser.add_argument("--train-vit", action="store_true", help="the vision tower in full: without --freeze-vit")
    parser.add_argument("--no-lora", action="store_true", help="the language model in full instead of LoRA")
    add_flag(parser, "--zero-stage", type=int, choices=(0, 1, 2, 3), default=0, help="of DeepSpeed (0: none)")
    parser.add_argument("--processes", type=positive, default=1, metavar="N", help="GPUs (default: %(default)s)")
    parser.add_argument(
        "--offload", action="store_true", help="as zero2_offload.json and zero3_offload.json, by --zero-stage"
    )
    parser.add_argument("--cpu", action="store_true", help="training on the CPU: memory of the host instead of the GPU")


def _workload(args: argparse.Namespace, sizes: ModelSizes, family: Family, recipe: Recipe) -> Workload:
    """Return what the flags say, and the recipe where they say nothing.

    Raises:
        UserError: they contradict each other, or the model takes another number of frames only.
    """
    if args.offload and args.zero_stage < 2:
        raise UserError("--offload needs DeepSpeed: add --zero-stage 2 or --zero-stage 3")
    vision = LORA if args.lora_vit else FULL if args.train_vit else FROZEN
    if args.feature_cache and vision != FROZEN:
        raise UserError("--feature-cache needs a vision tower that does not change: drop --lora-vit and --train-vit")
    return Workload(
        frames=_frames(args.max_num_frames or recipe.max_frames, sizes, family),
        micro_batch_size=args.micro_batch_size or recipe.micro_batch_size,
        text_tokens=args.text_tokens,
        answer_tokens=min(args.answer_tokens, args.text_tokens),
        pack_length=args.pack_max_length,
        language=FULL if args.no_lora else LORA,
        vision=vision,
        lora_rank=args.lora_rank or recipe.lora_rank,
        feature_cache=args.feature_cache,
        zero=args.zero_stage,
        processes=args.processes,
        offload_optimizer=args.offload,
        offload_parameters=args.offload and args.zero_stage == 3,
        cuda=not args.cpu,
    )


def _frames(wanted: int, sizes: ModelSizes, family: Family) -> int:
    """Return the frames of a clip in whole groups.

    Raises:
        UserError: the model takes another number of frames only.
    """
    group = sizes.frame_group
    if not family.free_frames and wanted != group:
        raise UserError(
            f"--max_num_frames {wanted}: {family.name} looks at {group} frames of each clip, no more and no fewer; "
            "leave it out"
        )
    return wanted + -wanted % group


def _print(model: str, sizes: ModelSizes, work: Workload) -> None:
    """Print the parts for each way to hold the base, and the largest micro batch for each GPU."""
    print(f"{model}: {sizes.parameters / 1e9:.2f} billion parameters, {_trained(sizes, work)}")
    clips = pass_clips(sizes, work)
    print(
        f"{clips} clip{'s' if clips > 1 else ''} of {work.frames} frames in a forward pass, {pass_tokens(sizes, work)} "
        f"tokens, {pass_answers(sizes, work)} of them in answers\n"
    )
    ways = _ways(work)
    where = "GPU" if work.cuda else "host"
    print(f"{where + ' memory, GB':<16}" + "".join(f"{name:>13}" for name in (*COLUMNS, "peak")))
    for name, way in ways.items():
        print(f"{name:<16}" + _parts(estimate(sizes, way)))
    estimated = estimate(sizes, next(iter(ways.values())))
    print(
        f"\nkept: activations are kept instead of computed again (--selective-recompute 0); "
        f"logits {_gb(estimated.logits)} GB"
    )
    if estimated.host:
        hosts = ", ".join(f"{name} {_gb(estimate(sizes, way).host)}" for name, way in ways.items() if "," not in name)
        print(f"in the computer's memory, GB a process: {hosts}")
    if work.cuda and work.pack_length is None:
        _print_cards(sizes, ways)


def _ways(work: Workload) -> dict[str, Workload]:
    """Return the ways to hold the base; what is trained in full, or shared out by ZeRO-3, is not quantised."""
    kinds = (None,) if work.language == FULL or work.zero == 3 else ("nf4", "int8", None)
    return {
        f"{kind or 'bf16'}{'' if recompute else ', kept'}": replace(work, quantization=kind, recompute=recompute)
        for kind in kinds
        for recompute in (1.0, 0.0)
    }


def _print_cards(sizes: ModelSizes, ways: dict[str, Workload]) -> None:
    print(f"\n{'largest micro batch':<20}" + "".join(f"{card:>6} GB" for card in CARDS))
    for name, way in ways.items():
        fits = (largest_micro_batch(sizes, way, card * GB) for card in CARDS)
        print(f"{name:<20}" + "".join(f"{most or '-':>9}" for most in fits))


def _trained(sizes: ModelSizes, work: Workload) -> str:
    """Tell what is trained."""
    ways = {LORA: f"LoRA rank {work.lora_rank}", FULL: "all weights"}
    parts = [f"{ways[work.language]} of the language model"]
    parts += [f"{ways[work.vision]} of the vision tower"] if work.vision != FROZEN else []
    return f"{trained_weights(sizes, work) / 1e6:.1f} million trained: {', '.join([*parts, 'the connector'])}"


def _parts(estimated: Estimate) -> str:
    values = [vars(estimated)[name] for name in COLUMNS]
    return "".join(f"{_gb(value):>13}" for value in (*values, estimated.total))


def _gb(count: float) -> str:
    return f"{count / GB:.2f}"


if __name__ == "__main__":
    run(main)
