"""Answers on disk: kept where they fit, never mixed, never lost, and whole after a kill."""

import threading

import msgspec
import pytest

from formcoach.data.annotations import Conversation, Turn
from formcoach.errors import UserError
from formcoach.inference import kept_answers as module
from formcoach.inference.fingerprints import checkpoint_fingerprint, clip_sources
from formcoach.inference.group import Group
from formcoach.inference.kept_answers import Questions, Settings, complete_predictions, kept_answers
from formcoach.inference.predictions import Prediction, read_predictions

SETTINGS = Settings(
    model="run", fingerprint="f1", test_file="test.jsonl", max_new_tokens=8, frames="real", precision="fp32"
)
RECORDS = [
    Conversation(f"clip {number}", f"{number}.mp4", [Turn("human", "<image>\nHow?"), Turn("gpt", "a - b")], 1.0)
    for number in range(6)
]
SOURCES = {record.id: f"source {record.id}" for record in RECORDS}


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


@pytest.fixture
def path(tmp_path):
    return tmp_path / "predictions.jsonl"


def complete(path, model, settings=SETTINGS, wanted=RECORDS, records=RECORDS, sources=SOURCES, group=Group()):  # noqa: B008
    questions = Questions(settings, records, wanted, sources)
    return complete_predictions(path, questions, kept_answers(path, questions), model, group)


def changed(**settings):
    return msgspec.structs.replace(SETTINGS, **settings)


def said(predictions):
    return [prediction.prediction for prediction in predictions]


def names(path):
    return sorted(entry.name for entry in path.parent.iterdir())


def test_a_second_run_asks_nothing_and_leaves_the_file_alone(path):
    first = complete(path, Model("one"))
    before = path.stat().st_mtime_ns
    again = Model("two")
    assert complete(path, again) == first == read_predictions(path)
    assert again.asked == [] and path.stat().st_mtime_ns == before
    assert names(path) == ["predictions.jsonl", "predictions.settings.json"]


def test_a_killed_run_goes_on_where_it_was(path):
    with pytest.raises(KeyboardInterrupt):
        complete(path, Model("one", kill_at="clip 3"))
    assert not path.exists()
    (partial,) = path.parent.iterdir()
    with partial.open("ab") as file:
        file.write(b'{"id": "clip 3", "vid')  # torn by a kill -9
    second = Model("two")
    assert said(complete(path, second)) == ["one"] * 3 + ["two"] * 3
    assert second.asked == ["clip 3", "clip 4", "clip 5"]
    assert [prediction.id for prediction in read_predictions(path)] == [record.id for record in RECORDS]


@pytest.mark.parametrize("place", ["path.replace", "write_json", "file.unlink"])
def test_a_run_that_is_killed_while_it_finishes_loses_nothing(path, place, monkeypatch):
    complete(path, Model("one", fail_at={"clip 2"}))

    def killed(*_args, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if place == "write_json":
            patch.setattr(module, "write_json", killed)
        elif place == "path.replace":
            patch.setattr(module, "replacing", _nth(module.replacing, 2, killed))
        else:
            patch.setattr(type(path), "unlink", killed)
        complete(path, Model("two"))
    third = Model("three")
    assert said(complete(path, third)) == ["one", "one", "two", "one", "one", "one"]
    assert third.asked == []
    assert names(path) == ["predictions.jsonl", "predictions.settings.json"]


def _nth(function, count, other):
    """Return what calls `function`, and `other` at the call of number `count`."""
    calls = []

    def either(*args):
        calls.append(args)
        return (other if len(calls) == count else function)(*args)

    return either


@pytest.mark.parametrize(
    "change", [{"fingerprint": "f2"}, {"max_new_tokens": 9}, {"frames": "blank"}, {"precision": "nf4 on auto"}]
)
def test_answers_under_other_settings_are_neither_mixed_nor_lost(path, change):
    complete(path, Model("one"))
    with pytest.raises(KeyboardInterrupt):
        complete(path, Model("two", kill_at="clip 2"), changed(**change))
    assert set(said(read_predictions(path))) == {"one"}
    assert set(said(complete(path, Model("three"), changed(**change, model="x")))) == {"two", "three"}
    assert set(said(read_predictions(path.with_name("predictions.1.jsonl")))) == {"one"}
    again = Model("four")
    assert set(said(complete(path.with_name("predictions.1.jsonl"), again))) == {"one"}
    assert again.asked == []
    complete(path, Model("five"))
    assert set(said(read_predictions(path.with_name("predictions.2.jsonl")))) == {"two", "three"}


def test_an_interrupted_run_is_kept_while_another_model_answers(path):
    with pytest.raises(KeyboardInterrupt):
        complete(path, Model("one", kill_at="clip 4"))
    complete(path, Model("other"), changed(fingerprint="f2"))
    back = Model("two")
    assert said(complete(path, back)) == ["one"] * 4 + ["two"] * 2
    assert back.asked == ["clip 4", "clip 5"]


def test_a_moved_run_keeps_its_answers(path):
    complete(path, Model("one"))
    again = Model("two")
    complete(path, again, changed(model="elsewhere", test_file="/other"))
    assert again.asked == []


def test_a_clip_that_was_replaced_is_asked_again_and_no_other(path):
    complete(path, Model("one"))
    second = Model("two")
    complete(path, second, sources=SOURCES | {"clip 4": "repaired"})
    assert second.asked == ["clip 4"]
    third = Model("three")
    complete(path, third, sources=SOURCES | {"clip 4": "repaired"})
    assert third.asked == []


def test_a_file_that_was_changed_or_is_no_predictions_file_is_left_alone(path):
    complete(path, Model("one"))
    edited = path.read_text().replace("one", "better")
    for text in (edited, "my notes", ""):
        path.write_text(text)
        with pytest.raises(UserError, match=r"predictions.jsonl: was not written by this command, or was changed"):
            complete(path, Model("two"))
        assert path.read_text() == text
    with pytest.raises(UserError, match=r"name a file that ends in .jsonl"):
        complete(path.with_suffix(".json"), Model("two"))


def test_answers_to_another_test_file_are_left_alone(path):
    complete(path, Model("one"))
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"answers to 4 clips that are not in test.jsonl, first: 'clip 2'"):
        complete(path, Model("two"), records=RECORDS[:2], wanted=RECORDS[:2])
    assert path.read_bytes() == before


