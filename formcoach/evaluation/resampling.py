"""How far a score could have come out otherwise: the bootstrap, resampled by person.

Clips of one person are alike, so a test set is drawn anew from its people, not from its clips (the cluster bootstrap;
Davison and Hinkley, Bootstrap Methods and Their Application, 1997, section 3.8). Each draw is of as many people as
there are, with repetition, and scores are computed from all their clips. The interval holds the middle 95 % of draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formcoach.inference.predictions import Prediction

DRAWS = 2000
SEED = 42
CONFIDENCE = 95  # %
_CHUNK = 100  # draws at a time
_POWER = 1.959964 + 0.841621  # standard errors: found in 4 of 5 test sets at the 5 % level, both sides


@dataclass(frozen=True)
class Units:
    """What is drawn with repetition.

    Args:
        of_clip: the number of each clip's unit (clips).
        count: of units.
        by_person: whether units are people, or clips where nobody is known.
    """

    of_clip: np.ndarray
    count: int
    by_person: bool

    def __str__(self) -> str:
        noun = ("person" if self.count == 1 else "people") if self.by_person else f"clip{'s' * (self.count != 1)}"
        return f"{self.count:,} {noun}"


def units(predictions: Sequence[Prediction]) -> Units:
    """Group a test set's answers by person; a clip of nobody known, and all questions about it, is a unit by itself."""
    names = [(prediction.person or "", "" if prediction.person else prediction.video) for prediction in predictions]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    of_clip = np.array([numbers[name] for name in names], dtype=np.int64)
    return Units(of_clip, len(numbers), any(prediction.person for prediction in predictions))


def point(ratios: np.ndarray) -> np.ndarray:
    """Return the scores (measures) from what each clip adds (clips, measures, 2); NaN where nothing is measured."""
    return _divide(ratios.sum(axis=0))


def draws(ratios: np.ndarray, of: Units, seed: int = SEED) -> np.ndarray:
    """Return the scores of `DRAWS` test sets drawn anew: (draws, measures).

    Draws of the same units and seed take the same people, so that two models' may be subtracted.

    Args:
        ratios: what each clip adds to each measure (clips, measures, 2).
        of: the units that the clips belong to.
        seed: of the draws.
    """
    if not of.count:
        return np.full((DRAWS, ratios.shape[1]), np.nan)
    sums = np.zeros((of.count, *ratios.shape[1:]))
    np.add.at(sums, of.of_clip, ratios)  # -> (units, measures, 2)
    flat = sums.reshape(of.count, -1)
    generator = np.random.default_rng(seed)
    parts = []
    for _ in range(0, DRAWS, _CHUNK):
        times = generator.multinomial(of.count, np.full(of.count, 1 / of.count), size=_CHUNK)  # (chunk, units)
        parts.append(_divide((times @ flat).reshape(_CHUNK, *ratios.shape[1:])))
    return np.concatenate(parts)


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """Return the middle 95 % of draws (draws); None where a score could not be computed in any."""
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    low, high = np.percentile(known, [(100 - CONFIDENCE) / 2, (100 + CONFIDENCE) / 2])
    return float(low), float(high)


def smallest_difference(differences: np.ndarray, least: float) -> float | None:
    """Return the difference that would be found in four test sets of this kind out of five.

    Args:
        differences: of draws (draws).
        least: what one clip more makes, the smallest step there is.
    """
    known = differences[~np.isnan(differences)]
    return max(_POWER * float(known.std(ddof=1)), least) if len(known) else None


def _divide(sums: np.ndarray) -> np.ndarray:
    """Return the ratios of (..., 2), NaN where the lower number is 0."""
    above, below = sums[..., 0], sums[..., 1]
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
