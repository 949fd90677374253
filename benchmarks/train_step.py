"""A training step of a mid-size InternVideo2.5 against the plain recipe: seconds a sample, peak memory, loss.

Only the loop is measured; models and clips are loaded before. The plain recipe computes logits at every position and
runs the frozen vision tower in each step. Weights are random, and samples are made of noise.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import describe_machine
from real_size import anonymous_memory

from formcoach.command import command_parser, positive, run
from formcoach.models.internvideo import INTERNVIDEO

if TYPE_CHECKING:
    import torch

    from formcoach.config import TrainingConfig

PLAIN, OURS, CACHED = "plain recipe", "answer positions", "feature cache"
LESS = ", 0.6"  # of the layers are computed again
ANSWERS = "logits and last layer at answer positions, --attn auto"
SWITCHES = {
    PLAIN: "logits at all positions, vision tower in each step, transformers' sdpa, --selective-recompute 1",
    OURS: f"{ANSWERS}, vision tower in each step, --selective-recompute 1",
    CACHED: f"{ANSWERS}, visual tokens from --feature-cache, --selective-recompute 1",
    OURS + LESS: f"{ANSWERS}, vision tower in each step, --selective-recompute 0.6",
    CACHED + LESS: f"{ANSWERS}, visual tokens from --feature-cache, --selective-recompute 0.6",
}
QUESTION = "Please evaluate the exercise form shown. What mistakes, if any, are present, and what would you recommend?"
ANSWER_TOKENS = (10, 40)
SAMPLES = 4  # one optimizer step, each in a forward pass of its own
MIXED = 8  # samples of different lengths in one forward pass
POLL_SECONDS = 0.002
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = command_parser(__doc__, "python benchmarks/train_step.py --dtype bf16 --rounds 5")
    parser.add_argument("--dtype", choices=(*DTYPES, "both"), default="both", help="default: %(default)s")
    parser.add_argument("--rounds", type=positive, default=5, metavar="N", help="the best counts (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="a model of a few layers: does it run?")
    parser.add_argument("--memory-of", choices=tuple(SWITCHES), help="print one variant's peak memory, and no more")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="the random model (default: a temporary one)")
    args = parser.parse_args(argv)
    if args.memory_of:
        print(json.dumps(peak_of(args.memory_of, args.checkpoint, args.dtype, args.device)))
        return 0
    from formcoach.models import Precision

    device = Precision(device=args.device).torch_device()
    print(describe_machine(device))
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = args.checkpoint or Path(folder) / "model"
        if not checkpoint.exists():
            write_model(checkpoint, args.small)
        for dtype in DTYPES if args.dtype == "both" else (args.dtype,):
            compare(checkpoint, dtype, device, args.rounds)
            compare_packing(checkpoint, dtype, device, args.rounds)
    return 0


def write_model(folder: Path, small: bool) -> None:
    """Write the random model: ViT 6 x 384 at 224 pixels, language model 8 x 768, vocabulary 92,553."""
    from msgspec.structs import replace

    from formcoach.models.internvideo.original import PUBLISHED_8B
    from formcoach.models.internvideo.random_checkpoint import write_random_checkpoint

    vision = replace(
        PUBLISHED_8B.vision_config,
        hidden_size=384,
        num_hidden_layers=1 if small else 6,
        num_attention_heads=6,
        intermediate_size=1536,
        image_size=224,
    )
    language = replace(
        PUBLISHED_8B.llm_config,
        vocab_size=2000 if small else PUBLISHED_8B.llm_config.vocab_size,
        hidden_size=768,
        num_hidden_layers=1 if small else 8,
        num_attention_heads=12,
        num_key_value_heads=4,
        intermediate_size=2048,
    )
    write_random_checkpoint(
        folder, replace(PUBLISHED_8B, vision_config=vision, llm_config=language, force_image_size=224)
    )


def load(variant: str, checkpoint: Path, dtype: str, device: str) -> tuple[Any, Any]:
    """Return the model with LoRA rank 16 and its connector trained, as the trainer loads it, and its processor."""
    import argparse
    from dataclasses import replace

    import torch

    from formcoach.config import Defaults, Recipe, resolve
    from formcoach.training.flags import add_training_flags
    from formcoach.training.trainable import load_trainable

    parser = argparse.ArgumentParser()
    add_training_flags(parser)
    share = "0.6" if variant.endswith(LESS) else "1"
    flags = ["--freeze-vit", "--deepspeed", "none", "--selective-recompute", share]
    defaults = Defaults(str(checkpoint), Recipe(), datasets="none.json", work_dir="none")
    config = replace(resolve(parser.parse_args(flags), defaults, None), dtype=DTYPES[dtype])
    torch.manual_seed(0)
    model, processor = load_plain(config, device) if variant == PLAIN else load_trainable(config, device)
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()  # mapped weights would not count as memory
    return model.train(), processor


def load_plain(config: "TrainingConfig", device: str) -> tuple[Any, Any]:
    """Return the same as transformers and PEFT make it, all layers of the language model checkpointed."""
    from formcoach.models import load_model
    from formcoach.training.answer_rows import tower_layers
    from formcoach.training.trainable import trainable

    base, processor = load_model(config.model, config.dtype, device=device, attention="sdpa")
    processor.min_frames, processor.max_frames = config.min_frames, config.max_frames
    model = trainable(base, INTERNVIDEO, config)
    model.activation_checkpointing_enable({"use_reentrant": False})
    for layer in tower_layers(model, INTERNVIDEO.vision):
        layer.gradient_checkpointing = False
    return model, processor


def samples(processor: Any, count: int, frames: Sequence[int]) -> list[dict[str, "torch.Tensor"]]:
    """Return items as the training's dataset has them: noise, and answers of 10 to 40 tokens."""
    import numpy as np

    generator = np.random.default_rng(0)
    side = processor.settings.image_size
    made = []
    for number in range(count):
        shown = frames[number % len(frames)]
        clip = generator.integers(0, 256, (shown, side, side, 3), dtype=np.uint8)
        wanted = ANSWER_TOKENS[0] + (ANSWER_TOKENS[1] - ANSWER_TOKENS[0]) * number // max(count - 1, 1)
        ids, labels = processor.text_inputs(QUESTION, shown, 4.8, answer_of(processor, wanted))
        made.append({"input_ids": ids, "labels": labels, **processor.visual_inputs(clip), "id": str(number)})
    return made