def test_a_test_file_that_grew_keeps_its_answers(path):
    complete(path, Model("one"), records=RECORDS[:4], wanted=RECORDS[:4])
    second = Model("two")
    assert said(complete(path, second)) == ["one"] * 4 + ["two"] * 2
    assert second.asked == ["clip 4", "clip 5"]


def test_failed_clips_are_kept_as_failed_and_tried_again(path):
    first = complete(path, Model("one", fail_at={"clip 1"}))
    assert [prediction.status for prediction in first] == ["ok", "failed", "ok", "ok", "ok", "ok"]
    limited = complete(path, Model("two"), wanted=RECORDS[:1])
    assert limited[1].status == "failed"  # not asked again, and not dropped
    second = Model("two")
    assert complete(path, second)[1].prediction == "two"
    assert second.asked == ["clip 1"]


def test_a_limit_answers_fewer_and_loses_none(path):
    assert len(complete(path, Model("one"), wanted=RECORDS[:2])) == 2
    full = Model("two")
    assert len(complete(path, full)) == 6 and len(full.asked) == 4
    assert len(complete(path, Model("three"), wanted=RECORDS[:2])) == 6


class Together(Group):
    """A process of a group whose processes are threads here."""

    def meet(self):
        self.barrier.wait(timeout=200)


def run_together(path, models, barrier):
    """Let each model answer its share, at the same time; return what the first gave."""
    results, groups = {}, [Together(rank, len(models)) for rank in range(len(models))]

    def work(group, model):
        object.__setattr__(group, "barrier", barrier)
        try:
            results[group.rank] = complete(path, model, group=group)
        except (KeyboardInterrupt, threading.BrokenBarrierError):
            barrier.abort()

    threads = [threading.Thread(target=work, args=pair) for pair in zip(groups, models, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_processes_share_the_clips_and_a_killed_run_goes_on_with_fewer(path):
    models = [Model("one"), Model("two", kill_at="clip 4"), Model("three")]
    assert run_together(path, models, threading.Barrier(3)) == {}
    assert not path.exists() and len(names(path)) == 3
    answered = [clip for model in models for clip in model.asked]
    pair = [Model("four"), Model("five")]
    results = run_together(path, pair, threading.Barrier(2))
    asked = [clip for model in pair for clip in model.asked]
    assert sorted(answered + asked) == sorted(SOURCES)
    assert results[0] == results[1] == read_predictions(path)
    assert [prediction.id for prediction in results[0]] == list(SOURCES)
    assert names(path) == ["predictions.jsonl", "predictions.settings.json"]


def test_fingerprints_tell_checkpoints_and_clips_apart(tmp_path):
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(b"weights")
    one = checkpoint_fingerprint([tmp_path])
    assert checkpoint_fingerprint([tmp_path]) == one
    weights.write_bytes(b"Weights")
    assert checkpoint_fingerprint([tmp_path]) != one
    missing = clip_sources(RECORDS, tmp_path, "real")
    swapped = clip_sources(RECORDS, tmp_path, "swapped")
    (tmp_path / "3.mp4").write_bytes(b"clip")
    there = clip_sources(RECORDS, tmp_path, "real")
    assert [clip for clip in there if there[clip] != missing[clip]] == ["clip 3"]
    again = clip_sources(RECORDS, tmp_path, "swapped")
    assert all(again[clip] != swapped[clip] for clip in again)  # each may have been shown in another's place
