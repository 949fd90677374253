"""Training, validation and test clips that share nobody, with every exercise spread as the ratios ask."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formcoach.data.annotations import LabelledClip
from formcoach.errors import UserError

SPLITS = ("train", "val", "test")
POLISHED_GROUPS = 2000  # up to here the first placement is improved by moves; above, numbers even it out
SWAPPED_GROUPS = 500  # up to here also by exchanges; their cost grows with the square
OVERALL = 0.5  # weight of the splits' sizes beside the exercises': small enough not to empty an exercise for them


@dataclass(frozen=True)
class _Group:
    """Clips that must not be torn apart, and how many there are in each column (see `_columns`)."""

    clips: tuple[LabelledClip, ...]
    counts: tuple[tuple[int, int], ...]


def split_clips(
    clips: Sequence[LabelledClip], ratios: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 42
) -> dict[str, list[LabelledClip]]:
    """Divide clips into train, val and test; nobody is in two of them.

    Each split's share of the clips and of every exercise is as near to its ratio as whole people allow. A clip of an
    unknown person stands for itself. The result depends on the clips, the ratios and the seed, not on their order.

    Minimises the sum over splits s and exercises e of f_e n_e / N ((n_se - r_s n_e) / n_e)^2, plus
    OVERALL ((n_s - r_s N) / N)^2, where f_e = 1 - 1 / (groups of e) ignores what a single group does alone. Groups are
    placed from the largest to the smallest where they fit best, then moved and exchanged while that helps.

    Args:
        clips: each path once.
        ratios: of train, val and test, each above 0, on any scale.
        seed: decides among equals and the order inside the splits.

    Raises:
        UserError: there are fewer people (or clips) than splits.
    """
    shares = np.array(ratios, dtype=float) / sum(ratios)
    groups = _groups(clips, seed)
    if len(groups) < len(SPLITS):
        raise UserError(_too_few(clips, len(groups)))
    weights, targets = _objective(groups, shares)
    places = _place(groups, weights, targets)
    if len(groups) <= POLISHED_GROUPS:
        places = _polish(groups, places, weights, targets)
    splits: dict[str, list[LabelledClip]] = {name: [] for name in SPLITS}
    for group, place in zip(groups, places, strict=True):
        splits[SPLITS[place]].extend(group.clips)
    for members in splits.values():
        members.sort(key=lambda clip: _draw(seed, clip.path))  # mixed, so that the first N are a fair sample
    return splits


def _too_few(clips: Sequence[LabelledClip], groups: int) -> str:
    if len(clips) >= len(SPLITS):
        return (
            f"the {len(clips)} clips show only {groups} {'person' if groups == 1 else 'people'}, too few for three "
            "splits that share nobody; add clips of others, or remove worker_id from the label file to split by clip"
        )
    return f"{len(clips)} usable clips are too few for three splits; add clips"


def _draw(seed: int, key: str) -> str:
    """Return a random-looking sort key that depends on nothing but the seed and the name."""
    return hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogateescape")).hexdigest()


def _groups(clips: Sequence[LabelledClip], seed: int) -> list[_Group]:
    """Return a group a person and a group a clip of nobody known, largest first, equals in an order drawn by `seed`."""
    members: dict[str, list[LabelledClip]] = defaultdict(list)
    for clip in clips:
        members[f"clip {clip.path}" if clip.person is None else f"person {clip.person}"].append(clip)
    columns = _columns(clips)
    ordered = sorted(members, key=lambda name: (-len(members[name]), _draw(seed, name)))
    return [_group(members[name], columns) for name in ordered]


def _columns(clips: Sequence[LabelledClip]) -> dict[str, int]:
    """Number the exercises from 1; column 0 counts all clips. Names that differ in case or blanks only are one."""
    return {name: number for number, name in enumerate(sorted({_plain(clip.exercise) for clip in clips}), start=1)}


def _plain(exercise: str) -> str:
    return " ".join(exercise.casefold().split())


def _group(clips: Sequence[LabelledClip], columns: dict[str, int]) -> _Group:
    counts: dict[int, int] = defaultdict(int)
    for clip in clips:
        counts[0] += 1
        counts[columns[_plain(clip.exercise)]] += 1
    return _Group(tuple(clips), tuple(counts.items()))


def _objective(groups: Sequence[_Group], shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each column's weight and each split's target counts, (columns) and (splits, columns)."""
    totals = np.zeros(1 + max(column for group in groups for column, _ in group.counts))
    squares = np.zeros_like(totals)
    for group in groups:
        for column, count in group.counts:
            totals[column] += count
            squares[column] += count**2
    weights = (1 - squares / totals**2) / (totals * totals[0])  # squares / totals^2: 1 / (groups, if of equal size)
    weights[0] = OVERALL / totals[0] ** 2
    return weights, shares[:, None] * totals


