"""Paths of this machine in what is to be seen by others: they tell names of people, projects and servers."""

import re
from typing import Any

_LOCAL_PATH = re.compile(
    r"(?<![\w.:/<\\)\]}-])"  # not within a word, an address or a closing tag
    r"(?:~?(?:/[^\s/\"'<>|:*?`]+){2,}|~/|[A-Za-z]:[\\/][^\s\\/]|\\\\[\w.-]+\\\w|file://)[^\s\"'`]*"
)


def find_local_path(value: Any) -> str | None:
    """Return the first absolute path in a text, or in any text of parsed JSON, keys included; None without one."""
    if isinstance(value, str):
        found = _LOCAL_PATH.search(value)
        return found[0] if found else None
    if isinstance(value, dict):
        return next(filter(None, map(find_local_path, (*value, *value.values()))), None)
    if isinstance(value, list):
        return next(filter(None, map(find_local_path, value)), None)
    return None
