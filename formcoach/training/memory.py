"""How much memory a training takes, computed from the model's sizes: nothing is downloaded, nothing is loaded.

The parts are counted from what PyTorch, PEFT and bitsandbytes hold. On the CPU, at the 8B's widths with 4 layers of
either kind, activations were within 0.1 GB of what PyTorch's allocator counted, for 412 to 2,213 tokens, with and
without checkpointing; `benchmarks/real_size.py` compares the sum with a measurement at full size. What DeepSpeed shares
out or moves to the computer's memory follows from its documentation and has not been compared with a GPU.
"""

from dataclasses import dataclass, replace

from formcoach.models.sizes import ModelSizes
from formcoach.training.activations import activations
from formcoach.training.workload import FP32, FULL, HALF, LORA, Workload

GB = 1e9
CARDS = (8, 12, 16, 24, 40, 80)  # GB of GPUs that people have

# Bytes a number. NF4: half a byte, an 8-bit scale for 64 weights and a 32-bit one for 256 of those (Dettmers et al.,
# "QLoRA", 2023); int8: one byte, and a 32-bit scale a row that does not show.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
QUANTIZED_BYTES = {"nf4": NF4_BYTES, "int8": 1.0}
ADAM_BYTES = 8  # two moments of a weight, float32

# CUDA's context with the kernels of PyTorch and bitsandbytes: what such processes usually take, not measured here.
CUDA_CONTEXT = 0.6e9
PROCESS = 0.25e9  # a Python process that has imported PyTorch and transformers, measured
# What PyTorch's caching allocator holds in blocks that fit nothing; a share of the activations, not measured here.
FRAGMENTATION = 0.15
# ZeRO-3 puts up to so many weights together at a time, DeepSpeed's stage3_max_live_parameters.
LIVE_WEIGHTS = 1e9


@dataclass(frozen=True)
class Estimate:
    """The parts of a training's memory, in bytes.

    Args:
        weights: the base model, the quantised part as it is held.
        adapter: trained weights, of the adapters or of copies of what is trained in full.
        gradients: theirs.
        optimizer: Adam's moments.
        activations: at their peak in a training step, logits included.
        logits: the share that is due to the logits.
        overhead: what the process or the GPU's context takes, and what allocators waste.
        loading: the peak while the base is loaded, overhead included.
        host: what lies in the computer's memory beside a GPU's.
    """

    weights: float
    adapter: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    overhead: float
    loading: float
    host: float

    @property
    def total(self) -> float:
        """The peak of the whole training."""
        held = self.weights + self.adapter + self.gradients + self.optimizer
        return max(held + self.activations + self.overhead, self.loading)


def estimate(sizes: ModelSizes, work: Workload) -> Estimate:
    """Return the memory of one process of a training with trained weights in float32.

    Args:
        sizes: of the model.
        work: what is trained, and how.
    """
    weights, trained = _weights(sizes, work), trained_weights(sizes, work)
    peak, logits = activations(sizes, work, trained)
    learning = {
        "adapter": trained * FP32 / work.sharing(1),
        "gradients": trained * FP32 / work.sharing(2),
        "optimizer": trained * ADAM_BYTES / work.sharing(1),
    }
    own = CUDA_CONTEXT if work.cuda else PROCESS
    # On a GPU, ZeRO-3 leaves the loading to the computer's memory.
    loading = own + (0 if work.cuda and work.zero == 3 else weights + _quantising(sizes, work))
    resting, host = weights / work.sharing(3), 0.0
    if work.cuda and work.offload_parameters:
        resting, host = 0, resting
    if work.zero == 3 and (work.processes > 1 or work.offload_parameters):
        resting += min(sizes.parameters, LIVE_WEIGHTS) * work.number_bytes
    if work.cuda and work.offload_optimizer:
        host += sum(learning.values())
        learning = dict.fromkeys(learning, 0.0)
    overhead = own + (FRAGMENTATION * peak if work.cuda else 0)
    return Estimate(resting, **learning, activations=peak, logits=logits, overhead=overhead, loading=loading, host=host)


def largest_micro_batch(sizes: ModelSizes, work: Workload, memory: float) -> int:
    """Return the most clips in a forward pass that fit in `memory` bytes; 0 if not even one does."""
    most = 0
    while estimate(sizes, replace(work, micro_batch_size=most + 1)).total <= memory:
        most += 1
    return most


def trained_weights(sizes: ModelSizes, work: Workload) -> int:
    """Return how many weights are trained."""
    return sum(weights_by_part(sizes, work))


def weights_by_part(sizes: ModelSizes, work: Workload) -> tuple[int, int, int]:
    """Return how many weights are trained of language model, connector and vision tower."""
    language, vision = sizes.language, sizes.vision
    in_language = {
        LORA: language.lora_parameters(work.lora_rank),
        FULL: language.linear_parameters + sizes.language_other + sizes.embeddings,
    }
    in_vision = {
        LORA: vision.lora_parameters(work.lora_rank),
        FULL: vision.linear_parameters + sizes.vision_other,
    }
    connector = sizes.connector if work.train_connector else 0
    return in_language.get(work.language, 0), connector, in_vision.get(work.vision, 0)


def _weights(sizes: ModelSizes, work: Workload) -> float:
    """Return the bytes of the base."""
    quantised = sizes.language.linear_parameters
    each = QUANTIZED_BYTES[work.quantization] if work.quantization is not None else work.number_bytes
    return quantised * each + (sizes.parameters - quantised) * work.number_bytes


def _quantising(sizes: ModelSizes, work: Workload) -> float:
    """Return what is needed on top to quantise the largest layer while loading.

    bitsandbytes' kernel for CUDA needs the layer itself, its code for CPUs some copies of it in float32.
    """
    if work.quantization is None:
        return 0
    return sizes.language.largest_layer * (HALF if work.cuda else 3 * FP32)
