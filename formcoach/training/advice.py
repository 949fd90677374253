"""What to change so that a training fits into the memory there is."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from formcoach.models.sizes import ModelSizes
from formcoach.training.memory import GB, Estimate, estimate
from formcoach.training.workload import FULL, LORA, Workload, sample_tokens

LEAST_RANK = 4


@dataclass(frozen=True)
class Change:
    """Another value of a setting, which takes less memory.

    Args:
        values: in a `Workload`.
        flags: the same for the trainer.
    """

    values: dict[str, Any]
    flags: tuple[str, ...]


class Levers:
    """All that can be changed about a training, gently to harshly, and what it takes then.

    A choice is a list with a number for each lever: 0 leaves it, 1 is its first change, and so on.

    Args:
        sizes: of the model.
        work: the training as it is.
    """

    def __init__(self, sizes: ModelSizes, work: Workload) -> None:
        self._sizes = sizes
        self._work = work
        self._levers = [list(lever) for lever in (_smaller_passes(sizes, work), *_others(sizes, work))]

    @property
    def ends(self) -> list[int]:
        """The last change of each lever, 0 where there is none."""
        return [len(lever) for lever in self._levers]

    def changes(self, choice: list[int]) -> list[Change]:
        """Return what a choice changes."""
        return [lever[number - 1] for lever, number in zip(self._levers, choice, strict=True) if number]

    def estimate(self, choice: list[int]) -> Estimate:
        """Return what the training takes then."""
        values = {name: value for change in self.changes(choice) for name, value in change.values.items()}
        return estimate(self._sizes, replace(self._work, **values))


def settings_that_fit(sizes: ModelSizes, work: Workload, memory: float, host: float = math.inf) -> list[str] | None:
    """Return the gentlest change that fits, as flags; none if the training fits as it is, None if nothing helps.

    What does not change what is learned comes first: smaller forward passes of the same global batch, then computing
    activations again. Quantisation, offloading, fewer frames and a lower rank follow. One change is preferred to two.

    Args:
        sizes: of the model.
        work: what is trained, and how.
        memory: bytes of the GPU, or of the computer where there is none.
        host: bytes of the computer beside a GPU, where offloading goes.
    """
    levers = Levers(sizes, work)

    def fits(choice: list[int]) -> bool:
        estimated = levers.estimate(choice)
        return estimated.total <= memory and estimated.host <= host

    choice = next(filter(fits, _candidates(levers.ends)), None)
    if choice is None:
        return None
    for place in reversed(range(len(choice))):  # of several, the harshest is eased first
        easier = ([*choice[:place], number, *choice[place + 1 :]] for number in range(choice[place] + 1))
        choice = next(filter(fits, easier))
    return [flag for change in levers.changes(choice) for flag in change.flags]


def least_memory(sizes: ModelSizes, work: Workload) -> float:
    """Return the bytes that a training takes when all is changed that can be."""
    levers = Levers(sizes, work)
    return levers.estimate(levers.ends).total


def advice(sizes: ModelSizes, work: Workload, memory: float, host: float = math.inf) -> str:
    """Return what to do about a training that does not fit, see `settings_that_fit`."""
    flags = settings_that_fit(sizes, work, memory, host)
    if flags is None:
        return f"no setting makes it fit: it needs {least_memory(sizes, work) / GB:.1f} GB at least"
    return f"should fit: {' '.join(flags)}"


def _candidates(ends: list[int]) -> Iterator[list[int]]:
    """Yield what to try: nothing, each change alone, then the levers' ends, more and more of them together."""
    nothing = [0] * len(ends)
    yield nothing
    for place, end in enumerate(ends):
        for number in range(1, end + 1):
            yield [*nothing[:place], number, *nothing[place + 1 :]]
    for count in range(2, len(ends) + 1):
        yield [*ends[:count], *nothing[count:]]


def _smaller_passes(sizes: ModelSizes, work: Workload) -> Iterator[Change]:
    """Yield smaller micro batches, which divide the global batch as before, or shorter rows."""
    if work.pack_length is None:
        for size in range(work.micro_batch_size - 1, 0, -1):
            if work.micro_batch_size % size == 0:
                yield Change({"micro_batch_size": size}, ("--mirco-batch-size", str(size)))
        return
    sample, length = sample_tokens(sizes, work), work.pack_length
    while length > sample:
        length = max(length // 2, sample)
        yield Change({"pack_length": length}, ("--pack-max-length", str(length)))


def _others(sizes: ModelSizes, work: Workload) -> list[list[Change]]:
    """Return the other levers, those that change what is learned or take much time last."""
    recompute = [Change({"recompute": 1.0}, ("--selective-recompute", "1"))] if work.recompute < 1 else []
    group = sizes.frame_group
    frames = [_frames(work, count) for count in range(work.frames - group, 0, -group)]
    return [recompute, _quantizations(work), _offloading(work), frames, _ranks(work)]


def _quantizations(work: Workload) -> list[Change]:
    """Return the ways to quantise what is frozen; ZeRO-3 takes none."""
    if work.language == FULL or work.zero == 3:
        return []
    smaller = {None: ("int8", "nf4"), "int8": ("nf4",)}.get(work.quantization, ())
    return [Change({"quantization": kind}, ("--quantization", kind)) for kind in smaller]


def _offloading(work: Workload) -> list[Change]:
    if not work.cuda or work.offload_optimizer:
        return []
    stage = max(work.zero, 2)
    values = {"zero": stage, "offload_optimizer": True, "offload_parameters": stage == 3}
    return [Change(values, ("--deepspeed", f"scripts/zero{stage}_offload.json"))]


def _frames(work: Workload, count: int) -> Change:
    fewest = ("--min_num_frames", str(count)) if count < work.min_frames else ()
    return Change({"frames": count}, (*fewest, "--max_num_frames", str(count)))


def _ranks(work: Workload) -> list[Change]:
    ranks, rank = [], work.lora_rank
    while LORA in (work.language, work.vision) and rank // 2 >= LEAST_RANK:
        rank //= 2
        ranks.append(Change({"lora_rank": rank}, ("--lora-rank", str(rank))))
    return ranks
