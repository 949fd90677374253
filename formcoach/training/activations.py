"""What a training step holds for a while: the inputs, what the backward pass needs, and the logits."""

import math
from dataclasses import dataclass

from formcoach.models.sizes import ModelSizes, Tower
from formcoach.training.workload import (
    FP32,
    FROZEN,
    FULL,
    HALF,
    LORA,
    Workload,
    pass_answers,
    pass_clips,
    pass_tokens,
)

# Of a logit: its log-probability, and the gradients of that and of itself, all float32. What comes before and after, in
# half precision, is not there at the same time (measured).
LOGIT_BYTES = 12
# Measured as well: for a token and an inner channel of the feed-forward part, the gradients in its backward pass; for a
# pair of tokens and a head, those of attention weights; for a pixel of a frame's side, what oneDNN's convolution in
# bfloat16 takes, for few frames as for many.
GRADIENT_BYTES = 10
EAGER_GRADIENT_BYTES = 6
CONVOLUTION_BYTES = 463_000


@dataclass(frozen=True)
class Stack:
    """What a tower's layers hold, in bytes.

    Args:
        inputs: of the layers that are computed again in the backward pass.
        kept: all that the backward pass needs of the other layers.
        again: the same of a layer that is computed again, while that is done; 0 if there is none.
        backward: gradients, while a layer's backward pass is computed.
    """

    inputs: float = 0
    kept: float = 0
    again: float = 0
    backward: float = 0

    @property
    def total(self) -> float:
        """Between the forward and the backward pass."""
        return self.inputs + self.kept


def activations(sizes: ModelSizes, work: Workload, trained: float) -> tuple[float, float]:
    """Return the peak of what a training step holds for a while, and the logits' share of it.

    The step's phases follow one another: the vision tower, the loss, then the backward passes of the language model,
    whose last layers are through before a layer is computed again, and of the vision tower.

    Args:
        sizes: of the model.
        work: what is trained, and how.
        trained: how many weights are.
    """
    logits = pass_answers(sizes, work) * sizes.vocabulary * LOGIT_BYTES
    vision, language = _vision(sizes, work), _language(sizes, work)
    dequantised = sizes.language.largest_layer * work.number_bytes if work.quantization is not None else 0
    held = vision.total + language.total
    seeing = vision.total + _while_seeing(sizes, work)
    loss = held + max(logits, dequantised)
    backward = max(
        held + max(language.backward + dequantised, _head_gradient(sizes, work)),
        vision.total + language.inputs + language.again + language.backward + dequantised,
        vision.total + vision.backward,
        vision.inputs + vision.again + vision.backward,
    )
    copies = _copies(work, trained)
    # Autocast makes its copies when they are needed and drops them after the forward pass, but for those that the
    # backward pass needs.
    first, left = (copies, copies) if work.zero else (0, copies * (1 - work.recompute))
    return _inputs(sizes, work) + max(first + seeing, copies + loss, left + backward), logits


def _inputs(sizes: ModelSizes, work: Workload) -> float:
    """Return the bytes of the clips, as pixels or as what the vision tower has made of them, and of the mask."""
    frames = pass_clips(sizes, work) * work.frames
    mask = pass_tokens(sizes, work) ** 2 if _masked(sizes, work) else 0
    if work.feature_cache:
        return mask + frames * sizes.frame_tokens * sizes.merged_channels * work.number_bytes
    return mask + frames * 3 * sizes.image_size**2 * FP32


def _copies(work: Workload, trained: float) -> float:
    """Return the bytes of the trained weights in half precision: autocast's copies, under DeepSpeed the model's own."""
    return trained * HALF / work.sharing(3) if work.number_bytes == HALF else 0


def _vision(sizes: ModelSizes, work: Workload) -> Stack:
    if work.vision == FROZEN:
        return Stack()
    patches = pass_clips(sizes, work) * work.frames * sizes.patch_tokens
    return _stack(sizes.vision, patches, work.vision, work)


