"""How many tokens the texts of a training sample have, without making them all.

A tokenizer cuts a text at its control tokens before it looks at what lies between. So a prompt may be measured in parts
that begin with a control token, and what comes again and again, as the lines of the frames and a question do, is
measured once. A sample then costs the tokenization of its answer.
"""

from collections.abc import Callable
from typing import TypeVar

from tokenizers import Tokenizer

from formcoach.errors import UserError

MOST_KNOWN = 20_000  # parts that are remembered, of a few hundred bytes

Key = TypeVar("Key")
Value = TypeVar("Value")


class TextLengths:
    """Counts tokens.

    Args:
        tokenizer: the fast tokenizer's own.
        image_end: the control token behind a frame's placeholders.
        turn_start: the one that opens a turn.
        turn_end: the one that closes it.
    """

    def __init__(self, tokenizer: Tokenizer, image_end: str, turn_start: str, turn_end: str) -> None:
        self._tokenizer = tokenizer
        self._image_end = image_end
        self._turn_start = turn_start
        self._turn_end = turn_end
        self._heads: dict[tuple[int, str], int] = {}
        self._tails: dict[str, tuple[int, str, list[int]]] = {}

    def head(self, frames: int, duration: str, prompt: Callable[[], str]) -> int:
        """Return the tokens of a prompt up to its last frame, visual ones included.

        Args:
            frames: how many it has.
            duration: as the prompt says it.
            prompt: makes any prompt with these two.
        """
        known = self._heads.get((frames, duration))
        if known is None:
            text = prompt()
            known = len(self._tokenizer.encode(text[: text.rindex(self._image_end)]))
            _remember(self._heads, (frames, duration), known)
        return known

    def tail(self, question: str, answer: str, prompt: Callable[[], str]) -> tuple[int, int]:
        """Return the tokens of a prompt from the end of its last frame on, and those of the answer and its end.

        Args:
            question: is asked behind the frames.
            answer: follows the prompt.
            prompt: makes any prompt with this question.

        Raises:
            UserError: see `check_begin`.
        """
        known = self._tails.get(question)
        if known is None:
            text = prompt()
            turn = text[text.rindex(self._turn_start) :]
            known = len(self._ids(text[text.rindex(self._image_end) :])), turn, self._ids(turn)
            _remember(self._tails, question, known)
        count, turn, turn_ids = known
        ids = self._ids(turn + answer + self._turn_end)
        check_begin(turn_ids, ids, answer)
        return count, len(ids) - len(turn_ids)

    def _ids(self, part: str) -> list[int]:
        return self._tokenizer.encode(part, add_special_tokens=False).ids


def _remember(known: dict[Key, Value], key: Key, value: Value) -> None:
    if len(known) >= MOST_KNOWN:
        known.clear()
    known[key] = value


def check_begin(prompt_ids: list[int], ids: list[int], answer: str) -> None:
    """Refuse an answer whose first characters become one token with the end of the prompt.

    Args:
        prompt_ids: of the prompt, or of its last turn.
        ids: of the same with the answer behind it.
        answer: for the message.

    Raises:
        UserError: `ids` do not begin with `prompt_ids`.
    """
    if ids[: len(prompt_ids)] != prompt_ids:
        raise UserError(
            f"the answer {answer[:40]!r} begins with characters that the tokenizer merges with the end of the prompt; "
            "change them"
        )
