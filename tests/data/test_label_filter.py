"""Label files are cut down to what is wanted, and nothing else about them changes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from formcoach.data.kept import Cleaned, write_cleaned
from formcoach.data.label_filter import Criteria, filter_labels, is_not_visible, keep_backup
from formcoach.errors import UserError

COMMAND = Path(__file__).resolve().parents[2] / "utils" / "filter_ground_truth.py"
RECORDS = [
    {"video_path": "./b.mp4", "labels": ["squats - slow", "squats - knees not visible"], "extra": {"é": [1, 2.0]}},
    {"video_path": "gone.mp4", "labels": ["squats - slow"], "split": "train"},
    {"split": "train", "labels": ["Push Ups - feet not visible."], "video_path": "dataset/a.mp4", "worker_id": 7},
    {"video_path": "c/c.mp4", "labels": ["good"], "labels_descriptive": "Well done", "split": "test"},
    {"video_path": "d.mp4", "labels": ["squats - x"], "labels_descriptive": ["One", "Hands not visible"]},
]


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "dataset"
    for path in ("a.mp4", "b.mp4", "c/c.mp4", "d.mp4"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"clip")
    (folder / "manifest.json").write_text('{"c/c.mp4": "burpees"}')
    (folder / "fine_grained_labels.json").write_text(json.dumps(RECORDS))
    return folder


@pytest.fixture
def keep(dataset, tmp_path):
    def keep(**criteria):
        done = filter_labels(dataset, None, tmp_path / "out.json", Criteria(**criteria))
        return json.loads((tmp_path / "out.json").read_text()), done

    return keep


def named(records):
    return [record["video_path"] for record in records]


def test_records_of_clips_on_disk_are_kept_as_they_are(keep, dataset):
    records, done = keep()
    assert records == [record for record in RECORDS if record["video_path"] != "gone.mp4"]
    assert [list(record) for record in records][1] == ["split", "labels", "video_path", "worker_id"]
    assert (done.before, done.records, done.clips, done.dropped) == (5, 4, 4, {"clip not on disk": 1})
    assert json.loads((dataset / "fine_grained_labels.json").read_text()) == RECORDS


def test_exercises_splits_and_small_classes(keep):
    assert named(keep(exercises=("push_ups", "Burpees"))[0]) == ["dataset/a.mp4", "c/c.mp4"]
    assert named(keep(exclude=("push ups",))[0]) == ["./b.mp4", "c/c.mp4", "d.mp4"]
    assert named(keep(splits=("test", "train"))[0]) == ["dataset/a.mp4", "c/c.mp4"]
    records, done = keep(min_clips=2)
    assert named(records) == ["./b.mp4", "d.mp4"]
    assert done.dropped["of an exercise with fewer than 2 clips"] == 2
    assert keep(exclude=("push ups",), splits=("train", "test"))[1].dropped == {
        "clip not on disk": 1,
        "of another split": 2,
        "of an excluded exercise": 1,
    }


def test_labels_of_what_cannot_be_seen_are_dropped(keep):
    records, done = keep(drop_not_visible=True)
    assert [record["labels"] for record in records] == [["squats - slow"], ["good"], ["squats - x"]]
    assert records[0]["extra"] == RECORDS[0]["extra"]
    assert records[2]["labels_descriptive"] == ["One"]
    assert (done.dropped["nothing visible"], done.labels_dropped) == (1, 2)
    assert is_not_visible("squats - Knees Not  visible. ")
    assert not is_not_visible("squats - not visible knees")


@pytest.mark.parametrize(
    ("descriptive", "expected"),
    [
        (["No", "Yes"], ["Yes"]),
        ("No\nYes", "Yes"),
        ("One sentence about both", "One sentence about both"),
        (None, None),
    ],
)
def test_descriptions_follow_their_labels(dataset, tmp_path, descriptive, expected):
    record = {"video_path": "a.mp4", "labels": ["x - not visible", "x - y"], "labels_descriptive": descriptive}
    (dataset / "ground_truth.json").write_text(json.dumps([record]))
    filter_labels(dataset, None, tmp_path / "out.json", Criteria(drop_not_visible=True))
    assert json.loads((tmp_path / "out.json").read_text()) == [
        {"video_path": "a.mp4", "labels": ["x - y"], "labels_descriptive": expected}
    ]


def test_only_what_cleaning_kept(keep, tmp_path):
    with pytest.raises(UserError, match=r"kept_clips.json: no such file. Run: python utils/clean_dataset.py"):
        keep(cleaned=tmp_path)
    write_cleaned(tmp_path, Cleaned(kept=["b.mp4", "c/c.mp4"], rejected={"a.mp4": ["dark"]}))
    records, done = keep(cleaned=tmp_path)
    assert named(records) == ["./b.mp4", "c/c.mp4"]
    assert done.dropped["not kept by cleaning"] == 2


def test_in_place_keeps_every_older_file(dataset):
    labels = dataset / "fine_grained_labels.json"
    done = filter_labels(dataset, labels, None, Criteria())
    assert json.loads(done.backup.read_text()) == RECORDS
    again = filter_labels(dataset, labels, None, Criteria(splits=("train",)))
    assert (done.backup.name, again.backup.name) == ("fine_grained_labels.json.bak", "fine_grained_labels.json.bak2")
    assert len(json.loads(again.backup.read_text())) == 4
    assert len(json.loads(labels.read_text())) == 1
    assert keep_backup(labels).name == "fine_grained_labels.json.bak3"
    assert keep_backup(labels).name == "fine_grained_labels.json.bak3"  # the same again


def test_the_file_behind_a_link_is_filtered(dataset, tmp_path):
    link = tmp_path / "labels.json"
    link.symlink_to(dataset / "fine_grained_labels.json")
    filter_labels(dataset, link, None, Criteria())
    assert link.is_symlink()
    assert len(json.loads(link.read_text())) == 4


def test_mistakes_are_named_and_nothing_is_written(dataset, tmp_path):
    labels = dataset / "fine_grained_labels.json"
    before = labels.read_bytes()
    for criteria, message in [
        (Criteria(exercises=("squat",)), "exercise 'squat' is none of the 3 there are; did you mean: squats"),
        (Criteria(splits=("val",)), "no record of split 'val'; there is: test, train"),
        (Criteria(min_clips=9), "no record would be left .1 clip not on disk, 4 of an exercise with fewer than 9"),
    ]:
        with pytest.raises(UserError, match=message):
            filter_labels(dataset, None, None, criteria)
    with pytest.raises(UserError, match="is the label file or a folder"):
        filter_labels(dataset, None, dataset / ".." / "dataset" / labels.name, Criteria())
    for content, message in [
        ("[{}]", r"record 1 .*missing required field `video_path`.*fix_manifest_format"),
        ('[{"video_path": "/etc/x.mp4"}]', "record 1 .* is not inside"),
        ('{"a": 1}', "holds no list"),
        ('[{"video_path": "a.mp4", "labels": "x"}]', r"record 1 .*labels"),
    ]:
        bad = tmp_path / "bad.json"
        bad.write_text(content)
        with pytest.raises(UserError, match=message):
            filter_labels(dataset, bad, tmp_path / "out.json", Criteria())
    assert labels.read_bytes() == before
    assert sorted(path.name for path in dataset.glob("*.bak*")) == []
    assert not (tmp_path / "out.json").exists()


def test_the_command(dataset, tmp_path):
    def run(*arguments):
        command = [sys.executable, str(COMMAND), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)

    done = run("--output", "dataset/ground_truth.json", "--drop-not-visible", "--exclude-exercises", "burpees")
    assert done.returncode == 0, done.stderr
    assert "1 clip not on disk" in done.stdout
    assert "wrote dataset/ground_truth.json: 2 records of 2 clips" in done.stdout
    for arguments in ([], ["--output", "x", "--in-place"], ["--in-place", "--min-clips-per-exercise", "0"], ["--kept"]):
        done = run(*arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
