"""Where groups of clips go, so that each split gets its share of every exercise: a small optimisation.

Minimises the sum over splits s and exercises e of f_e n_e / N ((n_se - t_se) / n_e)^2, plus
OVERALL ((n_s - t_s) / N)^2: n are numbers of clips, t the targets, and f_e = 1 - 1 / (groups of e) ignores what a
single group does alone. Groups are placed from the first to the last where they fit best, then moved and exchanged
while that helps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

POLISHED_CELLS = 4_000_000  # groups x columns; up to here the first placement is improved by moves
SWAPPED_GROUPS = 500  # up to here also by exchanges; their cost grows with the square
OVERALL = 0.5  # weight of the splits' sizes beside the exercises': small enough not to empty an exercise for them


@dataclass(frozen=True)
class Group:
    """Clips that must not be torn apart, as far as their places are concerned.

    Args:
        counts: (column, number of clips), for column 0 all of them, for the others those of an exercise.
        allowed: numbers of the splits that it may go to.
        shares: of each split in its clips, as the ratios ask.
    """

    counts: tuple[tuple[int, int], ...]
    allowed: tuple[int, ...]
    shares: tuple[float, ...]


def place_groups(groups: Sequence[Group]) -> list[int]:
    """Return the number of each group's split; a split that no group can be spared for stays empty.

    Args:
        groups: from the one that is placed first to the last: large ones first.
    """
    weights, targets = _objective(groups)
    places = _place(groups, weights, targets)
    return _polish(groups, places, weights, targets) if len(groups) * len(weights) <= POLISHED_CELLS else places


def _objective(groups: Sequence[Group]) -> tuple[np.ndarray, np.ndarray]:
    """Return each column's weight and each split's target counts, (columns) and (splits, columns)."""
    columns = 1 + max(column for group in groups for column, _ in group.counts)
    totals, squares = np.zeros(columns), np.zeros(columns)
    targets = np.zeros((len(groups[0].shares), columns))
    for group in groups:
        for column, count in group.counts:
            totals[column] += count
            squares[column] += count**2
            targets[:, column] += np.multiply(group.shares, count)
    weights = np.zeros(columns)
    used = totals > 0
    weights[used] = (1 - squares[used] / totals[used] ** 2) / (totals[used] * totals[0])  # 1 / groups, if of equal size
    weights[0] = OVERALL / totals[0] ** 2
    return weights, targets


def _place(groups: Sequence[Group], weights: np.ndarray, targets: np.ndarray) -> list[int]:
    """Put each group where it raises the objective least, those without a choice before the others."""
    weight = weights.tolist()
    excess = (-targets).tolist()  # [split][column]: what a split has beyond its target
    places = [group.allowed[0] for group in groups]
    for choice in (False, True):
        for number, group in enumerate(groups):
            if (len(group.allowed) > 1) != choice:
                continue
            if choice:
                places[number] = min(group.allowed, key=lambda split: _pull(group, weight, excess[split]))
            for column, count in group.counts:
                excess[places[number]][column] += count
    return places


def _pull(group: Group, weight: Sequence[float], excess: Sequence[float]) -> float:
    return sum(weight[column] * count * excess[column] for column, count in group.counts)


def _polish(groups: Sequence[Group], places: Sequence[int], weights: np.ndarray, targets: np.ndarray) -> list[int]:
    """Move and exchange groups while the objective falls; fill splits that are empty first."""
    counts = np.zeros((len(groups), len(weights)))
    for row, group in enumerate(groups):
        for column, count in group.counts:
            counts[row, column] = count
    allowed = np.zeros((len(groups), len(targets)), dtype=bool)
    for row, group in enumerate(groups):
        allowed[row, list(group.allowed)] = True
    state = _Placement(np.array(places), counts, weights, targets, allowed)
    for split in range(len(targets)):
        costs = state.move_costs()[:, split]
        if not (state.places == split).any() and np.isfinite(costs).any():
            state.places[np.argmin(costs)] = split
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
        allowed: (groups, splits).
    """

    places: np.ndarray
    counts: np.ndarray
    weights: np.ndarray
    targets: np.ndarray
    allowed: np.ndarray

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
        """Return (groups, splits): what a move costs; infinite where it is not allowed or empties a split."""
        pulls = self.pulls()
        here = np.take_along_axis(pulls, self.places[:, None], axis=1)
        costs = 2 * (self.squares[:, None] + pulls - here)
        costs[np.bincount(self.places, minlength=len(self.targets))[self.places] == 1] = np.inf
        costs[~self.allowed] = np.inf
        return costs

    def swap_costs(self) -> np.ndarray:
        """Return (groups, groups): how the objective changes when two groups exchange their splits."""
        pulls = self.pulls()
        gains = pulls[:, self.places] - np.take_along_axis(pulls, self.places[:, None], axis=1)  # g to where h is
        distances = self.squares[:, None] + self.squares - 2 * self.products
        fits = self.allowed[:, self.places]  # (groups, groups): may g go to where h is
        return np.where(fits & fits.T, 2 * (distances + gains + gains.T), np.inf)

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
