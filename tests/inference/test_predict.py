"""Answers of a real model to real clips."""

from dataclasses import replace

import pytest

from formcoach.data.video import read_clip
from formcoach.errors import ClipError, UserError
from formcoach.inference.frames import frames_of, swap


def answers(predictor, clips, kind="real", **changes):
    root, records = clips
    changed = replace(predictor, **changes)
    read = frames_of(kind, root, records, predictor.processor, predictor.reader)
    return list(changed.predict(records, read))


def test_each_record_gets_its_answer_in_order(predictor, clips):
    got = answers(predictor, clips)
    assert [prediction.id for prediction in got] == [record.id for record in clips[1]]
    for prediction, record in zip(got, clips[1], strict=True):
        assert (prediction.status, prediction.error) == ("ok", None)
        assert (prediction.truth, prediction.labels, prediction.prompt) == (
            record.answer,
            record.labels,
            record.question,
        )
        assert prediction.prediction and prediction.seconds > 0


def test_batches_and_single_clips_give_the_same_answers(predictor, clips):
    texts = [prediction.prediction for prediction in answers(predictor, clips, batch_size=4)]
    assert [prediction.prediction for prediction in answers(predictor, clips, batch_size=1)] == texts
    root, records = clips
    single = predictor.answer(predictor.prompt(predictor.read(root / records[2].video), records[2].question))
    assert single == texts[2]


def test_base_is_the_model_without_its_adapter(predictor, clips, base_model):
    from formcoach.inference.predict import Predictor
    from formcoach.models import load_model

    tuned = [prediction.prediction for prediction in answers(predictor, clips)]
    with predictor.base():
        base = [prediction.prediction for prediction in answers(predictor, clips)]
    alone = Predictor(*load_model(base_model, device="cpu"), max_new_tokens=12)
    assert base == [prediction.prediction for prediction in answers(alone, clips)]
    assert all(before != after for before, after in zip(base, tuned, strict=True))
    assert [prediction.prediction for prediction in answers(predictor, clips)] == tuned
    with alone.base():
        assert [prediction.prediction for prediction in answers(alone, clips)] == base


def test_a_bad_clip_is_recorded_and_the_others_are_answered(predictor, clips, tmp_path):
    root, records = clips
    (tmp_path / "squats").mkdir()
    for record in records:
        (tmp_path / record.video).symlink_to(root / record.video)
    (tmp_path / records[1].video).unlink()
    (tmp_path / records[4].video).unlink()
    (tmp_path / records[4].video).write_bytes(b"")
    got = answers(predictor, (tmp_path, records), batch_size=3)
    assert [prediction.status for prediction in got] == ["ok", "failed", "ok", "ok", "failed", "ok"]
    assert "clip 1.mp4: no such file" in got[1].error and "is empty" in got[4].error
    whole = answers(predictor, clips, batch_size=1)
    assert [got[place].prediction for place in (0, 2, 3, 5)] == [whole[place].prediction for place in (0, 2, 3, 5)]
    assert got[1].prediction == ""


def test_all_clips_bad(predictor, clips, tmp_path):
    got = answers(predictor, (tmp_path, clips[1]))
    assert [prediction.status for prediction in got] == ["failed"] * 6


def test_a_path_that_leaves_the_folder_fails(predictor, clips):
    root, records = clips
    read = frames_of("real", root / "squats", records, predictor.processor, "pyav")
    with pytest.raises(UserError):
        read(type(records[0])("x", "../squats/clip 1.mp4", records[0].conversations, 2.0))


def test_controls_keep_the_prompt_and_change_the_frames(predictor, clips):
    root, records = clips
    select, reader = predictor.processor.select_frames, predictor.reader
    own = [read_clip(root / record.video, select, reader) for record in records]
    blank = frames_of("blank", root, records, predictor.processor, reader)
    swapped = frames_of("swapped", root, records, predictor.processor, reader)
    for record, clip in zip(records, own, strict=True):
        grey, other = blank(record), swapped(record)
        assert grey.duration == other.duration == clip.duration
        assert len(grey.frames) == len(other.frames) == len(clip.frames)
        assert (grey.frames == 128).all()
        assert (other.frames != clip.frames).any()
    with pytest.raises(ClipError):
        frames_of("blank", root / "nowhere", records, predictor.processor, reader)(records[0])


def test_a_swap_gives_every_clip_another_one(clips):
    records = clips[1]
    others = swap(records)
    assert sorted(others) == sorted(others.values())
    assert all(video != other for video, other in others.items())
    assert swap(records[::-1]) == others
    with pytest.raises(UserError, match="at least two clips"):
        swap(records[:1])
