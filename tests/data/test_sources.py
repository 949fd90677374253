import json
from collections import Counter
from pathlib import Path

import pytest

from formcoach.data.annotations import Conversation, Turn, write_conversations
from formcoach.data.augment import DEFAULT
from formcoach.data.sources import load_source, read_sources
from formcoach.errors import UserError

IDS = [str(number) for number in range(10)]


def write_project(project: Path, **settings) -> Path:
    turns = [Turn("human", "<image>\nHow is it?"), Turn("gpt", "squats - fine")]
    records = [Conversation(name, f"squats/{name}.mp4", turns, 3.0) for name in IDS]
    write_conversations(project / "data/annotaions/train.jsonl", records)
    entry = {"root": "dataset", "annotation": "data/annotaions/train.jsonl", "data_augment": False} | settings
    (project / "data/diy_ft_data.json").write_text(json.dumps({"mine": entry}))
    return project / "data/diy_ft_data.json"


def ids(path: Path, seed: int = 42) -> list[str]:
    (source,) = read_sources(path)
    return [record.id for record in load_source(source, seed)]


def test_relative_paths_start_at_the_project_whatever_the_working_directory(tmp_path, monkeypatch):
    path = write_project(tmp_path / "project", video_read_type="pyav")
    monkeypatch.chdir(tmp_path)
    for written in (path, Path("project/data/diy_ft_data.json")):
        (source,) = read_sources(written)
        assert source.root.absolute() == tmp_path / "project/dataset"
        assert (source.name, source.reader) == ("mine", "pyav")
        assert len(load_source(source)) == 10
    monkeypatch.chdir(tmp_path / "project/data")
    (source,) = read_sources(Path("diy_ft_data.json"))
    assert source.root.absolute() == tmp_path / "project/dataset"


def test_a_source_may_lie_elsewhere(tmp_path):
    (source,) = read_sources(write_project(tmp_path / "project", root=str(tmp_path / "disk")))
    assert source.clip(load_source(source)[0]) == tmp_path / "disk/squats/0.mp4"


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ("all", IDS),
        ("first:3", IDS[:3]),
        ("first:99", IDS),
        ("first:25%", IDS[:3]),
        ("end:3", IDS[-3:]),
        ("end:50%", IDS[5:]),
        ("end:100%", IDS),
    ],
)
def test_a_sampling_strategy_chooses_conversations(tmp_path, sampling, expected):
    assert ids(write_project(tmp_path, sampling_strategy=sampling)) == expected


@pytest.mark.parametrize("sampling", ["random:4", "random:40%"])
def test_random_sampling_is_decided_by_the_seed(tmp_path, sampling):
    path = write_project(tmp_path, sampling_strategy=sampling)
    assert ids(path) == ids(path)
    assert len(set(ids(path))) == 4
    assert len({tuple(ids(path, seed)) for seed in range(10)}) > 1


@pytest.mark.parametrize(("times", "length"), [(1, 10), (2, 20), (0.5, 5), (2.5, 25), (0.04, 0)])
def test_repeat_time_sets_how_often_an_epoch_sees_each(tmp_path, times, length):
    path = write_project(tmp_path, repeat_time=times)
    if not length:
        with pytest.raises(UserError, match="no conversations are left for mine"):
            ids(path)
        return
    counts = Counter(ids(path))
    assert sum(counts.values()) == length
    assert set(counts.values()) <= {int(times), int(times) + 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampling_strategy": "last:3"}, r"sampling_strategy 'last:3'"),
        ({"sampling_strategy": "first:0"}, r"sampling_strategy 'first:0'"),
        ({"sampling_strategy": "first:1.5"}, r"sampling_strategy 'first:1.5'"),
        ({"sampling_strategy": "first:120%"}, r"sampling_strategy 'first:120%'"),
        ({"sampling_strategy": "random"}, r"sampling_strategy 'random'"),
        ({"video_read_type": "ffmpeg"}, r"video_read_type 'ffmpeg' is unknown; use decord, opencv, pyav"),
        (
            {"data_augment": ["rotation", "zoom"]},
            r"data_augment: 'zoom' is no augmentation; there are horizontal_flip,",
        ),
        ({"data_augment": "rotation"}, r"\$.data_augment"),
        ({"repeat_time": 0}, r"repeat_time 0"),
        ({"repeat_time": -1.5}, r"repeat_time -1.5"),
        ({"repeat_time": "2"}, r"\$.repeat_time"),
        ({"root": None}, r"\$.root"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(tmp_path, settings, message):
    path = write_project(tmp_path, **settings)
    with pytest.raises(UserError, match=message) as caught:
        read_sources(path)
    assert f"{path}: mine:" in str(caught.value)


def test_augmentations_are_the_usual_ones_or_those_named(tmp_path):
    for setting, expected in ((True, DEFAULT), (False, ()), (["jpeg", "rotation"], ("rotation", "jpeg")), ([], ())):
        (source,) = read_sources(write_project(tmp_path, data_augment=setting))
        assert source.augmentations == expected
    assert not {"vertical_flip", "colour_inversion"} & set(DEFAULT)


@pytest.mark.parametrize(
    ("content", "message"), [("[]", "names no data set"), ("{}", "names no data set"), ("{,", "line 1")]
)
def test_a_malformed_list_of_data_sets_is_named(tmp_path, content, message):
    path = tmp_path / "diy_ft_data.json"
    path.write_text(content)
    with pytest.raises(UserError, match=rf"diy_ft_data.json: .*{message}"):
        read_sources(path)


def test_a_clip_outside_the_root_is_refused(tmp_path):
    (source,) = read_sources(write_project(tmp_path))
    for video in ("../secret.mp4", "/etc/passwd"):
        with pytest.raises(UserError, match=r"train.jsonl: x: path .* is not inside"):
            source.clip(Conversation("x", video, [], 1.0))
