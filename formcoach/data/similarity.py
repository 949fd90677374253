"""Which clips show the same: perceptual signatures, and groups of clips whose signatures agree.

A signature holds hashes of what moments of a clip look like (pHash: the signs of the lowest frequencies of the
picture's cosine transform, about their median) and hashes of what changes from one moment to the next. The changes tell
a recording that was encoded once more from the same person doing the same again in the same place.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

MOMENTS = 8  # pictures of a clip, at equal shares of its duration
SIDE = 32  # of the square that a picture is scaled to
LOOKS, MOVES, FINE, STRENGTHS = slice(0, 64), slice(64, 120), slice(120, 152), slice(152, 159)  # bytes of a signature
BLANK = 3.0  # grey levels; a picture that varies less has no features to hash
STRENGTH_UNIT = 24.0  # a change's standard deviation is kept as 24 times its square root, in one byte

# How much two clips of the same recording may differ, in bits of a hash of 64. Found on drawn and on textured scenes
# that were encoded again (crf 26 to 40, smaller, in another shape, brighter, with half the frames, with noise), against
# other takes of the same scenes. Copies differ by 2.8 at most in looks, and in moves by 7 where these are strong and by
# 12 where they are near to the noise of encoding; their strengths by 3.6. Other takes differ in moves by 15 and more,
# unless somebody repeats the same movement in time to a twentieth of its period.
LOOKS_LIMIT = 4.0
STRENGTH_LIMIT = 4.0  # in units of STRENGTH_UNIT
MOVES_LIMITS = 13.0, 6.5  # of weak and of strong moves; in between of those in between
WEAK, STRONG = round(STRENGTH_UNIT * 1.5**0.5), round(STRENGTH_UNIT * 6.0**0.5)  # changes of 1.5 and 6 grey levels
STILL = round(STRENGTH_UNIT * 0.25**0.5)  # a change of 0.25 grey levels
STILL_LOOKS_LIMIT, STILL_FINE_LIMIT = 1.5, 10  # of two clips where nothing moves; fine: in bits of 256

# Candidates agree in all of some bits that were drawn by chance: with 5 % of the bits different, a pair of copies is
# found by one of the draws in all but 1 of 100,000 cases.
DRAWS, BITS = 40, 12  # of each of two kinds of bits
NEIGHBOURS = 24  # candidates of a clip in one draw; more agree only where hundreds of clips look alike
PAIRS_AT_A_TIME = 500_000


@dataclass(frozen=True)
class Signed:
    """A clip and what is needed to find those that show the same.

    Args:
        path: of the clip.
        duration: in seconds.
        digest: of the file's bytes.
        signature: of what is seen; empty for a blank clip, which only equals its exact copies.
    """

    path: str
    duration: float
    digest: bytes
    signature: bytes


@dataclass(frozen=True)
class _Table:
    """The signatures of n clips as arrays, rows in the order of their paths."""

    looks: np.ndarray  # (n, 8) uint64
    moves: np.ndarray  # (n, 7) uint64
    fine: np.ndarray  # (n, 4) uint64
    strengths: np.ndarray  # (n, 7) uint8
    durations: np.ndarray  # (n,) float32


def signature(pictures: Sequence[np.ndarray]) -> bytes:
    """Return the signature of a clip, or nothing if it is blank.

    Args:
        pictures: `MOMENTS` small gray pictures, (H, W) float32 in 0..255, upright.
    """
    squares = [cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) for picture in pictures]
    average = np.mean(squares, axis=0)
    if average.std() < BLANK:
        return b""
    changes = [after - before for before, after in pairwise(squares)]
    looks = [_hash(square, 8) for square in squares]
    moves = [_hash(change, 8) for change in changes]
    strengths = bytes(min(255, round(STRENGTH_UNIT * float(change.std()) ** 0.5)) for change in changes)
    return b"".join(looks) + b"".join(moves) + _hash(average, 16) + strengths


def _hash(square: np.ndarray, side: int) -> bytes:
    """Return the signs of the `side` x `side` lowest frequencies of a (SIDE, SIDE) picture, about their median."""
    low = cv2.dct(square)[:side, :side].ravel()
    return np.packbits(low > np.median(low[1:])).tobytes()  # the first is the brightness


def find_duplicates(clips: Sequence[Signed]) -> list[list[str]]:
    """Return the groups of clips that show the same, each sorted, in the order of their first members.

    Clips are in one group if they are linked by pairs. The result does not depend on the order of `clips`.
    """
    clips = sorted(clips, key=lambda clip: clip.path)
    groups = _Groups(len(clips))
    first_of: dict[bytes, int] = {}
    for number, clip in enumerate(clips):  # exact copies need no comparison
        groups.join(number, first_of.setdefault(clip.digest, number))
    seen: dict[bytes, int] = {}
    for number in first_of.values():
        if clips[number].signature:
            groups.join(number, seen.setdefault(clips[number].signature, number))
    numbers = np.fromiter(seen.values(), np.int64, len(seen))
    table = _table([clips[number] for number in seen.values()])
    for first, second in _candidates(table):
        same = _same(table, first, second)
        for one, other in zip(numbers[first[same]].tolist(), numbers[second[same]].tolist(), strict=True):
            groups.join(one, other)
    return [[clips[number].path for number in group] for group in groups.several()]


class _Groups:
    """Union-find over the numbers below `count`; the smallest number stands for its group."""

    def __init__(self, count: int) -> None:
        self._parents = list(range(count))

    def _root(self, number: int) -> int:
        while (parent := self._parents[number]) != number:
            self._parents[number] = self._parents[parent]
            number = self._parents[number]
        return number

    def join(self, one: int, other: int) -> None:
        """Put two numbers into the same group."""
        first, second = sorted((self._root(one), self._root(other)))
        self._parents[second] = first

    def several(self) -> list[list[int]]:
        """Return the groups that have more than one member."""
        members: dict[int, list[int]] = defaultdict(list)
        for number in range(len(self._parents)):
            members[self._root(number)].append(number)
        return [group for group in members.values() if len(group) > 1]


def _table(clips: Sequence[Signed]) -> _Table:
    rows = np.frombuffer(b"".join(clip.signature for clip in clips), np.uint8).reshape(len(clips), STRENGTHS.stop)
    looks, moves, fine = (np.ascontiguousarray(rows[:, part]).view(np.uint64) for part in (LOOKS, MOVES, FINE))
    durations = np.fromiter((clip.duration for clip in clips), np.float32, len(clips))
    return _Table(looks, moves, fine, rows[:, STRENGTHS], durations)


def _candidates(table: _Table) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield pairs of rows that may show the same, as two arrays; a pair may come more than once.

    Moves are compared where there are any. Where little moves they are mostly noise, and finer looks help.
    """
    rng = np.random.default_rng(0)
    everything = np.arange(len(table.looks))
    calm = np.flatnonzero(np.median(table.strengths, axis=1) < WEAK)
    for rows, other in ((everything, table.moves), (calm, table.fine)):
        for _ in range(DRAWS):
            keys = _draw(rng, table.looks[rows]) << np.uint64(BITS) | _draw(rng, other[rows])
            within = _draw(rng, other[rows])  # brings together in a crowd what agrees in more bits
            for first, second in _neighbours(keys, within):
                yield rows[first], rows[second]