def _language(sizes: ModelSizes, work: Workload) -> Stack:
    """Return what the language model keeps; also where it is frozen, for gradients go through it."""
    tower = sizes.language
    stack = _stack(tower, pass_tokens(sizes, work), work.language, work)
    kept, backward = _attention(sizes, work)
    again = _recomputed(tower, work)
    return Stack(
        stack.inputs,
        stack.kept + (tower.layers - again) * kept,
        stack.again + (kept if again else 0),
        max(stack.backward, backward),
    )


def _attention(sizes: ModelSizes, work: Workload) -> tuple[float, float]:
    """Return what grows with the square of the tokens: what a layer keeps, and what its backward pass needs besides."""
    rows = pass_clips(sizes, work) if work.pack_length is None else 1
    pairs = pass_tokens(sizes, work) ** 2 / rows
    if work.attention == "eager":
        weights = sizes.language.heads * pairs
        return weights * (
            FP32 + work.number_bytes
        ), weights * EAGER_GRADIENT_BYTES  # as softmax makes them, and as used
    return (pairs * work.number_bytes if _masked(sizes, work) else 0), 0


def _masked(sizes: ModelSizes, work: Workload) -> bool:
    """Tell whether attention gets a matrix of which token sees which: where samples share a row or are padded."""
    return work.attention == "sdpa" and (work.pack_length is not None or pass_clips(sizes, work) > 1)


def _stack(tower: Tower, tokens: int, mode: str, work: Workload) -> Stack:
    again = _recomputed(tower, work)
    saved = _saved(tower, mode, work)
    # A tower that is trained in full adds up in float32, but for DeepSpeed's.
    between = FP32 if mode == FULL and not work.zero else work.number_bytes
    return Stack(
        again * tokens * tower.width * between,
        (tower.layers - again) * tokens * saved,
        tokens * saved if again else 0,
        tokens * tower.mlp * GRADIENT_BYTES,
    )


def _recomputed(tower: Tower, work: Workload) -> int:
    """Return how many layers are computed again; see `formcoach.training.recompute`."""
    return math.ceil(work.recompute * tower.layers - 1e-9)


def _saved(tower: Tower, mode: str, work: Workload) -> float:
    """Return the bytes of a token that the backward pass of one layer needs.

    That is the inputs of both norms (in float32), of the trained matrices, queries, keys, values and result of the
    attention, and what lies between the feed-forward part's matrices. In half precision, LoRA has a copy of its input
    for each matrix; full training needs what both norms scale.
    """
    norms = 2 * tower.width * FP32
    copied = mode == LORA and work.number_bytes == HALF
    shared = {FROZEN: 0, LORA: 2 * tower.width + tower.mlp, FULL: 4 * tower.width + tower.mlp}
    trained = (len(tower.linear_shapes) - 1) * tower.width + tower.mlp if copied else shared[mode]
    attention = 2 * tower.width + 2 * tower.key_values
    feed_forward = (3 if tower.gated else 1) * tower.mlp
    return norms + (trained + attention + feed_forward) * work.number_bytes


def _while_seeing(sizes: ModelSizes, work: Workload) -> float:
    """Return what the vision tower holds while it computes one layer, or while its tokens are merged."""
    if work.feature_cache:
        return 0
    frames = pass_clips(sizes, work) * work.frames
    on_cpu = not work.cuda and work.number_bytes == HALF
    patches = sizes.image_size * CONVOLUTION_BYTES if on_cpu else 0
    layer = frames * sizes.patch_tokens * (4 * sizes.vision.width + 2 * sizes.vision.mlp) * work.number_bytes
    merging = frames * sizes.merged_tokens * sizes.merged_channels * (work.number_bytes + FP32)
    return max(patches, layer, merging)


def _head_gradient(sizes: ModelSizes, work: Workload) -> float:
    """Return what the gradient of a head that is trained takes, until it is added to those before."""
    if work.language != FULL:
        return 0
    return sizes.vocabulary * sizes.language.width * (FP32 + (HALF if work.number_bytes == HALF else 0))