def _place(groups: Sequence[_Group], weights: np.ndarray, targets: np.ndarray) -> list[int]:
    """Put each group where it raises the objective least."""
    weight = weights.tolist()
    excess = (-targets).tolist()  # [split][column]: what a split has beyond its target
    places = []
    for group in groups:
        best = min(
            range(len(SPLITS)),
            key=lambda split: sum(weight[column] * count * excess[split][column] for column, count in group.counts),
        )
        for column, count in group.counts:
            excess[best][column] += count
        places.append(best)
    return places


def _polish(groups: Sequence[_Group], places: Sequence[int], weights: np.ndarray, targets: np.ndarray) -> list[int]:
    """Move and exchange groups while the objective falls; fill splits that are empty first."""
    counts = np.zeros((len(groups), len(weights)))
    for row, group in enumerate(groups):
        for column, count in group.counts:
            counts[row, column] = count
    state = _Placement(np.array(places), counts, weights, targets)
    for split in range(len(SPLITS)):
        if not (state.places == split).any():
            state.places[np.argmin(state.move_costs()[:, split])] = split
    while state.improve():
        pass
    return state.places.tolist()


@dataclass
class _Placement:
    """Where each group is, and what it would cost to change that.

    Args:
        places: (groups) number of the split.
        counts: (groups, columns) clips.
        weights: (columns).
        targets: (splits, columns).
    """

    places: np.ndarray
    counts: np.ndarray
    weights: np.ndarray
    targets: np.ndarray

    def __post_init__(self) -> None:
        self.weighted = self.counts * self.weights
        self.squares = (self.weighted * self.counts).sum(axis=1)
        self.swaps = len(self.places) <= SWAPPED_GROUPS
        self.products = self.weighted @ self.counts.T if self.swaps else np.empty(0)  # (groups, groups)

    def pulls(self) -> np.ndarray:
        """Return (groups, splits): each group's product with what each split has beyond its target."""
        members = np.eye(len(self.targets))[self.places]  # (groups, splits)
        return self.weighted @ (members.T @ self.counts - self.targets).T

    def move_costs(self) -> np.ndarray:
        """Return (groups, splits): how the objective changes with a move; infinite where it empties a split."""
        pulls = self.pulls()
        here = np.take_along_axis(pulls, self.places[:, None], axis=1)
        costs = 2 * (self.squares[:, None] + pulls - here)
        costs[np.bincount(self.places, minlength=len(self.targets))[self.places] == 1] = np.inf
        return costs

    def swap_costs(self) -> np.ndarray:
        """Return (groups, groups): how the objective changes when two groups exchange their splits."""
        pulls = self.pulls()
        gains = pulls[:, self.places] - np.take_along_axis(pulls, self.places[:, None], axis=1)  # g to where h is
        distances = self.squares[:, None] + self.squares - 2 * self.products
        return 2 * (distances + gains + gains.T)

    def improve(self) -> bool:
        """Take the best single step; return whether there was one. Rounded, so that ties fall alike on all machines."""
        moves = np.round(self.move_costs(), 12)
        group, split = np.unravel_index(np.argmin(moves), moves.shape)
        if self.swaps:
            swaps = np.round(self.swap_costs(), 12)
            one, other = np.unravel_index(np.argmin(swaps), swaps.shape)
            if swaps[one, other] < min(moves[group, split], 0):
                self.places[[one, other]] = self.places[[other, one]]
                return True
        if moves[group, split] >= 0:
            return False
        self.places[group] = split
        return True
