"""Folders of clips."""

import json
from collections.abc import Callable
from pathlib import Path

import numbered_clips
import pytest


@pytest.fixture(scope="session")
def frame_numbers() -> Callable[..., list[int]]:
    """Return a function that reads the numbers back from frames."""
    return numbered_clips.frame_numbers


@pytest.fixture(scope="session")
def write_clip() -> Callable[..., Path]:
    """Return a function that writes a clip."""
    return numbered_clips.write_clip


@pytest.fixture
def make_dataset(tmp_path: Path, write_clip) -> Callable[..., Path]:
    """Return a function that makes `dataset/` with clips and `ground_truth.json`, and returns the folder."""

    def make(records: list[dict], paths: list[str], name: str = "ground_truth.json") -> Path:
        dataset = tmp_path / "dataset"
        for path in paths:
            write_clip(dataset / path, frames=5)
        dataset.mkdir(exist_ok=True)
        (dataset / name).write_text(json.dumps(records), encoding="utf-8")
        return dataset

    return make
