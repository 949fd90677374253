"""How much memory a training takes, computed from the model's sizes: nothing is downloaded, nothing is loaded.

The parts are counted from what PyTorch, PEFT and bitsandbytes hold. On the CPU, at the 8B's widths with 4 layers of
either kind, activations were within 0.1 GB of what PyTorch's allocator counted, for 412 to 2,213 tokens, with and
without checkpointing; `benchmarks/real_size.py` compares the sum with a measurement at full size.
"""

from dataclasses import dataclass, replace

from formcoach.models.sizes import ModelSizes, Tower

GB = 1e9
CARDS = (8, 12, 16, 24, 40, 80)  # GB of GPUs that people have

# Bytes a number: all that is not quantised is held in half precision. NF4: half a byte, an 8-bit scale for 64 weights
# and a 32-bit one for 256 of those (Dettmers et al., "QLoRA", 2023); int8: one byte, and a 32-bit scale a row that does
# not show.
HALF, FP32 = 2, 4
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
QUANTIZED_BYTES = {"nf4": NF4_BYTES, "int8": 1.0}

FRAME_WORDS = 8  # tokens of `Frame12: <img>...</img>` and a line break, besides the visual ones
LOGIT_BYTES = 12  # of a logit: in half precision, its log-probability and its gradient in float32, one more in half
ADAM_BYTES = 8  # two moments of a weight, float32

# CUDA's context with the kernels of PyTorch and bitsandbytes: what such processes usually take, not measured here.
CUDA_CONTEXT = 0.6e9
PROCESS = 0.25e9  # a Python process that has imported PyTorch and transformers, measured
# What PyTorch's caching allocator holds in blocks that fit nothing; a share of the activations, not measured here.
FRAGMENTATION = 0.15


@dataclass(frozen=True)
class Workload:
    """What the memory of a training depends on, besides the model.

    Args:
        quantization: ``nf4``, ``int8`` or None, of the language model's linear layers.
        frames: of a clip.
        micro_batch_size: clips in one forward pass.
        text_tokens: of the longest sample, without its frames: system message, question and answer.
        lora_rank: of the adapters; 0 for none on the language model.
        lora_vit: whether the vision tower has adapters too.
        train_connector: whether the connector is trained.
        checkpointing: whether activations are computed again in the backward pass.
        cuda: whether it runs on a GPU, else on the CPU.
    """

    quantization: str | None = None
    frames: int = 8
    micro_batch_size: int = 1
    text_tokens: int = 300
    lora_rank: int = 16
    lora_vit: bool = False
    train_connector: bool = True
    checkpointing: bool = True
    cuda: bool = True


@dataclass(frozen=True)
class Estimate:
    """The parts of a training's memory, in bytes.

    Args:
        weights: the base model, the quantised part as it is held.
        adapter: trained weights.
        gradients: theirs.
        optimizer: Adam's moments.
        activations: at their peak in a training step, logits included.
        logits: the share that is due to the logits.
        overhead: what the process or the GPU's context takes, and what allocators waste.
        loading: the peak while the base is loaded, overhead included.
    """

    weights: float
    adapter: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    overhead: float
    loading: float

    @property
    def total(self) -> float:
        """The peak of the whole training."""
        held = self.weights + self.adapter + self.gradients + self.optimizer
        return max(held + self.activations + self.overhead, self.loading)


def estimate(sizes: ModelSizes, work: Workload) -> Estimate:
    """Return the memory of a training with adapters in float32, as `formcoach.training` does it.

    Args:
        sizes: of the model.
        work: what is trained, and how.
    """
    weights = _weights(sizes, work)
    trained = _trained(sizes, work)
    activations, logits = _activations(sizes, work)
    overhead = CUDA_CONTEXT + FRAGMENTATION * activations if work.cuda else PROCESS
    loading = weights + _quantising(sizes, work) + (CUDA_CONTEXT if work.cuda else PROCESS)
    return Estimate(
        weights=weights,
        adapter=trained * FP32,
        gradients=trained * FP32,
        optimizer=trained * ADAM_BYTES,
        activations=activations,
        logits=logits,
        overhead=overhead,
        loading=loading,
    )


