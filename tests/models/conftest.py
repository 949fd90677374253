"""Checkpoints for the tests: the recorded one, and small ones made here."""

import pytest
import torch
from original_checkpoints import FIXTURE, write_original
from safetensors.torch import load_file

from formcoach.models import load_model


@pytest.fixture(scope="session")
def recorded():
    return load_file(FIXTURE / "expected.safetensors")


@pytest.fixture(scope="session")
def full_inputs(recorded):
    return {
        "input_ids": recorded["full_ids"],
        "attention_mask": torch.ones_like(recorded["full_ids"]),
        "pixel_values": recorded["pixel_values"],
    }


@pytest.fixture(scope="session")
def fixture_model():
    return load_model(FIXTURE, dtype="float32", device="cpu")


@pytest.fixture
def base_model():
    """A fresh model and processor, for tests that change it."""
    return load_model(FIXTURE, dtype="float32", device="cpu")


@pytest.fixture
def original(tmp_path):
    """A copy of the recorded checkpoint, in one file, to be damaged."""
    return write_original(tmp_path / "original")
