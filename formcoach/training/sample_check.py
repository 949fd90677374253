"""A look at one training sample, all the way to what the model gets: do prompt, labels and visual tokens agree?"""

import unicodedata
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from formcoach.data.collate import NO_LOSS
from formcoach.data.dataset import ClipDataset, Pick
from formcoach.errors import UserError

COPY = "copy its tokenizer, processor_config.json and config.json again, all from one checkpoint"
SHOWN_LINES = 12  # of a prompt
SHOWN_LETTERS = 160  # of a line


def check_sample(dataset: ClipDataset, config: Any, name: str) -> list[str]:
    """Look at the clip of the first sample and check its tokens.

    Args:
        dataset: the samples; its processor is checked.
        config: the base model's.
        name: what the user calls the model.

    Returns:
        The sample as text, in lines for the user.

    Raises:
        UserError: the clip cannot be read, or the model's files do not fit together.
    """
    sample, processor = dataset.samples[0], dataset.processor
    visual = dataset.look(sample, dataset.view(Pick(0)))
    tokens, marks = processor.text_inputs(sample.question, visual.frames, visual.duration, sample.answer)
    ids, labels = tokens.tolist(), marks.tolist()
    for problem in (
        _wrong_visual_tokens(ids, visual.frames, config, processor),
        _wrong_labels(ids, labels, sample.answer, processor),
    ):
        if problem is not None:
            raise UserError(f"{name}: does not fit together: {problem}; {COPY}")
    answered = sum(label != NO_LOSS for label in labels)
    prompt = "".join(_pieces(ids[: len(ids) - answered], processor))
    learned = processor.tokenizer.decode(ids[len(ids) - answered :])
    return [
        f"sample {sample.id}: {len(ids)} tokens, of which the last {answered} are learned:",
        *_short_lines(prompt),
        f"  learned > {_short(' '.join(learned.split()))}",
    ]


def _wrong_visual_tokens(ids: Sequence[int], frames: int, config: Any, processor: Any) -> str | None:
    """Tell what is wrong with the placeholders of a sample of so many frames."""
    if processor.placeholder_id != config.image_token_id:
        return (
            f"the tokenizer's placeholder of a visual token has the id {processor.placeholder_id}, "
            f"the model's {config.image_token_id}"
        )
    placeholders, features = ids.count(config.image_token_id), config.visual_tokens(frames)
    if placeholders != features:
        return f"the prompt has {placeholders} visual tokens for {frames} frames, the model makes {features} of them"
    return None


def _wrong_labels(ids: Sequence[int], labels: Sequence[int], answer: str, processor: Any) -> str | None:
    """Tell what is wrong with the labels: they shall be the ids of the answer and its end, and nothing in front."""
    learned = [label for label in labels if label != NO_LOSS]
    if not learned or list(labels) != [NO_LOSS] * (len(ids) - len(learned)) + list(ids[len(ids) - len(learned) :]):
        return "the labels are not the last tokens of the sample"
    if learned[-1] not in processor.end_token_ids:
        return f"the answer ends with {processor.tokenizer.decode(learned[-1:])!r}, at which the model does not stop"
    text = processor.tokenizer.decode(learned[:-1])
    if _letters(text) != _letters(answer):
        return f"the tokens of the answer {_short(answer)!r} read {_short(text)!r}"
    return None


def _letters(text: str) -> str:
    """Return a text without what tokenizers may change: white space, and the ways to write one letter."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def _pieces(ids: Sequence[int], processor: Any) -> list[str]:
    """Return the texts of tokens, with a count in place of each run of placeholders."""
    pieces = []
    for is_visual, run in groupby(ids, lambda token: token == processor.placeholder_id):
        tokens = list(run)
        pieces.append(f"[{len(tokens)} visual tokens]" if is_visual else processor.tokenizer.decode(tokens))
    return pieces


def _short_lines(text: str) -> list[str]:
    """Return the first and the last lines of a text, each indented and of a length that can be read."""
    lines = [f"  {_short(line)}" for line in text.strip().splitlines()]
    if len(lines) <= SHOWN_LINES:
        return lines
    half = SHOWN_LINES // 2
    return [*lines[:half], f"  ... {len(lines) - 2 * half} lines ...", *lines[-half:]]


def _short(line: str) -> str:
    half = SHOWN_LETTERS // 2
    return line if len(line) <= SHOWN_LETTERS else f"{line[:half]} ... {line[-half:]}"
