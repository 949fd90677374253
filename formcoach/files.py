"""Files that are written whole or not at all, and JSON whose errors name the place."""

import codecs
import glob
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from formcoach.errors import UserError

LARGEST_JSON = 2**30  # bytes; the largest label file of QEVD has a fifth of that


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` at the end, remove it on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp" + path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def why_unwritable(folder: Path) -> str | None:
    """Return the system's reason if no file can be written into a folder; it is created if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror


def remove_stale(path: Path) -> None:
    """Remove what `replacing` left behind where a process was killed; nobody may be writing `path` now."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp{glob.escape(path.suffix)}"):
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented UTF-8 JSON with a final newline, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def only_one(folder: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Let one process at a time change a folder; a killed one holds nobody up. Windows has no such locks.

    Args:
        folder: that exists.
        what: is being done, for the message of the others.
        wait: until the other process has ended, and say so.

    Raises:
        UserError: another process is at it, and nobody is to wait.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise UserError(f"{folder}: another process is {what}; wait until it has ended") from None
            print(f"waiting for another process that is {what} ...", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` (its name starts with a dot); rename it to `path` at the end.

    A folder that is already at `path` is replaced. On an error, Ctrl-C included, the new folder is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for file in temporary.rglob("*.safetensors"):
            file.chmod(0o666 & ~_umask())  # safetensors lets nobody else read what it writes
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            path.replace(old / path.name)
            temporary.replace(path)
            shutil.rmtree(old)
        else:
            temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_bytes(path: Path, remedy: str) -> bytes:
    """Return a file's bytes; a missing or unreadable file is a `UserError` that ends with `remedy`."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. {remedy}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). {remedy}") from error


def read_json_bytes(path: Path, remedy: str) -> bytes:
    """Return the bytes of a JSON file without a byte order mark; one of over a GiB is refused before it is read."""
    with suppress(OSError):  # told when it is read
        size = path.stat().st_size
        if size > LARGEST_JSON:
            raise UserError(
                f"{path}: has {size / 1e9:.1f} GB, and no JSON file of more than {LARGEST_JSON / 1e9:.1f} GB is read "
                f"(QEVD's have 0.2 GB at most); is it the right one? {remedy}"
            )
    return read_bytes(path, remedy).removeprefix(codecs.BOM_UTF8)


def read_json(path: Path, remedy: str) -> Any:
    """Return parsed JSON; a file that is missing or not JSON is a `UserError` naming line and column."""
    return parse_json(path, read_json_bytes(path, remedy), remedy)


def parse_json(path: Path, data: bytes, remedy: str) -> Any:
    """Return what the JSON file `path` holds; `data` are its bytes.

    Raises:
        UserError: it is no JSON; names line and column.
    """
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}). {remedy}") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: is not JSON: {error.msg} at line {error.lineno}, column {error.colno}. {remedy}"
        ) from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply to be a label file. {remedy}") from None


def inside(root: Path, relative: str) -> Path:
    """Return `root / relative`, refusing absolute paths and paths that climb out of `root`.

    Links inside `root` may point elsewhere (datasets are often linked from a bigger disk): the check is on the text of
    the path, which is what comes from a label file.
    """
    parts = PurePosixPath(relative.replace("\\", "/")).parts
    if not parts or relative.startswith(("/", "\\")) or ".." in parts or ":" in parts[0] or "\0" in relative:
        raise UserError(f"path {relative!r} is not inside {root}; use a path relative to that folder")
    return root.joinpath(*parts)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
