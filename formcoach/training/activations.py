"""What a training step holds for a while: the inputs, what the backward pass needs, and the logits."""

from dataclasses import dataclass, replace

from formcoach.models.sizes import Held, ModelSizes, Tower
from formcoach.training.workload import (
    FP32,
    FROZEN,
    FULL,
    HALF,
    LORA,
    Workload,
    pass_answers,
    pass_clips,
    pass_groups,
    pass_tokens,
    recomputed,
)

# Of a logit: its log-probability, and the gradients of that and of itself, all float32. What comes before and after, in
# half precision, is not there at the same time (measured).
LOGIT_BYTES = 12
# Measured as well: for a token and an inner channel of the feed-forward part, how many gradients its backward pass
# holds; for a pair of tokens and a head, the bytes of those of attention weights; for a pixel of a frame's side, what
# oneDNN's convolution in bfloat16 takes on CPUs with AMX, for few frames as for many; on others it takes none of it.
GRADIENTS = 2.5
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
        last: what the backward pass needs of the language model's last layer, which is never computed again.
    """

    inputs: float = 0
    kept: float = 0
    again: float = 0
    backward: float = 0
    last: float = 0

    @property
    def total(self) -> float:
        """Between the forward and the backward pass."""
        return self.inputs + self.kept + self.last


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
    in_front = vision.total + _connector(sizes, work)
    dequantised = sizes.language.largest_layer * work.number_bytes if work.quantization is not None else 0
    held = in_front + language.total
    seeing = vision.total + _while_seeing(sizes, work)
    loss = held + max(logits, dequantised)
    backward = max(
        held + max(dequantised, _head_gradient(sizes, work), _attention(sizes, work)[1]),
        held - language.last + language.backward + dequantised,
        in_front + language.inputs + language.again + language.backward + dequantised,
        vision.total + vision.backward,
        vision.inputs + vision.again + vision.backward,
    )
    copies = _copies(sizes, work, trained)
    # Autocast makes its copies when they are needed and drops them after the forward pass, but for those that the
    # backward pass needs.
    first, left = (copies, copies) if work.zero else (0, copies * (1 - work.recompute))
    return _inputs(sizes, work) + max(first + seeing, copies + loss, left + backward), logits


def _inputs(sizes: ModelSizes, work: Workload) -> float:
    """Return the bytes of the clips, as pixels or as what the vision tower has made of them."""
    if work.feature_cache:
        return pass_groups(sizes, work) * sizes.features * work.number_bytes
    frames = pass_clips(sizes, work) * work.frames
    return frames * sizes.views * 3 * sizes.image_size**2 * FP32


def _copies(sizes: ModelSizes, work: Workload, trained: float) -> float:
    """Return the bytes of the trained weights in half precision: autocast's copies, under DeepSpeed the model's own."""
    if work.number_bytes != HALF:
        return 0
    if work.language == FULL and not work.zero:
        trained -= sizes.vocabulary * sizes.language.width  # embeddings are looked up as they are
    return trained * HALF / work.sharing(3)


def _vision(sizes: ModelSizes, work: Workload) -> Stack:
    if work.vision == FROZEN:
        return Stack()
    patches = pass_clips(sizes, work) * work.frames * sizes.patch_tokens
    stack = _stack(sizes.vision, sizes.vision.layers, patches, work.vision, work)
    return replace(stack, kept=stack.kept + _bytes(sizes.vision_kept, sizes, work)) if work.vision == FULL else stack


def _connector(sizes: ModelSizes, work: Workload) -> float:
    """Return what the backward pass of the connector, and through it, needs."""
    learns = work.train_connector or work.vision != FROZEN
    return _bytes(sizes.connector_kept, sizes, work) if learns else 0


def _bytes(held: Held, sizes: ModelSizes, work: Workload) -> float:
    """Return the bytes of what is held in a forward pass."""
    group = held.numbers * work.number_bytes + held.wide * FP32
    return pass_groups(sizes, work) * group + held.once * FP32


def _language(sizes: ModelSizes, work: Workload) -> Stack:
    """Return what the language model keeps; also where it is frozen, for gradients go through it."""
    tower, tokens = sizes.language, pass_tokens(sizes, work)
    stack = _stack(tower, tower.layers - 1, tokens, work.language, work)
    pairs, backward = _attention(sizes, work)
    again = recomputed(work.recompute, tower.layers, last=True)
    before, behind = _saved(tower, work.language, work)
    return Stack(
        stack.inputs,
        stack.kept + (tower.layers - 1 - again) * pairs,
        stack.again + (pairs if again else 0),
        max(stack.backward, backward),
        tokens * before + pass_answers(sizes, work) * behind + pairs,
    )


def _attention(sizes: ModelSizes, work: Workload) -> tuple[float, float]:
    """Return what grows with the square of the tokens: what a layer keeps, and what its backward pass needs besides."""
    rows = pass_clips(sizes, work) if work.pack_length is None else 1
    pairs = pass_tokens(sizes, work) ** 2 / rows
    if work.attention == "eager":
        weights = sizes.language.heads * pairs
        kept = weights * (FP32 + work.number_bytes)  # as softmax makes them, and as used
        return kept, weights * EAGER_GRADIENT_BYTES
    return 0, 0


def _stack(tower: Tower, layers: int, tokens: int, mode: str, work: Workload) -> Stack:
    """Return what so many layers hold."""
    again = min(recomputed(work.recompute, tower.layers, last=False), layers)
    saved = sum(_saved(tower, mode, work))
    # A tower that is trained in full adds up in float32, but for DeepSpeed's.
    between = FP32 if mode == FULL and not work.zero else work.number_bytes
    return Stack(
        again * tokens * tower.width * between,
        (layers - again) * tokens * saved,
        tokens * saved if again else 0,
        tokens * tower.mlp * GRADIENTS * work.number_bytes if layers else 0,
    )


def _saved(tower: Tower, mode: str, work: Workload) -> tuple[float, float]:
    """Return the bytes of a token that the backward pass of one layer needs, up to its attention and behind it.

    That is the inputs of both norms (in float32), of the trained matrices, queries, keys, values and result of the
    attention, and what lies between the feed-forward part's matrices. Full training needs what both norms scale.
    """
    norm = tower.width * FP32
    scaled = {FROZEN: 0, LORA: 1, FULL: 2}[mode] * tower.width
    attention = 2 * tower.width + 2 * tower.key_values
    feed_forward = (3 if tower.gated else 1) * tower.mlp + (0 if mode == FROZEN else tower.mlp)
    # On CPUs attention is computed in float32, see `formcoach.models.segment_attention`.
    attended = FP32 if tower.gated and work.attention == "sdpa" and not work.cuda else work.number_bytes
    before = norm + scaled * work.number_bytes + attention * attended
    return before, norm + (scaled + feed_forward) * work.number_bytes


def _while_seeing(sizes: ModelSizes, work: Workload) -> float:
    """Return what the vision tower holds while it sees a clip, where that is most."""
    if work.feature_cache:
        return 0
    on_cpu = not work.cuda and work.number_bytes == HALF
    patches = sizes.image_size * CONVOLUTION_BYTES if on_cpu else 0
    return max(patches, *(_bytes(held, sizes, work) for held in sizes.seeing))


def _head_gradient(sizes: ModelSizes, work: Workload) -> float:
    """Return what the gradient of a head that is trained takes, until it is added to those before."""
    if work.language != FULL:
        return 0
    return sizes.vocabulary * sizes.language.width * (FP32 + (HALF if work.number_bytes == HALF else 0))
