"""The predictions file: kept answers are reused where they fit, never mixed, and survive a kill."""

import msgspec
import pytest

from formcoach.data.annotations import Conversation, Turn
from formcoach.errors import UserError
from formcoach.inference.predictions import (
    Prediction,
    Settings,
    checkpoint_fingerprint,
    complete_predictions,
    read_predictions,
    records_fingerprint,
)

SETTINGS = Settings(
    model="run", fingerprint="f1", test_file="t", test_sha256="t1", max_new_tokens=8, frames="real", precision="fp32"
)
RECORDS = [
    Conversation(f"clip {number}", f"{number}.mp4", [Turn("human", "<image>\nHow?"), Turn("gpt", "a - b")], 1.0)
    for number in range(6)
]


class Model:
    """Answers with its name; fails or is killed where told to."""

    def __init__(self, name, kill_at=None, fail_at=()):
        self.name, self.kill_at, self.fail_at, self.asked = name, kill_at, fail_at, []

    def __call__(self, records):
        for record in records:
            if record.id == self.kill_at:
                raise KeyboardInterrupt
            self.asked.append(record.id)
            failed = record.id in self.fail_at
            yield Prediction(
                id=record.id,
                video=record.video,
                prompt=record.question,
                truth=record.answer,
                prediction="" if failed else self.name,
                status="failed" if failed else "ok",
            )


def complete(path, model, settings=SETTINGS, wanted=RECORDS):
    return complete_predictions(path, settings, RECORDS, wanted, model)


def test_a_second_run_asks_nothing_and_leaves_the_file_alone(tmp_path):
    path = tmp_path / "out" / "predictions.jsonl"
    first = complete(path, Model("one"))
    before = path.stat().st_mtime_ns
    again = Model("two")
    assert complete(path, again) == first == read_predictions(path)
    assert again.asked == [] and path.stat().st_mtime_ns == before
    assert [entry.name for entry in path.parent.iterdir() if "partial" in entry.name] == []


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    path = tmp_path / "predictions.jsonl"
    with pytest.raises(KeyboardInterrupt):
        complete(path, Model("one", kill_at="clip 3"))
    assert not path.exists()
    with (tmp_path / "predictions.jsonl.partial").open("ab") as file:
        file.write(b'{"id": "clip 3", "vid')  # torn by a kill -9
    second = Model("two")
    answers = [prediction.prediction for prediction in complete(path, second)]
    assert second.asked == ["clip 3", "clip 4", "clip 5"]
    assert answers == ["one"] * 3 + ["two"] * 3
    assert [prediction.id for prediction in read_predictions(path)] == [record.id for record in RECORDS]


@pytest.mark.parametrize(
    "change", [{"fingerprint": "f2"}, {"test_sha256": "t2"}, {"max_new_tokens": 9}, {"frames": "blank"}]
)
def test_answers_under_other_settings_are_not_mixed_in(tmp_path, change):
    path = tmp_path / "predictions.jsonl"
    complete(path, Model("one"))
    with pytest.raises(KeyboardInterrupt):
        complete(path, Model("two", kill_at="clip 2"), msgspec.structs.replace(SETTINGS, **change))
    assert {prediction.prediction for prediction in read_predictions(path)} == {"one"}
    answers = complete(path, Model("three"), msgspec.structs.replace(SETTINGS, **change, precision="nf4"))
    assert {prediction.prediction for prediction in answers} == {"three"}


def test_a_moved_run_keeps_its_answers(tmp_path):
    path = tmp_path / "predictions.jsonl"
    complete(path, Model("one"))
    again = Model("two")
    complete(path, again, msgspec.structs.replace(SETTINGS, model="elsewhere", test_file="/other"))
    assert again.asked == []


def test_an_edited_file_is_not_trusted(tmp_path):
    path = tmp_path / "predictions.jsonl"
    complete(path, Model("one"))
    path.write_text(path.read_text().replace("one", "better"))
    assert {prediction.prediction for prediction in complete(path, Model("two"))} == {"two"}


def test_failed_clips_are_kept_as_failed_and_tried_again(tmp_path):
    path = tmp_path / "predictions.jsonl"
    first = complete(path, Model("one", fail_at={"clip 1"}))
    assert [prediction.status for prediction in first] == ["ok", "failed", "ok", "ok", "ok", "ok"]
    second = Model("two")
    assert complete(path, second)[1].prediction == "two"
    assert second.asked == ["clip 1"]


def test_a_limit_answers_fewer_and_loses_none(tmp_path):
    path = tmp_path / "predictions.jsonl"
    assert len(complete(path, Model("one"), wanted=RECORDS[:2])) == 2
    full = Model("two")
    assert len(complete(path, full)) == 6 and len(full.asked) == 4
    assert len(complete(path, Model("three"), wanted=RECORDS[:2])) == 6


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


def test_fingerprints_tell_checkpoints_and_test_files_apart(tmp_path):
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(b"weights")
    one = checkpoint_fingerprint([tmp_path])
    assert checkpoint_fingerprint([tmp_path]) == one
    weights.write_bytes(b"Weights")
    assert checkpoint_fingerprint([tmp_path]) != one
    missing = records_fingerprint(RECORDS, tmp_path)
    (tmp_path / "3.mp4").write_bytes(b"clip")
    assert records_fingerprint(RECORDS, tmp_path) != missing != records_fingerprint(RECORDS[:5], tmp_path)
