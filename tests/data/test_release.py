"""An official download in a folder: clips linked or copied, label files copied, again and again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from formcoach.data import arrivals, release
from formcoach.data.qevd import read_folder
from formcoach.data.release import import_release
from formcoach.data.selection import Wanted
from formcoach.errors import UserError

COMMAND = Path(__file__).resolve().parents[2] / "utils" / "load_dataset.py"
OPTIONS = {"copy": False, "overwrite": False, "dry_run": False}


def clip(path, content=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content or path.name.encode() * 50)


@pytest.fixture
def official(tmp_path):
    """QEVD in two parts, as it is unpacked, with a label without clip and a clip without label."""
    folder = tmp_path / "QEVD"
    for number in range(20):
        clip(folder / f"QEVD-FIT-300k-Part-{number % 2 + 1}" / "short_clips" / f"{number:08}.mp4")
    records = [
        {"video_path": f"./{number:08}.mp4", "labels": [f"{'squats' if number < 12 else 'lunges'} - slow"]}
        for number in range(1, 25)
    ]
    (folder / "labels").mkdir()
    (folder / "labels" / "fine_grained_labels.json").write_text(json.dumps(records))
    (folder / "labels" / "feedbacks_long_range.json").write_text("[]")
    clip(folder / "long_range_videos" / "0000.mp4")
    return folder


def bring(source, dataset, wanted=None, **options):
    return import_release(source, dataset, wanted or Wanted(), **OPTIONS | options)


def manifest_of(dataset):
    return json.loads((dataset / "manifest.json").read_text())


def clips_in(dataset):
    return {path.relative_to(dataset).as_posix(): path.read_bytes() for path in dataset.rglob("[!.]*.mp4")}


def test_clips_are_linked_and_classed_by_their_labels(official, tmp_path):
    dataset = tmp_path / "dataset"
    done = bring(official, dataset)
    assert (done.new, done.there, done.failed, done.label_files) == (19, 0, {}, ["fine_grained_labels.json"])
    assert done.selection.counts == {"lunges": 8, "squats": 11}
    assert (done.selection.unclassed, done.selection.sessions, done.labels.missing) == (1, 1, 5)
    assert "feedbacks_long_range.json: feedback on sessions of minutes" in done.notices[0]
    for path, name in manifest_of(dataset).items():
        link = dataset / path
        assert link.is_symlink()
        assert link.readlink().is_absolute()
        assert link.samefile(official / path)
        assert name == ("squats" if int(link.stem) < 12 else "lunges")
    assert len(manifest_of(dataset)) == len(clips_in(dataset)) == 19
    assert len(read_folder(dataset).clips) == 19


def test_again_nothing_happens_and_what_is_missing_comes(official, tmp_path):
    dataset = tmp_path / "dataset"
    bring(official, dataset, Wanted(3))
    few = manifest_of(dataset)
    assert sorted(few.values()) == ["lunges"] * 3 + ["squats"] * 3
    before = (dataset / "manifest.json").stat()
    assert bring(official, dataset, Wanted(3)).new == 0
    assert (dataset / "manifest.json").stat() == before
    (dataset / min(few)).unlink()
    assert bring(official, dataset, Wanted(3)).new == 1
    assert manifest_of(dataset) == few
    assert bring(official, dataset, Wanted(5)).new == 4
    assert few.items() < manifest_of(dataset).items()
    assert bring(official, dataset, Wanted(classes=("LUNGES",))).new == 3


def test_copies_and_links_that_become_copies(official, tmp_path):
    dataset = tmp_path / "dataset"
    bring(official, dataset, Wanted(3))
    done = bring(official, dataset, Wanted(5), copy=True)
    assert (done.new, done.there) == (10, 0)
    assert not any((dataset / path).is_symlink() for path in manifest_of(dataset))
    assert clips_in(dataset) == {path: (official / path).read_bytes() for path in manifest_of(dataset)}
    assert bring(official, dataset, Wanted(5), copy=True).new == 0
    assert bring(official, dataset, Wanted(5)).new == 0  # equal files are as good as links


def test_hard_links_where_there_are_no_others(official, tmp_path, monkeypatch):
    def refuse(self, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    dataset = tmp_path / "dataset"
    bring(official, dataset)
    assert all((dataset / path).stat().st_nlink == 2 for path in manifest_of(dataset))
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(UserError, match=r"the disk takes no link to .*; copy the clips with --copy"):
        bring(official, tmp_path / "other")


def test_another_file_in_the_way_stops_it_before_anything_is_done(official, tmp_path):
    dataset = tmp_path / "dataset"
    own = dataset / "QEVD-FIT-300k-Part-2" / "short_clips" / "00000001.mp4"
    clip(own, b"mine")
    for copy in (False, True):
        with pytest.raises(UserError, match=r"00000001.mp4: something else is there already; move it away"):
            bring(official, dataset, copy=copy)
    assert clips_in(dataset) == {own.relative_to(dataset).as_posix(): b"mine"}
    assert bring(official, dataset, overwrite=True).new == 19
    assert own.samefile(official / own.relative_to(dataset))
    (dataset / "fine_grained_labels.json").write_text("[]")
    with pytest.raises(UserError, match=r"fine_grained_labels.json: something else"):
        bring(official, dataset)


def test_a_file_where_a_folder_must_be(official, tmp_path):
    clip(tmp_path / "dataset" / "QEVD-FIT-300k-Part-1")
    with pytest.raises(UserError, match=r"dataset/QEVD-FIT-300k-Part-1: something else is there"):
        bring(official, tmp_path / "dataset", overwrite=True)


def test_a_release_that_moved_is_linked_anew(official, tmp_path):
    bring(official, tmp_path / "dataset")
    moved = official.rename(tmp_path / "elsewhere")
    done = bring(moved, tmp_path / "dataset")
    assert done.new == 19
    assert len(clips_in(tmp_path / "dataset")) == 19


def test_repaired_labels_stay(official, tmp_path):
    dataset = tmp_path / "dataset"
    bring(official, dataset, Wanted(1))
    labels = dataset / "fine_grained_labels.json"
    labels.rename(f"{labels}.bak")
    repaired = json.dumps([{"video_path": "00000000.mp4", "labels": ["planks - still"]}])
    labels.write_text(repaired)
    done = bring(official, dataset)
    assert labels.read_text() == repaired
    assert done.selection.counts == {"planks": 1}
    assert any("was changed here and stays" in line for line in done.notices)


def test_class_folders_loops_and_names_that_are_no_text(tmp_path):
    source = tmp_path / "source"
    for name in ("squats/1.mp4", "push_ups/1.mp4", "push_ups/🏋️ تمرين.mp4", ".hidden/1.mp4", "squats/notes.txt"):
        clip(source / name)
    clip(source / "squats" / "bell\a.mp4")
    (source / "squats" / "loop").symlink_to(source)
    (source / "squats" / "self.mp4").symlink_to("self.mp4")
    done = bring(source, tmp_path / "dataset")
    expected = {"squats/1.mp4": "squats", "push_ups/1.mp4": "push_ups", "push_ups/🏋️ تمرين.mp4": "push_ups"}
    assert manifest_of(tmp_path / "dataset") == expected
    assert done.notices == ["1 clips have names that are no plain text; left out"]
    clip(Path(os.fsdecode(os.fsencode(source) + b"/squats/\xff.mp4")), b"1")
    with pytest.raises(UserError, match="its name is not UTF-8 text; rename it"):
        bring(source, tmp_path / "dataset")


def test_a_disk_that_is_too_small_for_copies(official, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(arrivals.shutil, "disk_usage", lambda _: usage(10**9, 10**9, 5000))
    with pytest.raises(UserError, match=r"dataset: 1\d\.\d kB are needed and 5.0 kB are free"):
        bring(official, tmp_path / "dataset", copy=True)
    assert not (tmp_path / "dataset").exists()
    bring(official, tmp_path / "dataset")


def test_a_dry_run_writes_nothing(official, tmp_path):
    assert bring(official, tmp_path / "dataset", dry_run=True).new == 19
    assert not (tmp_path / "dataset").exists()


def test_folders_that_cannot_be_imported(official, tmp_path):
    for source, dataset, message in [
        (tmp_path / "none", tmp_path / "dataset", "none: no such folder; --from-dir takes"),
        (official, official / "dataset", "lie in each other"),
        (official / "labels", tmp_path / "dataset", "no clips of any class"),
        (official / "labels" / "fine_grained_labels.json", tmp_path / "dataset", "no such folder"),
    ]:
        with pytest.raises(UserError, match=message):
            bring(source, dataset)
    with pytest.raises(UserError, match="class 'planks' is none of the 2 there are; did you mean"):
        bring(official, tmp_path / "dataset", Wanted(classes=("planks",)))
    other = official / "QEVD-FIT-300k-Part-1" / "fine_grained_labels.json"
    other.write_text('[{"video_path": "1.mp4", "labels": ["a - b"]}]')
    with pytest.raises(UserError, match=r"fine_grained_labels.json and .*fine_grained_labels.json differ"):
        bring(official, tmp_path / "dataset")


def test_a_label_that_leads_outside_is_named(official, tmp_path):
    labels = official / "labels" / "fine_grained_labels.json"
    labels.write_text('[{"video_path": "../../secret.mp4", "labels": ["a - b"]}]')
    with pytest.raises(UserError, match=r"fine_grained_labels.json: record 1 .*secret.mp4' is not inside"):
        bring(official, tmp_path / "dataset")


def test_the_command(official, tmp_path):
    def load(*arguments):
        command = [sys.executable, str(COMMAND), "--from-dir", str(official), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)

    done = load("--videos-per-class", "2", "--dry-run")
    assert (done.returncode, "4 clips would be linked (2.4 kB)" in done.stdout) == (0, True), done.stderr
    done = load("--videos-per-class", "2")
    assert done.returncode == 0, done.stderr
    assert "4 clips in 2 classes" in done.stdout
    assert "4 clips linked" in done.stdout
    assert "notice: 5 clips that labels name are not there" in done.stderr
    assert len(manifest_of(tmp_path / "dataset")) == 4
    assert len((done := load("--dataset-dir", str(official))).stderr.splitlines()) == 1
    assert done.returncode == 2


@pytest.mark.slow
def test_killed_at_any_point_it_is_completed_by_running_it_again(tmp_path):
    source, dataset = tmp_path / "source", tmp_path / "dataset"
    clip(source / "squats" / "0.mp4")
    for number in range(1, 3000):
        os.link(source / "squats" / "0.mp4", source / "squats" / f"{number}.mp4")
    command = [sys.executable, str(COMMAND), "--from-dir", str(source), "--dataset-dir", str(dataset), "--copy"]
    for pause in (0.3, 0.5, 0.8):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        content = (source / "squats" / "0.mp4").read_bytes()
        assert set(clips_in(dataset).values()) <= {content} if dataset.exists() else True
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert len(manifest_of(dataset)) == len(clips_in(dataset)) == 3000


def test_a_clip_that_vanishes_meanwhile_is_named(official, tmp_path, monkeypatch):
    copy = release._copy

    def vanish(source, target):
        if source.name == "00000003.mp4":
            source.unlink()
        copy(source, target)

    monkeypatch.setattr(release, "_copy", vanish)
    done = bring(official, tmp_path / "dataset", copy=True)
    gone = "QEVD-FIT-300k-Part-2/short_clips/00000003.mp4"
    assert done.failed == {gone: "it is not in the release any more"}
    assert gone not in manifest_of(tmp_path / "dataset")
    assert len(manifest_of(tmp_path / "dataset")) == 18