def largest_micro_batch(sizes: ModelSizes, work: Workload, memory: float) -> int:
    """Return the most clips in a forward pass that fit in `memory` bytes; 0 if not even one does."""
    most = 0
    while estimate(sizes, replace(work, micro_batch_size=most + 1)).total <= memory:
        most += 1
    return most


def sample_tokens(sizes: ModelSizes, work: Workload) -> int:
    """Return the tokens of a sample: its text, and for each frame its visual tokens and the words around them."""
    return work.text_tokens + work.frames * (sizes.frame_tokens + FRAME_WORDS)


def _weights(sizes: ModelSizes, work: Workload) -> float:
    """Return the bytes of the base."""
    quantised = sizes.language.linear_parameters
    each = QUANTIZED_BYTES[work.quantization] if work.quantization is not None else HALF
    return quantised * each + (sizes.parameters - quantised) * HALF


def _trained(sizes: ModelSizes, work: Workload) -> int:
    """Return how many weights are trained."""
    lora = sizes.language.lora_parameters(work.lora_rank)
    vision = sizes.vision.lora_parameters(work.lora_rank) if work.lora_vit else 0
    return lora + vision + (sizes.connector if work.train_connector else 0)


def _quantising(sizes: ModelSizes, work: Workload) -> float:
    """Return what is needed on top to quantise the largest layer while loading.

    bitsandbytes' kernel for CUDA needs the layer itself, its code for CPUs some copies of it in float32.
    """
    if work.quantization is None:
        return 0
    return sizes.language.largest_layer * (HALF if work.cuda else 3 * FP32)


def _activations(sizes: ModelSizes, work: Workload) -> tuple[float, float]:
    """Return the peak of what a training step holds for a while, and the logits' share of it.

    The peak is in one of the step's phases: the vision tower, the loss, or the backward pass of a layer.
    """
    tokens = work.micro_batch_size * sample_tokens(sizes, work)
    frames = work.micro_batch_size * work.frames
    patches = frames * sizes.patch_tokens
    pixels = frames * 3 * sizes.image_size**2 * FP32
    copies = _trained(sizes, work) * HALF  # of the trained weights, which autocast keeps for a step
    kept = pixels + copies + _kept(sizes.language, tokens, work)
    if work.lora_vit:
        kept += _kept(sizes.vision, patches, work)
    in_layer = tokens * _saved(sizes.language) + _dequantised(sizes, work)
    in_vision = patches * (4 * sizes.vision.width + 2 * sizes.vision.mlp) * HALF
    merging = frames * sizes.merged_tokens * sizes.merged_channels * (HALF + FP32)
    logits = tokens * sizes.vocabulary * LOGIT_BYTES
    recomputed = in_layer if work.checkpointing else _dequantised(sizes, work)
    vision_backward = patches * _saved(sizes.vision) if work.lora_vit and work.checkpointing else 0
    return kept + max(logits, recomputed, vision_backward, in_vision, merging), logits


def _kept(tower: Tower, tokens: int, work: Workload) -> float:
    """Return what the forward pass keeps of a stack of layers for the backward pass."""
    a_layer = tokens * (tower.width * HALF if work.checkpointing else _saved(tower))
    return tower.layers * a_layer


def _saved(tower: Tower) -> float:
    """Return the bytes of a token that the backward pass of one layer needs, the base's own weights being frozen.

    That is the inputs of both norms (in float32), of the adapters (a copy each), queries, keys, values and result of
    the attention, and what lies between the feed-forward part's matrices.
    """
    norms = 2 * tower.width * FP32
    adapters = (len(tower.linear_shapes) - 1) * tower.width + tower.mlp
    attention = 2 * tower.width + 2 * tower.key_values
    feed_forward = (3 if tower.gated else 1) * tower.mlp
    return norms + (adapters + attention + feed_forward) * HALF


def _dequantised(sizes: ModelSizes, work: Workload) -> float:
    """Return the bytes of the largest quantised layer in half precision, as which it is computed."""
    if work.quantization is None:
        return 0
    return sizes.language.largest_layer * HALF
