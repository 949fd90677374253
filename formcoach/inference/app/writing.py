"""Answers while they are written: the base model's, then the tuned one's, to one question at a time."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from queue import SimpleQueue

from transformers import PreTrainedTokenizerBase, TextStreamer

from formcoach.data.video import Clip
from formcoach.inference.predict import Predictor, Prompt

BASE, TUNED, ONLY = "Base model", "Tuned model", "Answer"


@dataclass(frozen=True)
class Written:
    """How far an answer is.

    Args:
        model: `BASE`, `TUNED` or, of a model without an adapter, `ONLY`.
        text: so far.
        seconds: since this model got the question.
        is_whole: whether this is all of it.
    """

    model: str
    text: str
    seconds: float
    is_whole: bool


class Writer:
    """Answers questions, each in a thread of its own, one after the other: they share the model and its adapter.

    Args:
        predictor: the model.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self._turn = threading.Lock()
        self._closed = threading.Event()

    @property
    def models(self) -> list[str]:
        """The models that answer, in turn."""
        return [BASE, TUNED] if self.predictor.has_adapter else [ONLY]

    def write(self, clip: Clip, question: str) -> Iterator[Written]:
        """Yield each answer as it grows; whoever closes this iterator frees the model at its next token.

        Raises:
            UserError: the question contains a control token, or the clip does not fit into the GPU's memory.
        """
        prompt = self.predictor.prompt(clip, question)
        told: SimpleQueue[Written | Exception | None] = SimpleQueue()
        left = threading.Event()
        threading.Thread(target=self._answer_all, args=(prompt, told.put, left)).start()
        try:
            while (news := told.get()) is not None:
                if isinstance(news, Exception):
                    raise news
                yield news
        finally:
            left.set()

    def close(self) -> None:
        """End all answers at their next token."""
        self._closed.set()

    def _answer_all(
        self, prompt: Prompt, tell: Callable[[Written | Exception | None], None], left: threading.Event
    ) -> None:
        try:
            with self._turn:
                for model in self.models:
                    with self._answering(model):
                        self._answer(model, prompt, tell, left)
        except _Left:
            pass
        except Exception as problem:  # raised again in the thread of the one who asked
            tell(problem)
        finally:
            tell(None)

    def _answering(self, model: str) -> AbstractContextManager:
        return self.predictor.base() if model == BASE else nullcontext()

    def _answer(self, model: str, prompt: Prompt, tell: Callable[[Written], None], left: threading.Event) -> None:
        begin = time.perf_counter()

        def grow(text: str) -> None:
            if left.is_set() or self._closed.is_set():
                raise _Left
            tell(Written(model, text, time.perf_counter() - begin, is_whole=False))

        grow("")
        text = self.predictor.answer(prompt, _Growing(self.predictor.processor.tokenizer, grow))
        tell(Written(model, text, time.perf_counter() - begin, is_whole=True))


class _Left(Exception):
    """Nobody waits for the answer any more."""


class _Growing(TextStreamer):
    """Tells the text so far after each token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tell: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._tell = tell
        self._text = ""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Take the next piece, which may be empty; `stream_end` says whether it is the last one."""
        self._text += text
        self._tell(self._text)