def _draw(rng: np.random.Generator, hashes: np.ndarray) -> np.ndarray:
    """Return (n,) numbers made of `BITS` bits by chance of (n, words) hashes."""
    key = np.zeros(len(hashes), np.uint64)
    for place in rng.choice(hashes.shape[1] * 64, BITS, replace=False).tolist():
        key = key << np.uint64(1) | hashes[:, place // 64] >> np.uint64(place % 64) & np.uint64(1)
    return key


def _neighbours(keys: np.ndarray, within: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs with equal keys; in crowds only the nearest in the order of `within`."""
    order = np.lexsort((within, keys))
    ordered = keys[order]
    for step in range(1, NEIGHBOURS + 1):
        places = np.flatnonzero(ordered[step:] == ordered[:-step])
        if not len(places):
            break
        for start in range(0, len(places), PAIRS_AT_A_TIME):
            some = places[start : start + PAIRS_AT_A_TIME]
            yield order[some], order[some + step]


def _same(table: _Table, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the places of the pairs (first[i], second[i]) that show the same."""
    durations = table.durations[first], table.durations[second]
    close = np.abs(durations[0] - durations[1]) <= 0.2 + 0.02 * np.maximum(*durations)  # seconds
    places = np.flatnonzero(close)
    looks = np.bitwise_count(table.looks[first[places]] ^ table.looks[second[places]]).mean(axis=1)  # bits of 64
    places, looks = places[looks <= LOOKS_LIMIT], looks[looks <= LOOKS_LIMIT]
    one, other = first[places], second[places]
    strengths = [table.strengths[rows].astype(np.float32) for rows in (one, other)]
    weights = np.minimum(*strengths) + 1e-3
    moves = (np.bitwise_count(table.moves[one] ^ table.moves[other]) * weights).sum(axis=1) / weights.sum(axis=1)
    fine = np.bitwise_count(table.fine[one] ^ table.fine[other]).sum(axis=1)
    strongest = np.maximum(*(each.max(axis=1) for each in strengths))
    typical = np.median(np.maximum(*strengths), axis=1)
    alike = np.abs(strengths[0] - strengths[1]).mean(axis=1) <= STRENGTH_LIMIT
    still = (strongest < STILL) & (looks <= STILL_LOOKS_LIMIT) & (fine <= STILL_FINE_LIMIT)
    moving = (strongest >= STILL) & alike & (moves <= np.interp(typical, (WEAK, STRONG), MOVES_LIMITS))
    return places[still | moving]
