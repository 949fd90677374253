"""Processes that crash or hang take nothing down but the clip they had in hand."""

import os
import time

from formcoach.data.workers import spread
from formcoach.errors import ClipError


def work(path):
    if path.startswith("crash"):
        os.abort()
    if path.startswith("leave"):
        os._exit(3)
    if path.startswith("hang"):
        time.sleep(600)
    if path.startswith("bug"):
        raise ValueError("two\nlines")
    if path.startswith("bad"):
        raise ClipError(path, "is bad")
    return len(path)


def told(paths, workers=2, seconds=60.0):
    return {
        path: result.reason if isinstance(result, ClipError) else result
        for path, result in spread(work, paths, workers, seconds)
    }


def test_every_path_has_a_result_whatever_happens():
    paths = ["crash", "good 1", "bad", "leave", "good 22", "bug", "crash again", "good 333"]
    assert told(paths) == {
        "crash": "crashes the decoder (SIGABRT)",
        "good 1": 6,
        "bad": "is bad",
        "leave": "crashes the decoder (exit code 3)",
        "good 22": 7,
        "bug": "cannot be measured (ValueError: two lines)",
        "crash again": "crashes the decoder (SIGABRT)",
        "good 333": 8,
    }


def test_what_hangs_is_given_up():
    results = told(["hang", "a", "bb", "hang again", "ccc"], seconds=3.0)
    assert results["hang"] == results["hang again"] == "is given up: it takes longer than 3 s to decode"
    assert (results["a"], results["bb"], results["ccc"]) == (1, 2, 3)


def test_more_workers_than_work():
    assert told(["a"], workers=8) == {"a": 1}
    assert told([], workers=2) == {}


def test_nobody_is_left_behind_when_the_reader_stops():
    results = spread(work, ["a", "hang", "hang 2"], 2, 60.0)
    assert next(results) == ("a", 1)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 50  # nobody waited for what hangs
