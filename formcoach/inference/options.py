"""The flags that say which model answers, shared by the commands, and the model that they name."""

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formcoach.command import positive
from formcoach.data.convert import DATA_SET
from formcoach.errors import UserError
from formcoach.files import read_json
from formcoach.models.location import RUN_SETTINGS
from formcoach.processes import place

if TYPE_CHECKING:
    from formcoach.inference.predict import Predictor

SPLITS = Path("data/annotaions")
DATASET = Path("dataset")
MAX_NEW_TOKENS = 128


def add_flag(parser: argparse.ArgumentParser, name: str, *aliases: str, **options: object) -> None:
    """Add a flag with underscores in its name, and its dashed spelling."""
    names = (name, *aliases)
    parser.add_argument(*dict.fromkeys([*names, *(alias.replace("_", "-") for alias in names)]), **options)


def add_model_flags(parser: argparse.ArgumentParser, default: str) -> None:
    """Add `--model_path`, `--base_model`, `--quantization`, `--device` and `--max_new_tokens`.

    Args:
        parser: of the command.
        default: what the command does without `--model_path`, for its help.
    """
    add_flag(
        parser,
        "--model_path",
        metavar="PATH",
        help=f"run, checkpoint, adapter, hub id[@revision] or `tiny` (default: {default})",
    )
    add_flag(parser, "--base_model", metavar="PATH", help="the adapter's base, where it is not what the adapter names")
    add_flag(parser, "--quantization", choices=("nf4", "int8"), help="load the base in 4 or 8 bits")
    add_flag(parser, "--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add_flag(
        parser, "--max_new_tokens", type=positive, default=MAX_NEW_TOKENS, metavar="N", help="default: %(default)s"
    )


def add_clip_flags(parser: argparse.ArgumentParser, what: str, *, required: bool = False) -> None:
    """Add `--video_path`, `--prompt` and `--json`.

    Args:
        parser: of the command.
        what: the clips are to the command, for its help.
        required: whether the command needs a clip.
    """
    add_flag(
        parser,
        "--video_path",
        required=required,
        type=Path,
        nargs="+",
        action="extend",
        metavar="PATH",
        help=f"{what}; a folder stands for all clips below it",
    )
    add_flag(parser, "--prompt", metavar="TEXT", help="what is asked about them (default: the model's usual question)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each of them, one a line")


def add_data_path(parser: argparse.ArgumentParser, what: str) -> None:
    """Add `--data_path`; `what` the folder is, for its help."""
    names = "--data_path", "--dataset_dir"
    add_flag(parser, *names, type=Path, default=DATASET, metavar="DIR", help=f"{what} (default: %(default)s)")


def add_test_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--test_json`, `--splits_dir`, `--data_path`, `--limit` and `--batch_size`; see `test_file`."""
    add_flag(
        parser, "--test_json", type=Path, metavar="FILE", help="default: the test split, as the model's family asks"
    )
    add_flag(parser, "--splits_dir", type=Path, default=SPLITS, metavar="DIR", help="splits (default: %(default)s)")
    add_data_path(parser, "folder of the clips")
    add_flag(parser, "--limit", type=positive, metavar="N", help="only the first N clips")
    add_flag(parser, "--batch_size", type=positive, metavar="N", help="clips answered together (default: by device)")


def test_file(args: argparse.Namespace, model_path: str | Path) -> Path:
    """Return the test file: `--test_json`, else the test split in the form that the model was trained on.

    That is its family's, unless its run was given a registry of data sets, whose questions are those of the splits.

    Args:
        args: the flags of `add_test_flags`.
        model_path: the model.

    Raises:
        UserError: there is no such model.
    """
    if args.test_json is not None:
        return args.test_json
    from formcoach.models import family_of

    conversations = family_of(model_path).runs.conversations
    own = args.data_path / conversations.format(split="test") if conversations is not None else None
    if own is not None and own.is_file() and not _trained_by_registry(Path(model_path)):
        return own
    return args.splits_dir / f"{DATA_SET}_test.jsonl"


def _trained_by_registry(model: Path) -> bool:
    """Tell whether a run, or the run that a checkpoint is in, was trained on what a registry of data sets names."""
    run = next((folder for folder in (model, model.parent) if (folder / RUN_SETTINGS).is_file()), None)
    if run is None:
        return False
    from formcoach.training.run_directory import read_description

    remedy = "Name the test file with --test_json."
    datasets = Path(str(read_description(run, remedy).settings.get("datasets")))
    return datasets.suffix == ".json" and datasets.is_file() and isinstance(read_json(datasets, remedy), dict)


def load_once(
    args: argparse.Namespace, model_path: str | Path, batch_size: int | None = None
) -> Callable[[], "Predictor"]:
    """Return a function that loads the model that the flags of `add_model_flags` ask for, at its first call.

    Args:
        args: the parsed command line.
        model_path: `args.model_path` or the command's default.
        batch_size: clips that are answered together; None: by device.

    Raises:
        UserError: (the function) there is no such model, or it is an adapter of another base.
    """

    @cache
    def load() -> "Predictor":
        model, processor = _load(args, str(model_path))
        from formcoach.inference.predict import Predictor

        return Predictor(model, processor, max_new_tokens=args.max_new_tokens, batch_size=batch_size)

    return load


def _load(args: argparse.Namespace, model_path: str) -> tuple[Any, Any]:
    from torch import OutOfMemoryError

    from formcoach.inference.group import device_of
    from formcoach.models import load_model

    device = device_of(args.device, place())
    named = {"device": device, "quantization": args.quantization}
    try:
        if args.base_model:
            return load_model(args.base_model, adapter=model_path, **named)
        return load_model(model_path, **named)
    except OutOfMemoryError:
        raise UserError(
            f"model {model_path}: the free memory of the GPU (--device {device}) does not hold it; end what else runs "
            "there, or use --quantization nf4 or --device cpu"
        ) from None
