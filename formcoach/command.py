"""What every command shares: its parser, its exit codes and its progress display."""

import argparse
import errno
import gc
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

from formcoach.errors import UserError

Item = TypeVar("Item")

EXIT_USER_ERROR = 2
QUIET_SECONDS = 2.0  # between two lines of progress


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like all other errors of a user."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one line."""
        self.exit(EXIT_USER_ERROR, f"error: {message} (see {self.prog} --help)\n")


def command_parser(description: str, example: str) -> OneLineParser:
    """Return a parser with `--debug` and a real example at the end of its help."""
    parser = OneLineParser(
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return parser


def add_folders(parser: argparse.ArgumentParser, dataset: str, output: str | None = None) -> None:
    """Add `--dataset-dir` and, if there is something to say about it, `--output-dir`.

    Args:
        parser: gets them.
        dataset: what is, or goes, into the dataset folder.
        output: what is, or goes, into the folder of the splits.
    """
    for flag, folder, what in (("dataset", "dataset", dataset), ("output", "data/annotaions", output)):
        if what is not None:
            names = f"--{flag}-dir", f"--{flag}_dir"
            parser.add_argument(*names, type=Path, default=Path(folder), metavar="DIR", help=f"{what} (%(default)s)")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a command's `main` and exit: 0 on success, 2 on a user's mistake, 1 on a crash.

    A `UserError`, an interrupt, a missing permission and a full disk end with one line on stderr; `--debug` shows the
    traceback as well.
    """
    try:
        code = main() or 0
        print(end="", flush=True)  # at the very end, nobody would catch a reader that went away
        sys.exit(code)
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("interrupted; complete files and checkpoints are kept")
    except BrokenPipeError:  # the reader of our output went away, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be written
        sys.exit(1)
    except PermissionError as error:
        _fail(f"{error.filename or 'a file'}: permission denied; check who may read and write there")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(f"no space left on the disk of {error.filename or 'the output folder'}; free some and run this again")
    finally:
        gc.freeze()  # a search for garbage among all that PyTorch has loaded would delay the end by a second


@contextmanager
def importing() -> Iterator[None]:
    """Within the context, which imports heavy libraries, look for no garbage: what they make is there to stay.

    The search, over and over again, takes a fifth of the time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def _fail(message: str) -> NoReturn:
    if "--debug" in sys.argv:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)


def positive(text: str) -> int:
    """Parse a whole number from 1 up."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def usable_cores() -> int:
    """Return the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def progress(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Yield `items`, showing how far it is: a bar on a terminal, elsewhere a few plain lines.

    Args:
        items: what to go through.
        total: how many items there are.
        what: a plural noun for them, e.g. ``"clips"``.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=what, unit="", leave=False)
        return
    shown, last = 0, time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        tenth, now = done * 10 // max(total, 1), time.monotonic()
        if tenth > shown and now - last > QUIET_SECONDS:
            shown, last = tenth, now
            print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)
