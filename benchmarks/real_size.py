"""Load a model at its true size, train it for a moment and let it answer: seconds and peak memory of each phase.

The weights are random, so nothing is downloaded; shapes, number formats and code are those of the published model.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import describe_machine

from formcoach.command import command_parser, run
from formcoach.errors import UserError
from formcoach.models.family import Family
from formcoach.models.internvideo import INTERNVIDEO
from formcoach.models.internvideo import original as internvideo
from formcoach.models.mobilevideogpt import MOBILEVIDEOGPT
from formcoach.models.mobilevideogpt import original as mobilevideogpt

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


def write_internvideo(folder: Path) -> None:
    """Write the 8B."""
    from formcoach.models.internvideo.random_checkpoint import write_random_checkpoint

    write_random_checkpoint(folder, internvideo.PUBLISHED_8B)


def write_mobilevideogpt(folder: Path) -> None:
    """Write the 0.5B."""
    from formcoach.models.mobilevideogpt.random_checkpoint import write_random_checkpoint

    write_random_checkpoint(folder, mobilevideogpt.PUBLISHED_05B)


def whole_loss(model: Any, sample: Mapping[str, Any]) -> Any:
    """Return the loss as the model itself computes it, with logits of all tokens."""
    return model(**sample, use_cache=False).loss


def answer_loss(model: Any, sample: Mapping[str, Any]) -> Any:
    """Return the loss as the trainer computes it, with logits of the answer: all would be most of the memory here."""
    from formcoach.data.collate import TrainingCollator
    from formcoach.training.answer_loss import token_losses

    visual = {name: value for name, value in sample.items() if name not in ("input_ids", "attention_mask", "labels")}
    item = {"input_ids": sample["input_ids"][0], "labels": sample["labels"][0], "id": "noise", **visual}
    batch = TrainingCollator(0)([item])
    del batch["ids"]
    losses, counted = token_losses(model, batch)
    return losses.sum() / counted.sum()


def see_with_both_towers(model: Any, sample: Mapping[str, Any], measured: "Measured") -> None:
    """Take the steps of Mobile-VideoGPT's vision one by one."""
    import torch

    towers, connectors = model.model.vision_tower, model.model.multi_modal_projector
    with torch.inference_mode():
        frames, context = sample["pixel_values"].chunk(2)
        with measured.phase(f"CLIP, {len(context)} frames") as notes:
            patches = towers.see_images(context[None])
            notes.append(f"{patches.numel() // patches.shape[-1]} patches")
        with measured.phase("frame selection"):
            chosen = towers.pick(frames[None], patches)
        with measured.phase(f"VideoMamba, {chosen.shape[1]} frames") as notes:
            video = towers.see_video(chosen)
            notes.append(f"{video.numel() // video.shape[-1]} pooled tokens")
        with measured.phase("connectors") as notes:
            notes.append(f"{connectors(patches, video).shape[1]} visual tokens")


def see_in_training_only(_: Any, __: Mapping[str, Any], ___: "Measured") -> None:
    """Leave one tower's time to the training steps."""


@dataclass(frozen=True)
class Subject:
    """What is measured of a family.

    Args:
        family: the family; its large model is measured with its recipe.
        write: writes that with random weights.
        quantization: of it by default.
        see: takes the steps of its vision one by one.
        loss: of a sample.
        all_logits: whether that has logits of all tokens, not of the answer only.
        answer: tokens of the answer that it gives.
    """

    family: Family
    write: Callable[[Path], None]
    quantization: str
    see: Callable[[Any, Mapping[str, Any], "Measured"], None]
    loss: Callable[[Any, Mapping[str, Any]], Any]
    all_logits: bool
    answer: int

    @property
    def bytes(self) -> int:
        """Of its weights on the disk."""
        return 2 * self.family.published[self.family.large].parameters


LARGE = Subject(INTERNVIDEO, write_internvideo, "nf4", see_in_training_only, whole_loss, True, 16)
SMALL = Subject(MOBILEVIDEOGPT, write_mobilevideogpt, "none", see_with_both_towers, answer_loss, False, 32)
SUBJECTS = {subject.family.key: subject for subject in (LARGE, SMALL)}


