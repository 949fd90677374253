"""How a model was trained and how it scored, from its run directory, as far as others may know."""

import filecmp
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from formcoach.errors import UserError
from formcoach.evaluation.scores import Difference
from formcoach.files import read_json
from formcoach.models.location import ADAPTER_WEIGHTS, RUN_SETTINGS, is_adapter, is_last, resolve_checkpoint
from formcoach.training.run_directory import RunDescription, checkpoint_at, checkpoints, read_description

SCORES = Path("evaluation") / "scores.json"

_KNOWN_NAMES = re.compile(
    r"qevd_fit_300k_(train|val|test)\.jsonl|qved_(train|val|test)\.json|diy_ft_data(_val)?\.json"
)  # others may tell of people


class ModelScores(msgspec.Struct, frozen=True):
    """What `scores.json` says of one model; shares are in 0..1, intervals cover 95 %."""

    clips: int
    failed: int = 0
    exercise_match: float | None = None
    fault_match: float | None = None
    fault_f1: float | None = None
    meteor: float | None = None
    rouge_l: float | None = None
    similarity: float | None = None
    judge: float | None = None
    intervals: dict[str, tuple[float, float]] = {}


class RunScores(msgspec.Struct, frozen=True):
    """`scores.json` of a run: its base and what it trained, on the same clips."""

    tuned: ModelScores
    base: ModelScores | None = None
    differences: dict[str, Difference] = {}
    notes: list[str] = []

    @property
    def models(self) -> list[ModelScores]:
        """The scores that there are, those of what was trained last."""
        return [self.base, self.tuned] if self.base else [self.tuned]


@dataclass(frozen=True)
class Origin:
    """Where a model comes from.

    Args:
        description: of the run.
        step: optimizer steps behind the checkpoint.
        scores: of the checkpoint; None: it was not evaluated.
        stale: whether there are scores, but older than the checkpoint, so that they may be another's.
    """

    description: RunDescription
    step: int | None
    scores: RunScores | None
    stale: bool = False

    def data(self) -> list[tuple[str, str]]:
        """Return (file, SHA-256) of what was learned from; a name that is not the usual one is not told."""
        files = ((Path(path), digest) for path, digest in self.description.data.items())
        return sorted(
            (file.name if _KNOWN_NAMES.fullmatch(file.name) else f"another {file.suffix} file", digest)
            for file, digest in files
        )

    def settings(self) -> list[tuple[str, str]]:
        """Return (name, value) of the settings that matter to others; none of them is a path."""
        resolved = self.description.resolved
        step = None if self.step is None else f"{self.step} of {resolved.get('steps')}"
        shown = [(title, self.description.settings.get(name)) for name, title in _titles(self.description.settings)]
        clips = [
            (title, resolved.get(name) or None)
            for name, title in (("training_samples", "training clips"), ("validation_samples", "validation clips"))
        ]
        rows = [*shown, *clips, ("optimizer steps", step), ("computed on", resolved.get("device"))]
        return [
            (title, f"{value:g}" if isinstance(value, float) else str(value))
            for title, value in rows
            if value is not None
        ]


def find_origin(folder: Path, run: Path | None) -> Origin | None:
    """Return where a model comes from; None: nobody says.

    Args:
        folder: the model's: a checkpoint in its run directory, or one that left it.
        run: the run directory of one that left it.

    Raises:
        UserError: `run` is not the model's, or something in it is damaged.
    """
    if run is not None and not (run / RUN_SETTINGS).is_file():
        raise UserError(f"--run {run}: is no run directory, for it has no {RUN_SETTINGS}; name another")
    if (folder.parent / RUN_SETTINGS).is_file():
        if run is not None and not run.samefile(folder.parent):
            raise UserError(f"--run {run}: {folder} is of the run {folder.parent}; leave the flag out")
        checkpoint = folder
    elif run is None:
        return None
    elif is_adapter(folder):
        checkpoint = _same_adapter(folder, run)
    else:
        checkpoint = resolve_checkpoint(run)
    description, found = read_description(checkpoint.parent), checkpoint_at(checkpoint)
    return Origin(description, found.step if found is not None else None, *_scores(checkpoint))


def _same_adapter(folder: Path, run: Path) -> Path:
    """Return the run's checkpoint that an exported adapter is a copy of."""
    for checkpoint in checkpoints(run):
        if _same_weights(checkpoint.folder, folder):
            return checkpoint.folder
    raise UserError(f"--run {run}: none of its checkpoints is the adapter in {folder}; name the run that it comes from")


def _same_weights(one: Path, other: Path) -> bool:
    return filecmp.cmp(one / ADAPTER_WEIGHTS, other / ADAPTER_WEIGHTS, shallow=False)


def _scores(checkpoint: Path) -> tuple[RunScores | None, bool]:
    """Return the scores of a checkpoint, or whether there are some that may be of another one."""
    own = checkpoint.parent / SCORES.parent / checkpoint.name / SCORES.name
    whole, chosen = checkpoint.parent / SCORES, resolve_checkpoint(checkpoint.parent)
    is_chosen = chosen == checkpoint or (is_last(checkpoint.name) and _same_weights(chosen, checkpoint))
    path = own if own.is_file() else whole if is_chosen else None
    if path is None or not path.is_file():
        return None, False
    if path.stat().st_mtime < (checkpoint / ADAPTER_WEIGHTS).stat().st_mtime:
        return None, True
    remedy = "Run scripts/run_inference.sh again, or remove it."
    try:
        return msgspec.convert(read_json(path, remedy), RunScores), False
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}. {remedy}") from None


def _titles(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (setting, its name for readers) of what took part in a training."""
    lora = [("lora_rank", "LoRA rank"), ("lora_alpha", "LoRA alpha"), ("lora_dropout", "LoRA dropout")]
    rates = [("lr", "learning rate"), ("connector_lr", "learning rate of the connector")]
    if not settings.get("freeze_vit") or settings.get("lora_vit"):
        rates.append(("vit_lr", "learning rate of the vision tower"))
    return [
        *([] if settings.get("no_lora") else lora),
        ("quantization", "quantisation of the base"),
        ("dtype", "numbers of the base"),
        ("epochs", "epochs"),
        ("global_batch_size", "clips in a step"),
        *rates,
        ("lr_min", "learning rate at the end"),
        ("warmup_ratio", "warm-up, share of the steps"),
        ("weight_decay", "weight decay"),
        ("max_grad_norm", "largest norm of the gradients"),
        ("min_frames", "fewest frames of a clip"),
        ("max_frames", "most frames of a clip"),
        ("max_length", "most tokens of a sample"),
        ("seed", "seed"),
    ]
