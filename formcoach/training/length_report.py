"""How long the samples of a training are, in a few lines."""

from collections.abc import Iterable, Sequence

import numpy as np

from formcoach.training.lengths import Length

COLUMNS = ("shortest", "median", "95 %", "longest")
SHARES = (0.0, 0.5, 0.95, 1.0)


def length_table(lengths: Sequence[Length]) -> list[str]:
    """Return a table of the tokens of training samples, and how many an epoch has."""
    rows = {
        "text": [length.text for length in lengths],
        "visual": [length.visual for length in lengths],
        "answer": [length.answer for length in lengths],
        "all": [length.total for length in lengths],
    }
    lines = [_row("tokens a sample", COLUMNS)]
    lines += [_row(f"  {name}", (f"{count:,}" for count in _spread(counts))) for name, counts in rows.items()]
    count = f"{len(lengths):,} sample{'' if len(lengths) == 1 else 's'}"
    return [*lines, f"{count} and {sum(rows['all']):,} tokens an epoch"]


def length_line(lengths: Sequence[Length]) -> str:
    """Return a line on the tokens of validation samples."""
    totals = [length.total for length in lengths]
    shortest, median, _, longest = _spread(totals)
    count = f"{len(totals):,} sample{'' if len(totals) == 1 else 's'}"
    return f"validation: {count} of {shortest:,} to {longest:,} tokens, median {median:,}, {sum(totals):,} in all"


def _spread(counts: Sequence[int]) -> list[int]:
    """Return the shortest, the median, the 95th percentile and the longest; each is the length of a sample."""
    return np.quantile(counts, SHARES, method="higher").tolist()


def _row(name: str, cells: Iterable[str]) -> str:
    return f"{name:<17}" + "".join(f"{cell:>10}" for cell in cells)
