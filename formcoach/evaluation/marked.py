"""The words of an answer that are not those of the truth."""

import re
from difflib import SequenceMatcher

_WORDS = re.compile(r"\s+|[^\s\w]|\w+")
LONGEST = 400  # words; of a longer answer nothing is marked, as comparing takes the square of its length


def marked(truth: str, answer: str) -> list[str]:
    """Return an answer in pieces, in turn as in the truth and otherwise; the first piece may be empty.

    Case does not count.
    """
    expected, given = (_WORDS.findall(text) for text in (truth, answer))
    if max(len(expected), len(given)) > LONGEST:
        return [answer]
    known, said = ([word.casefold() for word in words] for words in (expected, given))
    pieces, at = [""], 0
    for _, start, length in SequenceMatcher(None, known, said, autojunk=False).get_matching_blocks():
        other, same = "".join(given[at:start]), "".join(given[start : start + length])
        if not other.strip():
            pieces[-1] += other + same
        elif not same.strip() and start + length < len(given):
            continue  # a space between two other words
        else:
            pieces += [other, same]
        at = start + length
    return pieces if pieces[-1] or len(pieces) == 1 else pieces[:-1]
