"""A question about the clips that a user names, and its answers, each told as soon as it is there."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from formcoach.command import progress
from formcoach.data.video import probe_all
from formcoach.errors import ClipError, UserError
from formcoach.inference.clips import named_clips
from formcoach.inference.options import load_once

if TYPE_CHECKING:
    from formcoach.inference.predict import Predictor, Prompt

    Say = Callable[[Predictor, Prompt, str], str]


def ask(args: argparse.Namespace, default: Callable[[], str | Path], *, both: bool = False) -> None:
    """Answer a question about each clip of `--video_path`: one after the other, so that none changes another's answer.

    Answers go to stdout, and nothing else does: on a terminal as they are written, with `--json` as an object a line.
    A clip that cannot be read is told on stderr, before a model is loaded if its header shows it; the others are
    answered.

    Args:
        args: the flags of `add_model_flags` and `add_clip_flags`.
        default: gives the model where `--model_path` names none.
        both: answer with the base model and then, where it has an adapter, with the tuned one.

    Raises:
        UserError: a folder has no clips, there is no such model or, at the end, clips could not be read.
    """
    paths, question = named_clips(args.video_path), args.prompt
    several, terminal = len(paths) > 1, sys.stdout.isatty()
    probed = zip(paths, progress(probe_all(paths), len(paths), "headers"), strict=True)
    bad = {path: found for path, found in probed if isinstance(found, ClipError)}
    for problem in bad.values() if several else ():
        _complain(problem)
    readable = [path for path in paths if path not in bad]
    if readable:
        model = args.model_path or default()
        predictor = load_once(args, model)()
        question = question or predictor.processor.question
        prompts = predictor.prompts(readable, question)
    say = _quiet if args.json else _streamed if terminal else _whole
    failures = []
    for path in progress(paths, len(paths), "clips") if several and not terminal else paths:
        told: dict[str, Any] = {"video": str(path), "prompt": question}
        prompt = bad.get(path) or next(prompts)
        if isinstance(prompt, ClipError):
            failures.append(prompt)
            if several and path not in bad:
                _complain(prompt)
            told["error"] = str(prompt)
        else:
            answers = _answers(predictor, prompt, both, f"{path}: " if several else "", say)
            told = {"model": str(model)} | told | answers
        if args.json:
            _print(json.dumps(told, ensure_ascii=False) + "\n")
    if failures:
        counted = UserError(
            f"{len(failures)} of {len(paths)} clips cannot be read, see above; repair or leave them out"
        )
        raise counted if several else failures[0]


def _answers(predictor: "Predictor", prompt: "Prompt", both: bool, prefix: str, say: "Say") -> dict[str, Any]:
    """Return what `--json` tells about a clip that can be read."""
    start = time.perf_counter()
    answers = {}
    for name, answering in _models(predictor, both):
        with answering:
            answers[name] = say(predictor, prompt, f"{prefix}{name}: " if both else prefix)
    seconds = round(time.perf_counter() - start, 3)
    return answers | {"duration": prompt.duration, "frames": prompt.indices, "seconds": seconds}


def _models(predictor: "Predictor", both: bool) -> Iterator[tuple[str, AbstractContextManager]]:
    """Yield the name of each answer, and within what it is given."""
    if not both:
        yield "prediction", nullcontext()
        return
    yield "base", predictor.base()
    if predictor.has_adapter:
        yield "tuned", nullcontext()


def _quiet(predictor: "Predictor", prompt: "Prompt", _prefix: str) -> str:
    return predictor.answer(prompt)


def _whole(predictor: "Predictor", prompt: "Prompt", prefix: str) -> str:
    answer = predictor.answer(prompt)
    _print(f"{prefix}{answer}\n")
    return answer


def _streamed(predictor: "Predictor", prompt: "Prompt", prefix: str) -> str:
    _print(prefix)
    try:
        return predictor.answer(prompt, predictor.terminal_streamer())
    except KeyboardInterrupt:
        _print("\n")  # what is told next does not belong to the answer
        raise


def _print(text: str) -> None:
    """Print at once; a file name that is not UTF-8 is written with escapes, which JSON understands too."""
    print(text.encode(errors="backslashreplace").decode(), end="", flush=True)


def _complain(problem: ClipError) -> None:
    tqdm.write(str(problem), file=sys.stderr)  # above the bar, if `progress` shows one
