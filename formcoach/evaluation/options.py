"""The flags that say how answers are scored, shared by the commands."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from formcoach.errors import UserError
from formcoach.inference.options import add_flag

if TYPE_CHECKING:
    from formcoach.evaluation.judge import Judge


def add_score_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--no_bert`, `--judge_url`, `--judge_model` and `--judge_key_env`."""
    add_flag(parser, "--no_bert", action="store_true", help="do not compare embeddings, which takes some seconds")
    add_flag(
        parser,
        "--judge_url",
        metavar="URL",
        help="let a language model grade the answers: an OpenAI-compatible service, e.g. http://127.0.0.1:8000/v1",
    )
    add_flag(parser, "--judge_model", metavar="NAME", help="the model's name there")
    add_flag(parser, "--judge_key_env", metavar="VARIABLE", help="environment variable that holds the service's key")


def judge_of(args: argparse.Namespace, folder: Path) -> "Judge | None":
    """Return the judge that the flags of `add_score_flags` ask for.

    Args:
        args: the parsed command line.
        folder: keeps its verdicts.

    Raises:
        UserError: one of the flags is missing or wrong.
    """
    if args.judge_url is None:
        if args.judge_model or args.judge_key_env:
            raise UserError("--judge_model and --judge_key_env are about a judge; name its service with --judge_url")
        return None
    if args.judge_model is None:
        raise UserError(f"--judge_url {args.judge_url}: name the model there with --judge_model")
    key = None
    if args.judge_key_env is not None:
        key = os.environ.get(args.judge_key_env)
        if not key:
            raise UserError(f"--judge_key_env {args.judge_key_env}: this environment variable is missing or empty")

    from formcoach.evaluation.judge import KEPT, Judge

    return Judge(args.judge_url, args.judge_model, folder / KEPT, key)
