"""Answers to score."""

import pytest

from formcoach.inference.predictions import Prediction

TRUTH = "squats - not low enough"


@pytest.fixture
def make():
    """Return a function that makes an answer; every one has an id of its own."""
    made = []

    def make(prediction: str = TRUTH, truth: str = TRUTH, **more) -> Prediction:
        made.append(prediction)
        clip = f"clip-{len(made)}"
        fields = {"id": clip, "video": f"{clip}.mp4", "prompt": "?", "truth": truth, "prediction": prediction}
        return Prediction(**(fields | more))

    return make
