"""JSON as people write it: other encodings, comments, trailing commas, one record a line. What is wrong is named."""

import codecs
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

BOMS = {
    codecs.BOM_UTF8: ("utf-8", "a byte order mark"),
    codecs.BOM_UTF16_LE: ("utf-16-le", "UTF-16 instead of UTF-8"),
    codecs.BOM_UTF16_BE: ("utf-16-be", "UTF-16 instead of UTF-8"),
}
TOKEN = re.compile(  # a string, a comment, or a comma that only blanks and comments part from a closing bracket
    r"""(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<comment>//[^\n]*|\#[^\n]*|/\*.*?\*/)
    |(?P<comma>,(?=(?:\s|//[^\n]*(?:\n|$)|\#[^\n]*(?:\n|$)|/\*.*?\*/)*[\]}]))""",
    re.DOTALL | re.VERBOSE,
)


class BeyondRepair(Exception):
    """The file cannot be read without guessing; the message says where."""


@dataclass(frozen=True)
class Loose:
    """What a file holds.

    Args:
        value: parsed.
        changes: what had to be understood that is no JSON, in words.
        doubled: keys that an object has twice with different values.
    """

    value: Any
    changes: list[str]
    doubled: list[str]


def parse_loosely(data: bytes) -> Loose:
    """Return what a file holds that is nearly JSON.

    Args:
        data: the file's bytes.

    Raises:
        BeyondRepair: there is more than one way to read it, or none.
    """
    changes: list[str] = []
    text = _decode(data, changes)
    reader = _Reader()
    try:
        return Loose(reader.read(text), changes, reader.doubled)
    except json.JSONDecodeError as error:
        if not text.strip():
            raise BeyondRepair("is empty") from None
        first = error
    records = _lines(text, reader := _Reader())
    if records is not None:
        return Loose(records, [*changes, f"one record a line ({len(records)}) instead of a list"], reader.doubled)
    cleaned = _clean(text, found := [])
    if found:
        try:
            reader = _Reader()
            return Loose(reader.read(cleaned), [*changes, *found], reader.doubled)
        except json.JSONDecodeError as error:
            first = error  # places are the same: what is removed leaves blanks
            records = _lines(cleaned, reader := _Reader())
            if records is not None:
                told = [*changes, *found, f"one record a line ({len(records)}) instead of a list"]
                return Loose(records, told, reader.doubled)
    raise BeyondRepair(f"is not JSON: {first.msg} at line {first.lineno}, column {first.colno}")


def _decode(data: bytes, changes: list[str]) -> str:
    """Return the file's text: UTF-8, UTF-16 with or without its mark, or what Windows calls ANSI."""
    mark = next((mark for mark in BOMS if data.startswith(mark)), None)
    if mark is not None:
        encoding, name = BOMS[mark]
        data = data.removeprefix(mark)
        changes.append(name)
    else:
        encoding = _without_mark(data[:2])
        changes += ["UTF-16 instead of UTF-8"] if encoding != "utf-8" else []
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise BeyondRepair(f"is not {encoding} text (byte {error.start})") from None
        wrong = error.start
    line = data.count(b"\n", 0, wrong) + 1
    if re.search(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}", data):
        raise BeyondRepair(f"mixes UTF-8 with another encoding at line {line}; correct that text")
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BeyondRepair(f"has bytes at line {line} that are text in no usual encoding; correct that text") from None
    changes.append("Latin-1 (Windows-1252) instead of UTF-8")
    return text


def _without_mark(start: bytes) -> str:
    """Return the encoding by where the zero bytes are (RFC 4627, 3): JSON begins with two ASCII characters."""
    if len(start) == 2 and 0 in start and any(start):
        return "utf-16-be" if start[0] == 0 else "utf-16-le"
    return "utf-8"


class _Reader:
    """Reads JSON; notes keys that an object has twice with different values."""

    def __init__(self) -> None:
        self.doubled: list[str] = []

    def read(self, text: str) -> Any:
        try:
            return json.loads(text, strict=False, object_pairs_hook=self._object, parse_constant=self._constant)
        except RecursionError:
            raise BeyondRepair("is nested too deeply to be a label file") from None

    def _object(self, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            self.doubled += sorted({key for key, value in pairs if made[key] != value})
        return made

    def _constant(self, name: str) -> NoReturn:
        raise BeyondRepair(f"holds {name}, which is no JSON value")


def _lines(text: str, reader: _Reader) -> list[Any] | None:
    """Return the objects of JSON Lines; None if that is not what it is."""
    lines = [line.strip() for line in text.split("\n")]
    records = []
    for line in lines:
        if not line:
            continue
        try:
            record = reader.read(line.removesuffix(","))
        except json.JSONDecodeError:
            return None
        if not isinstance(record, dict):
            return None
        records.append(record)
    return records or None


def _clean(text: str, found: list[str]) -> str:
    """Return the text with blanks for comments and for commas before a closing bracket; says so in `found`."""
    counts = Counter()

    def blank(match: re.Match[str]) -> str:
        if match.lastgroup == "string":
            return match[0]
        counts[match.lastgroup] += 1
        return re.sub(r"[^\n]", " ", match[0])

    cleaned = TOKEN.sub(blank, text)
    names = {"comment": "comments", "comma": "commas before a closing bracket"}
    found += [f"{names[kind]} ({counts[kind]})" for kind in names if counts[kind]]
    return cleaned
