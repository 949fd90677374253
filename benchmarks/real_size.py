"""Load the 8B at its true size, train it for a moment and let it answer: seconds and peak memory of each phase.

The weights are random, so nothing is downloaded; shapes, number formats and code are those of the published model.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import describe_machine

from formcoach.command import command_parser, run
from formcoach.errors import UserError

QUESTION = "Please evaluate the exercise form shown. What mistakes, if any, are present, and what would you recommend?"
ANSWER = "squats - knees caving in, push your knees out over your toes"
SECONDS = 4.8
POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Phase:
    """One row of the table.

    Args:
        name: of the phase.
        seconds: it took.
        peak: bytes at its peak.
        note: what else there is to say.
    """

    name: str
    seconds: float
    peak: int
    note: str


class Measured:
    """Phases, and the memory at their peaks: of the GPU, or anonymous memory of this process.

    Args:
        cuda: which of both.
    """

    def __init__(self, cuda: bool) -> None:
        self.phases: list[Phase] = []
        self._cuda = cuda

    @contextmanager
    def phase(self, name: str) -> Iterator[list[str]]:
        """Measure the block; what it appends to the yielded list becomes the note."""
        notes: list[str] = []
        done, peak = threading.Event(), [self._used()]

        def watch() -> None:
            while not done.wait(POLL_SECONDS):
                peak.append(max(peak.pop(), self._used()))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        start = time.perf_counter()
        try:
            yield notes
            self._finish()
            seconds = time.perf_counter() - start
        finally:
            done.set()
            watcher.join()
        self.phases.append(Phase(name, seconds, max(*peak, self._used()), ", ".join(notes)))
        print(_row(self.phases[-1]), flush=True)

    @property
    def peak(self) -> int:
        """The highest of all phases."""
        return max(phase.peak for phase in self.phases)

    def _finish(self) -> None:
        if self._cuda:
            import torch

            torch.cuda.synchronize()

    def _used(self) -> int:
        if self._cuda:
            import torch

            free, total = torch.cuda.mem_get_info()
            return total - free
        return anonymous_memory()


def anonymous_memory() -> int:
    """Return the bytes of this process that no file stands behind, so that mapped weights do not count (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise UserError("this system does not tell anonymous memory; run it on Linux, or on a GPU")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = command_parser(__doc__, "python benchmarks/real_size.py --checkpoint /data/random_8b")
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="DIR",
        help="where the random checkpoint lies, or is written (16.2 GB); an existing one is used as it is",
    )
    parser.add_argument("--quantization", choices=("nf4", "int8", "none"), default="nf4", help="default: %(default)s")
    parser.add_argument("--frames", type=int, default=8, metavar="N", help="of the clip (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    args = parser.parse_args(argv)
    if args.frames < 4 or args.frames % 4:
        parser.error(f"--frames {args.frames}: is not a multiple of 4")

    import torch

    from formcoach.models import Precision

    quantization = None if args.quantization == "none" else args.quantization
    device = Precision(device=args.device).torch_device()
    cuda = torch.device(device).type == "cuda"
    measured = Measured(cuda)
    print(describe_machine(device))
    what = "GPU memory in use" if cuda else "anonymous memory"
    print(f"{args.frames} frames of one clip, {args.quantization}, LoRA rank 16 and the connector, peak: {what}\n")
    print(f"{'phase':<22}{'seconds':>9}{'peak GB':>9}")
    write_if_missing(args.checkpoint, measured)
    tokens = train_and_answer(args.checkpoint, quantization, device, args.frames, measured)
    compare(args.checkpoint, quantization, args.frames, tokens, cuda, measured.peak)
    return 0


def write_if_missing(folder: Path, measured: Measured) -> None:
    """Write the random checkpoint unless there is one."""
    if (folder / "config.json").is_file():
        return
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty and no checkpoint; name a new folder")
    import shutil

    from formcoach.models.internvideo.original import PUBLISHED_8B
    from formcoach.models.internvideo.random_checkpoint import write_random_checkpoint
    from formcoach.models.internvideo.sizes import sizes_of

    needed = 2 * sizes_of(PUBLISHED_8B).parameters
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    if shutil.disk_usage(parent).free < needed * 1.01:
        raise UserError(f"{folder}: needs {needed / 1e9:.1f} GB; name a folder on a disk that has them free")
    with measured.phase("write the checkpoint") as notes:
        write_random_checkpoint(folder, PUBLISHED_8B)
        notes.append(f"{needed / 1e9:.1f} GB")


def train_and_answer(
    folder: Path, quantization: str | None, device: str, frames: int, measured: Measured
) -> tuple[int, int]:
    """Load, train for two steps on one clip and answer; return the tokens of its text and of all of it."""
    import numpy as np
    import torch

    from formcoach.models import family_of, load_model
    from formcoach.models.adapters import add_lora

    with measured.phase("load"):
        base, processor = load_model(folder, "bfloat16", quantization, device)
    with measured.phase("add adapters") as notes:
        torch.manual_seed(0)
        model = add_lora(base, family_of(folder), str(folder), rank=16, alpha=32).train()
        model.activation_checkpointing_enable({"use_reentrant": False})
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
        notes.append(f"{sum(parameter.numel() for parameter in trained) / 1e6:.1f} million weights")
    side = processor.settings.image_size
    clip = np.random.default_rng(0).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    sample = processor(clip, QUESTION, SECONDS, answer=ANSWER).to(device)
    for step in (1, 2):
        with measured.phase(f"training step {step}") as notes:
            loss = _step(model, optimizer, sample, device)
            notes.append(f"loss {loss:.3f}")
    with measured.phase("answer, 16 tokens"), torch.inference_mode():
        prompt = processor(clip, QUESTION, SECONDS).to(device)
        model.eval().generate(**prompt, max_new_tokens=16, min_new_tokens=16, do_sample=False)
    tokens = sample["input_ids"].shape[1]
    return tokens - frames * processor.settings.tokens_per_frame, tokens


def _step(model: Any, optimizer: Any, sample: Any, device: str) -> float:
    import torch

    with torch.autocast(torch.device(device).type, torch.bfloat16):
        loss = model(**sample, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def compare(
    folder: Path, quantization: str | None, frames: int, tokens: tuple[int, int], cuda: bool, peak: int
) -> None:
    """Print what the estimator says for the same training, and how far it is off."""
    from formcoach.models import sizes_for
    from formcoach.training.memory import estimate
    from formcoach.training.workload import FRAME_WORDS, Workload

    text = tokens[0] - frames * FRAME_WORDS
    # The model itself computes the loss here, with logits of all tokens.
    work = Workload(quantization=quantization, frames=frames, text_tokens=text, answer_tokens=tokens[1], cuda=cuda)
    total = estimate(sizes_for(folder), work).total
    print(
        f"\n{tokens[1]} tokens; peak {peak / 1e9:.2f} GB, estimated {total / 1e9:.2f} GB "
        f"({(total - peak) / peak * 100:+.0f} %)"
    )


def _row(phase: Phase) -> str:
    return f"{phase.name:<22}{phase.seconds:>9.1f}{phase.peak / 1e9:>9.2f}  {phase.note}".rstrip()


if __name__ == "__main__":
    run(main)