def answer_of(processor: Any, tokens: int) -> str:
    """Return an answer of so many tokens, the closing one included."""
    words = "squats - knees caving in, push your knees out over your toes, and keep your heels on the floor"
    text = words * 4
    while len(processor.tokenizer(text, add_special_tokens=False).input_ids) >= tokens:
        text = text[:-1]
    return text.strip()


def batch_of(variant: str, model: Any, items: list[Any], device: str, packed: bool = False) -> dict[str, Any]:
    """Return a forward pass's batch on the device, with visual tokens in place of pixels where they are cached."""
    import torch

    from formcoach.data.collate import TrainingCollator

    if variant.startswith(CACHED):
        with torch.no_grad(), autocast(model):
            for item in items:
                item.update(model.get_base_model().frozen_features(item.pop("pixel_values").to(device)))
    batch = TrainingCollator(0, packed)(items)
    return {name: value if name == "lengths" else value.to(device) for name, value in batch.items() if name != "ids"}


def autocast(model: Any) -> Any:
    """Return the context that half precision is computed in."""
    import torch

    dtype = next(model.parameters()).dtype
    return torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def losses_of(variant: str, model: Any, batch: dict[str, Any], last: Any) -> "torch.Tensor":
    """Return the sum of a forward pass's losses; `last` is the language model's last layer."""
    from formcoach.training.answer_loss import token_losses

    with autocast(model):
        if variant != PLAIN:
            return token_losses(model, batch, last)[0].sum()
        arguments = {name: value for name, value in batch.items() if name not in ("columns", "lengths")}
        answers = (batch["labels"] != -100).sum()
        return model(**arguments, use_cache=False).loss * answers


