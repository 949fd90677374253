"""In which order samples are learned, and which of them share a step, a process and a forward pass.

All processes compute the same plan from the seed, and each reads its own part. The samples of all epochs form one
stream: optimizer step k takes the next `global_batch_size` of it, wherever an epoch ends, so that each sample is seen
as often as any other and reading ahead never stops before the last step. A step is divided among processes and forward
passes by length. That changes no gradient, since losses are averaged over the whole step's answer tokens.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from torch.utils.data import Sampler

from formcoach.data.dataset import Pick
from formcoach.data.packing import best_fit, split_to

GROUPED_STEPS = 50  # steps whose samples are sorted by length together, as in transformers' sampler


@dataclass(frozen=True)
class Packing:
    """How rows are filled.

    Args:
        capacity: most tokens of a row; a longer sample has one of its own.
        kinds: the data set of each sample, where a row shall hold samples of one only; None: any may share a row.
    """

    capacity: int
    kinds: Sequence[str] | None = None


@dataclass(frozen=True)
class BatchSettings:
    """How samples become batches.

    Args:
        epochs: passes over all samples, also a fraction.
        max_steps: optimizer steps instead of epochs; None: as many as the epochs take.
        global_batch_size: samples in an optimizer step, over all processes.
        micro_batch_size: most samples in a forward pass.
        processes: that share the step's samples; divides `global_batch_size`.
        seed: decides the order.
        group_by_length: let samples of similar length share a step.
        packing: puts the samples of a forward pass into one row; None: they are padded to the same length.
    """

    epochs: float
    max_steps: int | None
    global_batch_size: int
    micro_batch_size: int
    processes: int
    seed: int
    group_by_length: bool = False
    packing: Packing | None = None


class Batches:
    """The plan of a run.

    Args:
        lengths: tokens of each training sample.
        settings: see `BatchSettings`.
    """

    def __init__(self, lengths: Sequence[int], settings: BatchSettings) -> None:
        self.lengths = lengths
        self.settings = settings
        self._known_order: tuple[int, np.ndarray] | None = None
        self._known_block: tuple[int, list[list[Pick]]] | None = None

    @property
    def samples(self) -> int:
        """Samples that the whole run sees, each counted as often as it is seen."""
        if self.settings.max_steps is not None:
            return self.settings.max_steps * self.settings.global_batch_size
        return max(1, round(self.settings.epochs * len(self.lengths)))

    @property
    def steps(self) -> int:
        """All optimizer steps; the last one may have fewer samples."""
        return math.ceil(self.samples / self.settings.global_batch_size)

    @cached_property
    def passes(self) -> int:
        """Forward passes of each process in an optimizer step."""
        settings = self.settings
        if settings.packing is None:
            return settings.global_batch_size // (settings.micro_batch_size * settings.processes)
        return max(len(self._rows(share)) for step in range(self.steps) for share in self._shares(step))

    def samples_until(self, step: int) -> int:
        """Return how many samples lie behind after `step` optimizer steps."""
        return min(step * self.settings.global_batch_size, self.samples)

    def epoch(self, step: int) -> float:
        """Return how many passes over the samples lie behind after `step` optimizer steps."""
        return self.samples_until(step) / len(self.lengths)

    def step(self, step: int) -> list[list[list[Pick]]]:
        """Return the samples of an optimizer step: of each process, for each of its `passes`.

        Where there are fewer samples than passes, as in a run's last step, a pass repeats a sample that does not count:
        every process takes part in every pass.
        """
        shares = self._shares(step)
        idle = replace(shares[0][0], counts=False)
        parts = [split_to(self._rows(share), self.passes) for share in shares]
        return [rows + [[idle]] * (self.passes - len(rows)) for rows in parts]

    def _rows(self, share: list[Pick]) -> list[list[Pick]]:
        """Divide a process's samples, the longest first, into forward passes."""
        size, packing = self.settings.micro_batch_size, self.settings.packing
        if packing is None:
            return [share[first : first + size] for first in range(0, len(share), size)]
        kinds: dict[str, list[Pick]] = {}
        for pick in share:
            kinds.setdefault(packing.kinds[pick.index] if packing.kinds is not None else "", []).append(pick)
        return [
            [picks[place] for place in row]
            for picks in kinds.values()
            for row in best_fit([self.lengths[pick.index] for pick in picks], packing.capacity, size)
        ]

    def _shares(self, step: int) -> list[list[Pick]]:
        """Deal a step's samples out to the processes, the longest first, back and forth."""
        block, place = divmod(step, GROUPED_STEPS)
        picks = sorted(self._block(block)[place], key=self._length, reverse=True)
        count = self.settings.processes
        shares: list[list[Pick]] = [[] for _ in range(count)]
        for place, pick in enumerate(picks):
            turn, seat = divmod(place, count)
            shares[seat if turn % 2 == 0 else count - 1 - seat].append(pick)
        return shares

    def _length(self, pick: Pick) -> int:
        return self.lengths[pick.index]

    def _block(self, block: int) -> list[list[Pick]]:
        """Return the samples of each of the steps from `block * GROUPED_STEPS` on."""
        if self._known_block is None or self._known_block[0] != block:
            size = self.settings.global_batch_size
            first = block * GROUPED_STEPS * size
            picks = [self._pick(place) for place in range(first, min(first + GROUPED_STEPS * size, self.samples))]
            if self.settings.group_by_length:
                picks = self._grouped(picks, block)
            self._known_block = block, [picks[begin : begin + size] for begin in range(0, len(picks), size)]
        return self._known_block[1]

    def _grouped(self, picks: list[Pick], block: int) -> list[Pick]:
        """Let steps have samples of similar length, the steps themselves in random order; an incomplete one is last."""
        size = self.settings.global_batch_size
        picks = sorted(picks, key=self._length, reverse=True)
        whole = len(picks) // size
        order = np.random.default_rng((self.settings.seed, 1, block)).permutation(whole)
        return [pick for group in (*order, whole) for pick in picks[group * size : (group + 1) * size]]

    def _pick(self, place: int) -> Pick:
        """Return the sample at a place of the stream."""
        epoch, place = divmod(place, len(self.lengths))
        if self._known_order is None or self._known_order[0] != epoch:
            generator = np.random.default_rng((self.settings.seed, 0, epoch))
            self._known_order = epoch, generator.permutation(len(self.lengths))
        return Pick(int(self._known_order[1][place]), epoch)


