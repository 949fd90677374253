import json
import os
import random
import shutil
import sys
import unicodedata

import pytest

from formcoach.data.qevd import PEOPLE, read_folder
from formcoach.errors import UserError

LABELS = ["squats - not low enough"]


def record(path, labels=LABELS, **fields):
    return {"video_path": path, "labels": labels, **fields}


@pytest.mark.parametrize(
    "written", ["squats/1.mp4", "./squats/1.mp4", "dataset/squats/1.mp4", "1.mp4", "./1.mp4", "squats\\1.mp4"]
)
def test_a_clip_is_found_however_its_path_is_written(make_dataset, written):
    folder = read_folder(make_dataset([record(written)], ["squats/1.mp4", "squats/11.mp4"]))
    assert [clip.path for clip in folder.clips] == ["squats/1.mp4"]
    assert folder.unlisted == ["squats/11.mp4"]
    assert not folder.bad


@pytest.mark.parametrize(("on_disk", "written"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC"), ("NFD", "NFD")])
@pytest.mark.parametrize("bare", [True, False])
def test_accents_match_however_they_are_composed(make_dataset, on_disk, written, bare):
    name = "étirement n° 1 – ça.mp4"
    path = unicodedata.normalize(on_disk, f"étés/{name}")
    folder = read_folder(
        make_dataset([record(unicodedata.normalize(written, name if bare else f"étés/{name}"))], [path])
    )
    assert [clip.path for clip in folder.clips] == [path]
    assert (folder.clips[0].labels, folder.unlisted) == (tuple(LABELS), [])


def test_a_bare_name_that_two_folders_share_is_an_error_with_both(make_dataset):
    dataset = make_dataset([record("2.mp4"), record("1.mp4")], ["a/1.mp4", "b/1.mp4", "a/2.mp4"])
    with pytest.raises(UserError, match=r"ground_truth.json: record 2 .*: 1.mp4 could be a/1.mp4 or b/1.mp4"):
        read_folder(dataset)


def test_two_folders_may_share_a_name_when_the_folder_is_written(make_dataset):
    folder = read_folder(
        make_dataset([record("b/1.mp4", ["y - b"]), record("a/1.mp4", ["x - a"])], ["a/1.mp4", "b/1.mp4"])
    )
    assert [(clip.path, clip.answer) for clip in folder.clips] == [("a/1.mp4", "x - a"), ("b/1.mp4", "y - b")]


@pytest.mark.parametrize(
    "written", ["/etc/passwd", "../secret.mp4", "a/../../secret.mp4", "C:/secret.mp4", "..\\secret.mp4"]
)
def test_a_path_that_leaves_the_folder_is_refused(make_dataset, written):
    dataset = make_dataset([record("1.mp4"), record(written)], ["1.mp4"])
    (dataset.parent / "secret.mp4").touch()
    with pytest.raises(UserError, match=r"ground_truth.json: record 2 \(counting from 1\): path .* is not inside"):
        read_folder(dataset)


def test_records_without_a_file_or_a_label_are_bad_clips(make_dataset):
    dataset = make_dataset(
        [record("gone.mp4"), record("1.mp4"), record("2.mp4", []), record("gone.mp4")], ["1.mp4", "2.mp4"]
    )
    folder = read_folder(dataset)
    assert [clip.path for clip in folder.clips] == ["1.mp4"]
    assert [str(clip) for clip in folder.bad] == [
        f"2.mp4: has no labels in {dataset}/ground_truth.json",
        "gone.mp4: no such file",
    ]


def test_records_of_one_clip_are_joined_and_equal_ones_collapse(make_dataset):
    records = [
        record("a/1.mp4", ["squats - too fast"]),
        record("./a/1.mp4", ["squats - not low enough"], labels_descriptive="Go lower."),
        record("1.mp4", ["squats - too fast"]),
    ]
    (clip,) = read_folder(make_dataset(records, ["a/1.mp4"])).clips
    assert sorted(clip.labels) == ["squats - not low enough", "squats - too fast"]
    assert sorted(clip.answer.split("\n")) == ["Go lower.", "squats - too fast"]
    for seed in range(5):
        random.Random(seed).shuffle(records)
        assert read_folder(make_dataset(records, [])).clips == [clip]


def test_records_of_one_clip_that_name_two_people_are_an_error(make_dataset):
    dataset = make_dataset([record("1.mp4", worker_id=1), record("1.mp4", worker_id=2)], ["1.mp4"])
    with pytest.raises(UserError, match=r"the records of 1.mp4 differ in worker_id: 1, 2"):
        read_folder(dataset)


def test_people_come_from_the_release_that_names_them(make_dataset):
    dataset = make_dataset([record("a/1.mp4"), record("a/2.mp4"), record("a/3.mp4")], [f"a/{k}.mp4" for k in (1, 2, 3)])
    named = [
        record("./1.mp4", worker_id=7),
        record("a/2.mp4", worker_id="w"),
        record("./9.mp4", worker_id=1),
        record("3.mp4"),
    ]
    (dataset / PEOPLE).write_text(json.dumps(named))
    assert [clip.person for clip in read_folder(dataset).clips] == ["7", "w", None]


def test_people_in_the_label_file_itself_win(make_dataset):
    dataset = make_dataset([record("1.mp4", worker_id="own")], ["1.mp4"])
    (dataset / PEOPLE).write_text(json.dumps([record("1.mp4", worker_id="other")]))
    assert [clip.person for clip in read_folder(dataset).clips] == ["own"]


@pytest.mark.parametrize(
    ("path", "label", "manifest", "exercise"),
    [
        ("short_clips/1.mp4", "tricep stretch (right arm) - holds", {}, "tricep stretch (right arm)"),
        ("a/1.mp4", "squats - low", {"a/1.mp4": "push_ups"}, "squats"),
        ("a/1.mp4", "not low enough", {"dataset/a/1.mp4": "squat_jump"}, "squat jump"),
        ("a/1.mp4", "not low enough", {"1.mp4": {"class": "squat_jump", "source": "x"}}, "squat jump"),
        ("squat_jump/1.mp4", "not low enough", {"squat_jump/1.mp4": {"source": "x"}}, "squat jump"),
        ("squat_jump/1.mp4", "not low enough", {}, "squat jump"),
        ("short_clips/1.mp4", "not low enough", {}, "not low enough"),
        ("1.mp4", "not low enough", {}, "not low enough"),
    ],
)
def test_the_exercise_is_named_by_label_manifest_or_folder(make_dataset, path, label, manifest, exercise):
    dataset = make_dataset([record(path, [label])], [path])
    if manifest:
        (dataset / "manifest.json").write_text(json.dumps(manifest))
    assert [clip.exercise for clip in read_folder(dataset).clips] == [exercise]


def test_the_users_labels_come_before_the_official_ones(make_dataset):
    dataset = make_dataset([record("1.mp4", ["x - official"])], ["1.mp4"], name="fine_grained_labels.json")
    assert read_folder(dataset).clips[0].answer == "x - official"
    make_dataset([record("1.mp4", ["x - with people"], worker_id=3)], [], name=PEOPLE)
    assert read_folder(dataset).clips[0].answer == "x - with people"
    make_dataset([record("1.mp4", ["x - mine"])], [])
    assert (read_folder(dataset).clips[0].answer, read_folder(dataset).clips[0].person) == ("x - mine", "3")
    other = dataset.parent / "other.json"
    other.write_text(json.dumps([record("1.mp4", ["x - other"])]))
    assert read_folder(dataset, other).clips[0].answer == "x - other"


def test_a_folder_without_labels_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"dataset: no such folder.*make_demo_dataset.py"):
        read_folder(tmp_path / "dataset")
    (tmp_path / "dataset").mkdir()
    with pytest.raises(UserError, match=r"dataset/ground_truth.json: no such file, .*--labels"):
        read_folder(tmp_path / "dataset")


def test_linked_folders_are_followed_once(make_dataset, tmp_path, write_clip):
    write_clip(tmp_path / "disk/squats/1.mp4", frames=2)
    dataset = make_dataset([record("1.mp4")], [])
    (dataset / "squats").symlink_to(tmp_path / "disk/squats")
    (tmp_path / "disk/squats/again").symlink_to(dataset)
    folder = read_folder(dataset)
    assert [clip.path for clip in folder.clips] == ["squats/1.mp4"]
    assert not folder.unlisted


def test_broken_links_and_hidden_files_are_no_clips(make_dataset, write_clip):
    dataset = make_dataset([record("1.mp4"), record("broken.mp4")], ["1.mp4", ".trash/2.mp4", "._1.mp4"])
    (dataset / "broken.mp4").symlink_to(dataset / "nowhere.mp4")
    (dataset / "notes.txt").touch()
    folder = read_folder(dataset)
    assert [clip.path for clip in folder.clips] == ["1.mp4"]
    assert [clip.reason for clip in folder.bad] == ["no such file"]
    assert not folder.unlisted


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf_8_is_named_with_the_remedy(make_dataset):
    dataset = make_dataset([record("1.mp4")], ["1.mp4"])
    shutil.copy(dataset / "1.mp4", os.fsencode(dataset) + b"/\xff.mp4")
    with pytest.raises(UserError, match=r"\\xff.mp4: its name is not UTF-8 text; rename it"):
        read_folder(dataset)