def step_of(variant: str, model: Any, batches: list[Any]) -> Callable[[], float]:
    """Return a function that takes an optimizer step and returns the mean loss of an answer token."""
    import torch

    from formcoach.training.answer_rows import last_layer

    last = last_layer(model, INTERNVIDEO)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0)  # so that all rounds have the same loss
    answers = sum(int((batch["labels"] != -100).sum()) for batch in batches)

    def step() -> float:
        total = 0.0
        for batch in batches:
            loss = losses_of(variant, model, batch, last) / answers
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def best_seconds(steps: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return the shortest time of each step; they take turns, since machines change their speed."""
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def compare(checkpoint: Path, dtype: str, device: str, rounds: int) -> None:
    """Print time, memory and loss of the variants."""
    steps, losses = {}, {}
    for variant in SWITCHES:
        model, processor = load(variant, checkpoint, dtype, device)
        batches = [batch_of(variant, model, [item], device) for item in samples(processor, SAMPLES, [8])]
        steps[variant] = step_of(variant, model, batches)
        losses[variant] = steps[variant]()
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    seconds = best_seconds(steps, rounds)
    peaks = {variant: memory_of(variant, checkpoint, dtype, device) for variant in SWITCHES}
    print(f"\n{dtype}, micro batch 1, 8 frames, {min(lengths)} to {max(lengths)} tokens a sample")
    print(f"{'':<22}{'ms a sample':>12}{'ratio':>8}{'peak GB':>9}{'ratio':>8}{'loss':>10}")
    for variant, switches in SWITCHES.items():
        row = f"{variant:<22}{seconds[variant] / SAMPLES * 1000:>12.0f}{seconds[PLAIN] / seconds[variant]:>7.2f}x"
        row += f"{peaks[variant] / 1e9:>9.2f}{peaks[variant] / peaks[PLAIN]:>7.2f}x{losses[variant]:>10.4f}"
        print(f"{row}  {switches}", flush=True)


def compare_packing(checkpoint: Path, dtype: str, device: str, rounds: int) -> None:
    """Print tokens a second with samples of mixed lengths padded, and in one row."""
    steps, tokens, attention = {}, 0, ""
    for packed in (False, True):
        model, processor = load(OURS, checkpoint, dtype, device)
        processor.min_frames, processor.max_frames = 4, 32
        items = samples(processor, MIXED, [4, 8, 16, 32])
        tokens = sum(len(item["input_ids"]) for item in items)
        batch = batch_of(CACHED, model, items, device, packed)
        steps["packed" if packed else "padded"] = step_of(CACHED, model, [batch])
        attention = model.get_base_model().model.language_model.config._attn_implementation
    seconds = best_seconds(steps, rounds)
    print(f"micro batch {MIXED}, {tokens} tokens in all, feature cache, attention {attention}:", end=" ")
    told = [f"{name} {tokens / seconds[name]:.0f} tokens/s" for name in steps]
    print(", ".join(told) + f" ({seconds['padded'] / seconds['packed']:.2f}x)", flush=True)


def memory_of(variant: str, checkpoint: Path, dtype: str, device: str) -> int:
    """Return a variant's peak memory, measured in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", variant, "--checkpoint", str(checkpoint)]
    command += ["--dtype", dtype, "--device", device]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak_of(variant: str, checkpoint: Path, dtype: str, device: str) -> int:
    """Return the most memory of weights and tensors during two optimizer steps.

    On a CPU it is what no file stands behind, less what Python and its libraries had before the loop.
    """
    model, processor = load(variant, checkpoint, dtype, device)
    on_gpu = device.startswith("cuda")
    weights = sum(parameter.nbytes for parameter in model.parameters())
    others = 0 if on_gpu else anonymous_memory() - weights
    batches = [batch_of(variant, model, [item], device) for item in samples(processor, 2, [8])]
    step = step_of(variant, model, batches)
    with watch(device) as peak:
        step()
        step()
    return peak[0] - others


@contextmanager
def watch(device: str) -> Iterator[list[int]]:
    """Yield a list whose only item is the peak memory, when the block has ended."""
    import torch

    peak = [0]
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak[0] = torch.cuda.max_memory_allocated()
        return
    done = threading.Event()

    def look() -> None:
        while not done.wait(POLL_SECONDS):
            peak[0] = max(peak[0], anonymous_memory())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    yield peak
    done.set()
    watcher.join()


if __name__ == "__main__":
    run(main)
