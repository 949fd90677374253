"""What the memory of a training depends on, besides the model."""

import math
from dataclasses import dataclass

from formcoach.models.sizes import ModelSizes

HALF, FP32 = 2, 4  # bytes a number

FROZEN, LORA, FULL = "frozen", "lora", "full"  # what is trained of a tower


@dataclass(frozen=True)
class Workload:
    """A training as its memory sees it.

    Args:
        quantization: ``nf4``, ``int8`` or None, of the language model's linear layers.
        frames: most of a clip.
        min_frames: fewest of a clip.
        micro_batch_size: clips in one forward pass; where rows are packed, at most so many.
        text_tokens: of the longest sample, without its frames: system message, question and answer.
        answer_tokens: of them those of the answer, where alone there are logits.
        answer_spread: by how many tokens the places of the answers differ in rows that are padded.
        pack_length: tokens of a packed row; None: samples are padded.
        language: what is trained of the language model, `FROZEN`, `LORA` or `FULL`: then with its head.
        vision: the same for the vision tower.
        lora_rank: of the adapters.
        train_connector: whether the connector is trained.
        recompute: share of the layers whose activations are computed again in the backward pass.
        feature_cache: whether the vision tower's results come from the disk.
        attention: ``eager`` where the language model keeps its attention weights, else another name.
        number_bytes: of the numbers that it computes in: `HALF` or `FP32`.
        zero: DeepSpeed's ZeRO stage; 0: plain PyTorch.
        processes: that share what the stage shares out.
        offload_optimizer: whether trained weights, gradients and Adam's moments lie in the computer's memory.
        offload_parameters: whether the model's weights do too (ZeRO-3).
        cuda: whether it runs on a GPU, else on the CPU.
    """

    quantization: str | None = None
    frames: int = 8
    min_frames: int = 4
    micro_batch_size: int = 1
    text_tokens: int = 300
    answer_tokens: int = 100
    answer_spread: int = 0
    pack_length: int | None = None
    language: str = LORA
    vision: str = FROZEN
    lora_rank: int = 16
    train_connector: bool = True
    recompute: float = 1.0
    feature_cache: bool = False
    attention: str = "sdpa"
    number_bytes: int = HALF
    zero: int = 0
    processes: int = 1
    offload_optimizer: bool = False
    offload_parameters: bool = False
    cuda: bool = True

    def sharing(self, stage: int) -> int:
        """Return among how many processes that is shared out which ZeRO `stage` shares out."""
        return self.processes if self.zero >= stage else 1


def sample_tokens(sizes: ModelSizes, work: Workload) -> int:
    """Return the tokens of a sample: its text, and its clip's."""
    return work.text_tokens + sizes.clip_tokens(work.frames)


def pass_clips(sizes: ModelSizes, work: Workload) -> int:
    """Return the clips in a forward pass: all of the micro batch, or those that fill a packed row."""
    if work.pack_length is None:
        return work.micro_batch_size
    return min(work.micro_batch_size, max(1, math.ceil(work.pack_length / sample_tokens(sizes, work))))


def pass_groups(sizes: ModelSizes, work: Workload) -> int:
    """Return the groups of frames in a forward pass."""
    return pass_clips(sizes, work) * sizes.groups(work.frames)


def pass_tokens(sizes: ModelSizes, work: Workload) -> int:
    """Return the tokens of a forward pass; a sample that is longer than a packed row has one of its own."""
    sample = sample_tokens(sizes, work)
    whole = work.micro_batch_size * sample
    return whole if work.pack_length is None else min(whole, max(work.pack_length, sample))


def pass_answers(sizes: ModelSizes, work: Workload) -> int:
    """Return at how many positions of a forward pass there are logits.

    In padded rows that is wherever any of them has an answer.
    """
    rows = pass_clips(sizes, work)
    padded = work.pack_length is None and rows > 1
    positions = work.answer_tokens + (work.answer_spread if padded else 0)
    return rows * min(positions, sample_tokens(sizes, work))


def recomputed(share: float, layers: int, *, last: bool) -> int:
    """Return how many layers of a tower are computed again.

    Args:
        share: of its layers, 0 to 1; rounded up to whole ones.
        layers: all of them.
        last: whether its last layer is the model's. That one's backward pass begins where its forward pass ends: it
            would be computed again for nothing, and it is computed in part only (`formcoach.training.answer_rows`).
    """
    return min(math.ceil(share * layers - 1e-9), layers - 1 if last else layers)
