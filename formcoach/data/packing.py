"""Which samples share a row: whole samples only, as few rows as best fit finds."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def best_fit(lengths: Sequence[int], capacity: int, most: int) -> list[list[int]]:
    """Share out samples to rows by best-fit decreasing.

    The longest sample first, each goes to the fullest row that still has room for it. That takes at most 11/9 of the
    fewest possible rows and 4 more (Johnson, "Near-optimal bin packing algorithms", 1973).

    Args:
        lengths: tokens of each sample.
        capacity: most tokens of a row; a sample that is longer has a row of its own.
        most: most samples of a row.

    Returns:
        The rows, each with the places of its samples in `lengths`; the longest sample is in the first row.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted; rows that can take no more are not in it
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        length = lengths[place]
        found = bisect_left(room, (length, 0))
        if found < len(room):
            left, row = room.pop(found)
        else:
            left, row = capacity, len(rows)
            rows.append([])
        rows[row].append(place)
        if left > length and len(rows[row]) < most:
            insort(room, (left - length, row))
    return rows


def split_to(rows: list[list[int]], count: int) -> list[list[int]]:
    """Return `count` rows with the same samples, if there are as many; rows with the most samples give some away."""
    rows = [list(row) for row in rows]
    while len(rows) < count:
        fullest = max(rows, key=len, default=[])
        if len(fullest) < 2:
            break
        rows.append([fullest.pop()])
    return rows
