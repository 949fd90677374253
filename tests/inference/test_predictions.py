"""Reading a predictions file."""

import msgspec
import pytest

from formcoach.errors import UserError
from formcoach.inference.predictions import Prediction, read_predictions


def test_reading_names_what_is_wrong(tmp_path):
    path = tmp_path / "predictions.jsonl"
    with pytest.raises(UserError, match="no such file"):
        read_predictions(path)
    line = msgspec.json.encode(Prediction(id="a", video="v", prompt="p", truth="t"))
    path.write_bytes(line + b"\n" + line)
    with pytest.raises(UserError, match="'a' comes twice"):
        read_predictions(path)
    path.write_bytes(line + b'\n{"id": 3}\n')
    with pytest.raises(UserError, match="line 2 is not a prediction"):
        read_predictions(path)
    listed = tmp_path / "predictions.json"
    listed.write_bytes(b"[" + line + b"]")
    assert [prediction.id for prediction in read_predictions(listed)] == ["a"]
    listed.write_bytes(line)
    with pytest.raises(UserError, match="not a list of predictions"):
        read_predictions(listed)