class BatchOrder(Sampler[list[Pick]]):
    """What one process reads: the samples of its forward passes, step after step.

    Args:
        batches: the plan of all processes.
        rank: which of them it is.
    """

    def __init__(self, batches: Batches, rank: int) -> None:
        self._batches = batches
        self._rank = rank

    def __len__(self) -> int:
        return self._batches.steps * self._batches.passes

    def __iter__(self) -> Iterator[list[Pick]]:
        for step in range(self._batches.steps):
            yield from self._batches.step(step)[self._rank]


class ValidationOrder(Sampler[list[Pick]]):
    """What one process reads of the validation samples: each sample once, those of similar length together.

    Args:
        lengths: tokens of each sample.
        settings: of the training's batches; the forward passes are as large.
        rank: which process it is.
    """

    def __init__(self, lengths: Sequence[int], settings: BatchSettings, rank: int) -> None:
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        size, packing, count = settings.micro_batch_size, settings.packing, settings.processes
        if packing is not None:
            rows = best_fit(lengths, packing.capacity, size)
        else:
            rows = [order[first : first + size] for first in range(0, len(order), size)]
        mine = [[Pick(index) for index in row] for row in rows[rank::count]]
        idle = [Pick(order[-1], counts=False)]  # every process takes part in every pass
        self._rows = mine + [idle] * (math.ceil(len(rows) / count) - len(mine))

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[list[Pick]]:
        return iter(self._rows)