@dataclass(frozen=True)
class Tokens:
    """Of the sample that was trained on.

    Args:
        total: all of them.
        logits: those that there were logits of.
    """

    total: int
    logits: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark."""
    parser = command_parser(__doc__, "python benchmarks/real_size.py --checkpoint /data/random_8b")
    sizes = ", ".join(f"{subject.bytes / 1e9:.1f} GB for {key}" for key, subject in SUBJECTS.items())
    parser.add_argument("--family", choices=SUBJECTS, default=LARGE.family.key, help="default: %(default)s")
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=Path,
        metavar="DIR",
        help=f"where the random checkpoint lies, or is written ({sizes}); an existing one is used as it is",
    )
    defaults = ", ".join(f"{subject.quantization} for {key}" for key, subject in SUBJECTS.items())
    parser.add_argument("--quantization", choices=("nf4", "int8", "none"), help=f"default: {defaults}")
    parser.add_argument("--frames", type=int, metavar="N", help="of the clip (default: the family's)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    args = parser.parse_args(argv)
    subject = SUBJECTS[args.family]
    family, recipe = subject.family, subject.family.recipe
    frames = recipe.max_frames if args.frames is None else args.frames
    if frames < family.frame_group or frames % family.frame_group:
        parser.error(f"--frames {frames}: is not a multiple of {family.frame_group}")
    if not family.free_frames and frames != family.frame_group:
        parser.error(f"--frames {frames}: {family.name} looks at {family.frame_group} frames")

    import torch

    from formcoach.models import Precision

    kind = args.quantization or subject.quantization
    device = Precision(device=args.device).torch_device()
    cuda = torch.device(device).type == "cuda"
    measured = Measured(cuda)
    print(describe_machine(device))
    what = "GPU memory in use" if cuda else "anonymous memory"
    weights = "bf16" if kind == "none" else kind
    print(f"{frames} frames of one clip, {weights}, LoRA rank {recipe.lora_rank} and the connector, peak: {what}\n")
    print(f"{'phase':<22}{'seconds':>9}{'peak GB':>9}")
    write_if_missing(args.checkpoint, measured, subject)
    quantization = None if kind == "none" else kind
    tokens = train_and_answer(subject, args.checkpoint, quantization, device, frames, measured)
    compare(subject, args.checkpoint, quantization, frames, tokens, cuda, measured.peak)
    return 0


def write_if_missing(folder: Path, measured: Measured, subject: Subject = LARGE) -> None:
    """Write the random checkpoint unless there is one."""
    if (folder / "config.json").is_file():
        return
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty and no checkpoint; name a new folder")
    import shutil

    needed = subject.bytes
    parent = next(parent for parent in folder.absolute().parents if parent.is_dir())
    if shutil.disk_usage(parent).free < needed * 1.01:
        raise UserError(f"{folder}: needs {needed / 1e9:.1f} GB; name a folder on a disk that has them free")
    with measured.phase("write the checkpoint") as notes:
        subject.write(folder)
        notes.append(f"{needed / 1e9:.1f} GB")


def train_and_answer(
    subject: Subject, folder: Path, quantization: str | None, device: str, frames: int, measured: Measured
) -> Tokens:
    """Load, train for two steps on one clip and answer; return the tokens of the sample."""
    import numpy as np
    import torch

    from formcoach.data.collate import NO_LOSS
    from formcoach.models import load_model
    from formcoach.models.adapters import add_lora

    recipe = subject.family.recipe
    with measured.phase("load"):
        base, processor = load_model(folder, "bfloat16", quantization, device)
        if quantization is None and device == "cpu":
            for parameter in base.parameters():
                parameter.data = parameter.data.clone()  # mapped weights would not count as memory
    side = processor.settings.image_size
    clip = np.random.default_rng(0).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    sample = processor(clip, QUESTION, SECONDS, answer=ANSWER).to(device)
    subject.see(base, sample, measured)
    with measured.phase("add adapters") as notes:
        torch.manual_seed(0)
        alpha = recipe.lora_alpha
        model = add_lora(base, subject.family, str(folder), rank=recipe.lora_rank, alpha=alpha).train()
        model.activation_checkpointing_enable({"use_reentrant": False})
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-4)
        notes.append(f"{sum(parameter.numel() for parameter in trained) / 1e6:.1f} million weights")
    for step in (1, 2):
        with measured.phase(f"training step {step}") as notes:
            loss = _step(subject, model, optimizer, sample, device)
            notes.append(f"loss {loss:.3f}")
    with measured.phase(f"answer, {subject.answer} tokens"), torch.inference_mode():
        prompt = processor(clip, QUESTION, SECONDS).to(device)
        long = {"max_new_tokens": subject.answer, "min_new_tokens": subject.answer}
        model.eval().generate(**prompt, **long, do_sample=False)
    total = sample["input_ids"].shape[1]
    return Tokens(total, total if subject.all_logits else int((sample["labels"] != NO_LOSS).sum()))


def _step(subject: Subject, model: Any, optimizer: Any, sample: Any, device: str) -> float:
    import torch

    with torch.autocast(torch.device(device).type, torch.bfloat16):
        loss = subject.loss(model, sample)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def compare(
    subject: Subject, folder: Path, quantization: str | None, frames: int, tokens: Tokens, cuda: bool, peak: int
) -> None:
    """Print what the estimator says for the same training, and how far it is off."""
    from formcoach.models import sizes_for
    from formcoach.training.memory import estimate
    from formcoach.training.workload import Workload

    sizes = sizes_for(folder)
    work = Workload(
        quantization=quantization,
        frames=frames,
        text_tokens=tokens.total - sizes.clip_tokens(frames),
        answer_tokens=tokens.logits,
        lora_rank=subject.family.recipe.lora_rank,
        cuda=cuda,
    )
    total = estimate(sizes, work).total
    print(
        f"\n{tokens.total} tokens; peak {peak / 1e9:.2f} GB, estimated {total / 1e9:.2f} GB "
        f"({(total - peak) / peak * 100:+.0f} %)"
    )


def _row(phase: Phase) -> str:
    return f"{phase.name:<22}{phase.seconds:>9.1f}{phase.peak / 1e9:>9.2f}  {phase.note}".rstrip()


if __name__ == "__main__":
    run(main)
