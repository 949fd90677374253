"""Trainings of narrow models in one forward pass: what PyTorch's allocator counts, and what the estimator is told."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from formcoach.data.collate import NO_LOSS, TrainingCollator
from formcoach.models import family_of, load_model
from formcoach.models.adapters import add_lora
from formcoach.training.answer_loss import token_losses
from formcoach.training.answer_rows import last_layer
from formcoach.training.lora_products import scale_inside
from formcoach.training.recompute import recompute
from formcoach.training.trainable import attend_by_sample, leave_casts_to_autocast
from formcoach.training.workload import FP32, FROZEN, FULL, HALF, LORA, Workload


@dataclass(frozen=True)
class Trained:
    """A training of a narrow model in one forward pass, in the words of `Workload`."""

    frames: int = 8
    words: int = 20
    answers: int = 2
    clips: int = 1
    packed: bool = False
    language: str = LORA
    vision: str = FROZEN
    connector: bool = True
    recompute: float = 1.0
    feature_cache: bool = False
    attention: str = "sdpa"
    dtype: str = "bfloat16"


def measure(folder, trained):
    """Return the bytes that a training step holds for a while, and its batch."""
    model, processor = load(folder, trained)
    batch = clips(model, processor, trained)
    last = last_layer(model, family_of(folder))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=trained.dtype == "bfloat16"):
            losses, _ = token_losses(model, batch, last)
            loss = losses.sum()
            del losses
        loss.backward()

    inputs = sum(value.nbytes for value in batch.values() if torch.is_tensor(value) and value.is_floating_point())
    return allocated(step) + inputs, batch


def allocated(step):
    """Return the most bytes that a step holds beyond what was held before it, as PyTorch's allocator counts them."""
    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    events = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return held.max()


def load(folder, trained):
    """Return the model as the trainer prepares it, and its processor."""
    base, processor = load_model(folder, dtype=trained.dtype, device="cpu", attention=trained.attention)
    family = family_of(folder)
    attend_by_sample(base, family)
    model = add_lora(
        base,
        family,
        str(folder),
        rank=16,
        alpha=32,
        train_language=trained.language != FROZEN,
        train_connector=trained.connector,
        train_vit=trained.vision != FROZEN,
        language_in_full=trained.language == FULL,
        vit_in_full=trained.vision == FULL,
    )
    scale_inside(model)
    recompute(model, family, trained.recompute)
    leave_casts_to_autocast(model)
    return model.train(), processor


def clips(model, processor, trained):
    """Return the inputs of one forward pass."""
    question, answer = "Well?" + " squat" * trained.words, "x" + " squat" * trained.answers
    side = processor.settings.image_size
    one = processor(np.zeros((trained.frames, side, side, 3), np.uint8), question, 4.8, answer=answer)
    visual = {"pixel_values": one["pixel_values"]}
    if trained.feature_cache:
        with torch.no_grad():
            visual = model.get_base_model().frozen_features(one["pixel_values"])
    item = {"input_ids": one["input_ids"][0], "labels": one["labels"][0], "id": "clip", **visual}
    batch = TrainingCollator(0, trained.packed)([item] * trained.clips)
    return {name: value for name, value in batch.items() if name not in ("ids",)}


def workload(sizes, batch, trained):
    """Return the same training as the estimator sees it."""
    tokens = batch["input_ids"].numel()
    return Workload(
        frames=trained.frames,
        micro_batch_size=trained.clips,
        text_tokens=tokens // trained.clips - sizes.clip_tokens(trained.frames),
        answer_tokens=int((batch["labels"] != NO_LOSS).sum()) // trained.clips,
        pack_length=tokens if trained.packed else None,
        language=trained.language,
        vision=trained.vision,
        train_connector=trained.connector,
        recompute=trained.recompute,
        feature_cache=trained.feature_cache,
        attention=trained.attention,
        number_bytes=HALF if trained.dtype == "bfloat16" else FP32,
        cuda=False,
    )
