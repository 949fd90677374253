"""A model's answers to clips: greedy, in batches, the next clips decoded while the model writes."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import PeftModel
from transformers import BatchFeature, TextStreamer

from formcoach.data.annotations import Conversation
from formcoach.data.collate import collate_prompts
from formcoach.data.video import Clip, read_clip
from formcoach.errors import ClipError, UserError
from formcoach.inference.options import MAX_NEW_TOKENS
from formcoach.inference.predictions import FAILED, Prediction

Item = TypeVar("Item")
Ready = TypeVar("Ready")

BATCHES = {
    "cpu": 16,
    "cuda": 8,
}  # clips; `benchmarks/inference.py` compares them; a GPU has the large model beside them

_DECODERS = 2  # threads that read clips while the model runs


@dataclass(frozen=True)
class Prompt:
    """A question about a clip, as the model takes it.

    Args:
        inputs: the processor's.
        duration: seconds of the clip.
        indices: which of its frames the model looks at.
    """

    inputs: BatchFeature
    duration: float
    indices: list[int]


@dataclass(frozen=True)
class Prepared:
    """A record on its way to the model: its inputs, or why there are none."""

    record: Conversation
    inputs: BatchFeature | None
    error: str | None
    seconds: float


@dataclass(frozen=True)
class Predictor:
    """Answers questions about clips with a loaded model.

    Args:
        model: from `formcoach.models.load_model`; its adapter, if it has one, is on.
        processor: that model's.
        reader: which library decodes the clips, see `formcoach.data.video.read_clip`.
        max_new_tokens: most tokens of an answer.
        batch_size: clips that are answered together; None: `default_batch`.
    """

    model: Any
    processor: Any
    reader: str = "auto"
    max_new_tokens: int = MAX_NEW_TOKENS
    batch_size: int | None = None

    @property
    def default_batch(self) -> int:
        """Clips that are answered together unless told otherwise: fewer on a GPU, which holds the large model too."""
        return 8 if self.model.device.type == "cuda" else 16  # see `benchmarks/inference.py`

    @property
    def has_adapter(self) -> bool:
        """Whether the model is a base with an adapter, so that `base` shows another model."""
        return isinstance(self.model, PeftModel)

    @contextmanager
    def base(self) -> Iterator[None]:
        """Answer with the base model inside this block: the adapter is off, connector included."""
        if not self.has_adapter:
            yield
            return
        with self.model.disable_adapter():
            yield

    def read(self, path: str | Path) -> Clip:
        """Return the frames of a clip that the model looks at.

        Raises:
            ClipError: the clip is missing, empty, damaged or not a video.
        """
        return read_clip(path, self.processor.select_frames, self.reader)

    def prompt(self, clip: Clip, question: str) -> Prompt:
        """Return a question about a clip from `read`.

        Raises:
            UserError: the question contains one of the model's control tokens.
        """
        return Prompt(self.processor(clip.frames, question, clip.duration), clip.duration, clip.indices)

    def prompts(self, paths: Sequence[str | Path], question: str) -> Iterator[Prompt | ClipError]:
        """Yield a question about each clip in turn, or why the clip cannot be read; the next are decoded meanwhile.

        Raises:
            UserError: see `prompt`.
        """

        def prompt(path: str | Path) -> Prompt | ClipError:
            try:
                return self.prompt(self.read(path), question)
            except ClipError as problem:
                return problem
            except OSError as problem:  # of the disk, after the clip was opened
                return ClipError(path, f"may not be read ({problem.strerror})")

        return _ahead(paths, prompt, _DECODERS + 1)

    def answer(self, prompt: Prompt, streamer: Any = None) -> str:
        """Return the answer to one question.

        Args:
            prompt: from `prompt` or `prompts`.
            streamer: a transformers streamer that is given the answer's tokens as they come.
        """
        return self._generate([prompt.inputs], streamer)[0]

    def terminal_streamer(self) -> TextStreamer:
        """Return a streamer that prints the answer while it is written."""
        return TextStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)

    def predict(self, records: Sequence[Conversation], read: Callable[[Conversation], Clip]) -> Iterator[Prediction]:
        """Yield the answer to each record, in order; a clip that cannot be read gives a failed prediction.

        Args:
            records: the questions.
            read: gives the frames of a record's clip, see `formcoach.inference.frames`; called in threads.
        """
        size = self.batch_size or self.default_batch
        prepared = _ahead(records, lambda record: self._prepare(record, read), 2 * size)
        while batch := list(islice(prepared, size)):
            yield from self._answer_batch(batch)

    def _prepare(self, record: Conversation, read: Callable[[Conversation], Clip]) -> Prepared:
        start = time.perf_counter()
        inputs = error = None
        try:
            inputs = self.prompt(read(record), record.question).inputs
        except (UserError, OSError) as problem:
            error = str(problem)
        return Prepared(record, inputs, error, time.perf_counter() - start)

    def _answer_batch(self, batch: Sequence[Prepared]) -> Iterator[Prediction]:
        """Yield the predictions of a batch, whose failed clips never reach the model."""
        start = time.perf_counter()
        usable = [prepared.inputs for prepared in batch if prepared.inputs is not None]
        answers = iter(self._generate(usable) if usable else [])
        share = (time.perf_counter() - start) / max(len(usable), 1)
        for prepared in batch:
            if prepared.inputs is None:
                yield _prediction(prepared, status=FAILED, error=prepared.error, seconds=prepared.seconds)
            else:
                yield _prediction(prepared, prediction=next(answers), seconds=prepared.seconds + share)

    def _generate(self, clips: Sequence[BatchFeature], streamer: Any = None) -> list[str]:
        """Return the greedy answers to some clips.

        Raises:
            UserError: one clip alone does not fit into the GPU's memory.
        """
        inputs = collate_prompts(clips, self.processor.tokenizer.pad_token_id)
        try:
            with torch.inference_mode():
                ids = self.model.generate(
                    **{name: value.to(self.model.device) for name, value in inputs.items()},
                    max_new_tokens=self.max_new_tokens,
                    do_sample=False,
                    streamer=streamer,
                )  # (batch, longest prompt + longest answer)
        except torch.OutOfMemoryError:
            if len(clips) == 1:
                raise UserError(
                    "the GPU's memory does not hold one clip beside the model; free some, or use --quantization nf4"
                ) from None
            torch.cuda.empty_cache()
            half = len(clips) // 2
            return self._generate(clips[:half]) + self._generate(clips[half:])
        return [self.processor.decode(row) for row in ids[:, inputs["input_ids"].shape[1] :]]


def _ahead(items: Iterable[Item], prepare: Callable[[Item], Ready], window: int) -> Iterator[Ready]:
    """Yield the prepared items in order, at most `window` of them being or waiting ready."""
    pool = ThreadPoolExecutor(_DECODERS)
    waiting: deque[Future[Ready]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(prepare, item))
            if len(waiting) >= window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prediction(prepared: Prepared, **outcome: Any) -> Prediction:
    record = prepared.record
    return Prediction(
        id=record.id,
        video=record.video,
        prompt=record.question,
        truth=record.answer,
        labels=record.labels,
        person=record.person,
        **(outcome | {"seconds": round(outcome["seconds"], 4)}),
    )
