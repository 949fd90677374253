"""Derived clips, as `utils/augment_videos.py` makes and removes them."""

import errno
import importlib.util
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import av
import numpy as np
import pytest

from formcoach.data.augment import AUGMENTATIONS
from formcoach.data.augment_clips import write_changed
from formcoach.data.qevd import find_clips, read_folder
from formcoach.data.video import probe, read_clip
from formcoach.errors import UserError
from formcoach.files import only_one

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = REPOSITORY / "utils" / "augment_videos.py"
ARM = "tricep stretch (right arm) - User is holding the stretch"


def load_command():
    spec = importlib.util.spec_from_file_location("augment_videos", COMMAND)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


main = load_command()


@pytest.fixture
def dataset(make_dataset) -> Path:
    """Three squats, one of them about speed, and an arm; the manifest knows two of them."""
    labels = {
        "squats/a.mp4": "squats - good form",
        "squats/b.mp4": "squats - moving too fast",
        "squats/c.mp4": "squats - not low enough",
        "arm/a.mp4": ARM,
    }
    folder = make_dataset([{"video_path": path, "labels": [label]} for path, label in labels.items()], list(labels))
    (folder / "manifest.json").write_text('{"squats/a.mp4": "squats", "arm/a.mp4": {"class": "arm", "more": 1}}')
    return folder


@pytest.fixture
def augment(tmp_path: Path):
    """Return a function that runs the command on a folder and returns its exit code."""

    def run(folder: Path, *flags: object) -> int:
        return main(["--dataset-dir", str(folder), "--output-dir", str(tmp_path / "out"), *map(str, flags)])

    return run


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def derived(folder: Path) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in find_clips(folder) if path.startswith("augmented/")}


def frames(path: Path) -> np.ndarray:
    return read_clip(path, lambda count, fps: range(count), "pyav").frames


def test_flipped_clip_is_mirrored_and_its_labels_are_swapped(dataset, augment):
    assert augment(dataset, "--per-clip", 1, "--augmentations", "horizontal_flip") == 0
    clips = {clip.path: clip for clip in read_folder(dataset).clips}
    flipped = clips["augmented/arm/a_1.mp4"]
    assert flipped.labels == (ARM.replace("right", "left"),)
    assert flipped.exercise == "tricep stretch (left arm)"
    assert flipped.source == "arm/a.mp4"
    assert manifest(dataset)["augmented/arm/a_1.mp4"] == {
        "class": "tricep stretch (left arm)",
        "source": "arm/a.mp4",
        "augmentations": {"horizontal_flip": 1.0},
    }
    before, after = frames(dataset / "arm/a.mp4"), frames(dataset / "augmented/arm/a_1.mp4")
    assert before.shape == after.shape
    assert np.abs(before[:, :, ::-1].astype(int) - after).mean() < 8
    assert clips["augmented/squats/c_1.mp4"].labels == ("squats - not low enough",)


def test_derived_clips_keep_rate_and_size_and_the_manifest_its_entries(dataset, augment):
    before = manifest(dataset)
    augment(dataset, "--per-clip", 3)
    assert len(derived(dataset)) == 12
    after = manifest(dataset)
    assert before.items() <= after.items()
    assert set(after) - set(before) == set(derived(dataset))
    for path in derived(dataset):
        entry = after[path]
        old, new = probe(dataset / entry["source"]), probe(dataset / path)
        assert (new.fps, new.width, new.height) == (old.fps, old.width, old.height)
        assert abs(new.frames - old.frames) <= 2
        assert entry["augmentations"]
        if entry["source"] == "squats/b.mp4":
            assert not {"tempo", "cut_start"} & entry["augmentations"].keys()
        with av.open(str(dataset / path)) as container:
            assert [stream.type for stream in container.streams] == ["video"]
            assert container.streams.video[0].codec_context.name == "h264"
            assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"


def test_tempo_changes_what_is_shown(tmp_path, write_clip, frame_numbers):
    source = write_clip(tmp_path / "a.mp4", frames=20)
    write_changed(source, tmp_path / "b.mp4", {"tempo": 1.25}, (0,))
    assert frame_numbers(frames(tmp_path / "b.mp4")) == [0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 13, 14, 15, 16, 18, 19]
    write_changed(source, tmp_path / "c.mp4", {"cut_start": 0.1, "cut_end": 0.25}, (0,))
    assert frame_numbers(frames(tmp_path / "c.mp4")) == list(range(2, 15))


def test_rotated_clips_come_out_upright(tmp_path, write_clip, frame_numbers):
    source = write_clip(tmp_path / "a.mp4", size=(64, 48))
    data = bytearray(source.read_bytes())
    matrix = data.find(b"tkhd") + 44  # ISO 14496-12: 4 name, 4 flags, 20 times and ids, 16 others
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    source.write_bytes(data)
    write_changed(source, tmp_path / "b.mp4", {"brightness": 1.0}, (0,))
    made = frames(tmp_path / "b.mp4")
    assert made.shape == (20, 64, 48, 3)
    assert frame_numbers(np.rot90(made, 1, axes=(1, 2))) == list(range(20))


def test_odd_sizes_lose_a_pixel(tmp_path, write_clip, frame_numbers):
    source = write_clip(tmp_path / "a.mov", size=(65, 49), pix_fmt="yuv444p")
    write_changed(source, tmp_path / "b.mp4", {"brightness": 1.0}, (0,))
    info = probe(tmp_path / "b.mp4")
    assert (info.width, info.height, info.frames) == (64, 48, 20)
    assert frame_numbers(frames(tmp_path / "b.mp4")) == list(range(20))


def test_same_seed_same_clips_and_no_clip_of_a_clip(dataset, augment, tmp_path, capsys):
    shutil.copytree(dataset, tmp_path / "other")
    augment(dataset, "--per-clip", 2)
    augment(tmp_path / "other", "--per-clip", 2, "--workers", 1)
    first = derived(dataset)
    assert first == derived(tmp_path / "other")
    times = {path: (dataset / path).stat().st_mtime_ns for path in first}
    capsys.readouterr()
    augment(dataset, "--per-clip", 2)
    assert "8 derived clips, 8 of them are there" in capsys.readouterr().out
    assert {path: (dataset / path).stat().st_mtime_ns for path in derived(dataset)} == times
    augment(dataset, "--per-clip", 3)
    assert first.items() <= derived(dataset).items()
    assert len(derived(dataset)) == 12


def test_clips_made_in_another_way_are_not_mixed_up(dataset, augment):
    augment(dataset, "--per-clip", 1)
    before = derived(dataset)
    with pytest.raises(UserError, match=r"was made with another seed or other --augmentations.*--remove"):
        augment(dataset, "--per-clip", 1, "--seed", 7)
    assert derived(dataset) == before
    (dataset / "augmented/squats/a_2.mp4").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"a_2.mp4: is in the way"):
        augment(dataset, "--per-clip", 2)


def test_small_classes_are_filled_up(dataset, augment):
    augment(dataset, "--target-per-class", 5)
    folder = read_folder(dataset)
    counts = [clip.exercise for clip in folder.clips]
    assert counts.count("squats") == 5
    assert counts.count("tricep stretch (right arm)") == 5
    assert len(counts) == 10


def test_variants_run_out_and_it_is_said(dataset, augment, capsys):
    augment(dataset, "--per-clip", 3, "--augmentations", "horizontal_flip", "--dry-run")
    out = capsys.readouterr().out
    assert "squats: 6 fewer than asked for" in out
    assert "4 derived clips; about" in out
    assert not (dataset / "augmented").exists()
    augment(dataset, "--per-clip", 1, "--augmentations", "tempo", "--dry-run")
    assert "squats: 1 fewer than asked for" in capsys.readouterr().out


def test_only_training_clips_that_cleaning_kept_are_sources(dataset, augment, tmp_path, capsys):
    augment(dataset, "--per-clip", 1, "--dry-run")
    assert "no splits yet" in capsys.readouterr().out
    (tmp_path / "out").mkdir()
    rejected = {"kept": ["squats/a.mp4", "squats/b.mp4", "arm/a.mp4"], "rejected": {"squats/c.mp4": ["blurred"]}}
    (tmp_path / "out/kept_clips.json").write_text(json.dumps(rejected))
    lines = [json.dumps({"id": path, "video": path}) for path in ("squats/a.mp4", "arm/a.mp4")]
    (tmp_path / "out/qevd_fit_300k_train.jsonl").write_text("\n".join(lines) + "\n")
    augment(dataset, "--per-clip", 1)
    assert {entry["source"] for path, entry in manifest(dataset).items() if path in derived(dataset)} == {
        "squats/a.mp4",
        "arm/a.mp4",
    }
    out = capsys.readouterr().out
    assert "1 clip left out: not in the training split" in out
    assert "1 clip left out: rejected by cleaning" in out
    assert "no splits yet" not in out


def test_unreadable_sources_are_named_and_the_others_done(dataset, augment, capsys):
    clip = dataset / "squats/a.mp4"
    clip.write_bytes(clip.read_bytes()[:-400])
    (dataset / "squats/b.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=r"2 clips cannot be read: .*a\.mp4.*; .*b\.mp4: is empty.*--skip-bad-clips"):
        augment(dataset, "--per-clip", 1)
    assert sorted(derived(dataset)) == ["augmented/arm/a_1.mp4", "augmented/squats/c_1.mp4"]
    assert augment(dataset, "--per-clip", 1, "--skip-bad-clips") == 0
    assert "left out: 2 clips cannot be read" in capsys.readouterr().out


def test_remove_deletes_derived_clips_only(dataset, augment, capsys):
    before, clips = manifest(dataset), find_clips(dataset)
    augment(dataset, "--per-clip", 1)
    mine = dataset / "augmented/squats/mine.mp4"
    shutil.copy(dataset / "squats/a.mp4", mine)
    assert augment(dataset, "--remove", "--dry-run") == 0
    assert "4 derived clips would be deleted" in capsys.readouterr().out
    assert augment(dataset, "--remove") == 0
    assert "4 derived clips deleted" in capsys.readouterr().out
    assert manifest(dataset) == before
    assert find_clips(dataset) == ["arm/a.mp4", "augmented/squats/mine.mp4", *clips[1:]]
    mine.unlink()
    augment(dataset, "--remove")
    assert not (dataset / "augmented").exists()


def test_a_full_disk_is_told_before(dataset, augment, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(UserError, match=r"4 derived clips take about 0.0 GB, and .* has 0.0 GB free; free some"):
        augment(dataset, "--per-clip", 1)
    assert not (dataset / "augmented").exists()


def test_a_disk_that_fills_up_leaves_whole_recorded_clips(dataset, augment, monkeypatch):
    def write_two(source, target, changes, seed):
        if len(written) == 2:
            target.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        written.append(target)
        write_changed(source, target, changes, seed)

    written: list[Path] = []
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr("formcoach.data.augment_clips.write_changed", write_two)
        augment(dataset, "--per-clip", 1, "--workers", 1)
    assert len(derived(dataset)) == 2
    assert derived(dataset).keys() <= manifest(dataset).keys()
    assert not list((dataset / "augmented").rglob(".*"))
    augment(dataset, "--per-clip", 1)
    assert len(derived(dataset)) == 4


def test_labels_may_have_another_name(dataset, augment, tmp_path):
    (dataset / "ground_truth.json").rename(tmp_path / "mine.json")
    assert augment(dataset, "--per-clip", 1, "--labels", tmp_path / "mine.json") == 0
    assert len(derived(dataset)) == 4


def test_clips_with_nothing_but_feedback_are_derived_from_it(dataset, augment):
    (dataset / "ground_truth.json").unlink()
    records = [{"video_path": "arm/a.mp4", "feedback": ["Hold it!", "Straighten your right arm."]}]
    (dataset / "feedbacks_short_clips.json").write_text(json.dumps(records))
    augment(dataset, "--per-clip", 1, "--augmentations", "horizontal_flip")
    clips = {clip.path: clip for clip in read_folder(dataset, answers="feedback").clips}
    assert "left arm" in clips["augmented/arm/a_1.mp4"].feedback


def test_preview_is_a_picture(dataset, augment, tmp_path):
    import cv2

    sheet = tmp_path / "deep" / "sheet.png"
    assert augment(dataset, "--preview", sheet) == 0
    assert cv2.imread(str(sheet)).shape[0] > 500


def test_two_at_once_is_refused(dataset, augment):
    refused = pytest.raises(UserError, match="another process is making derived clips in it")
    with only_one(dataset, "something"), refused:
        augment(dataset, "--per-clip", 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "one of the arguments --per-clip --target-per-class --preview --remove is required"),
        (("--per-clip", "0"), "--per-clip: must be at least 1, not 0"),
        (("--per-clip", "two"), "--per-clip"),
        (("--per-clip", "1", "--target-per-class", "2"), "not allowed with argument"),
        (("--per-clip", "1", "--augmentations", "zoom"), "--augmentations: 'zoom' is no augmentation; there are"),
        (("--per-clip", "1", "--augmentations", " , "), "--augmentations: no augmentation is named"),
        (("--per-clip", "1", "--workers", "-1"), "--workers: must be at least 1"),
        (("--per-clip", "1", "--dataset-dir", "nowhere"), "nowhere: no such folder"),
        (("--remove", "--dataset-dir", "nowhere"), "--dataset-dir nowhere: no such folder"),
        (("--preview", "x.png", "--dry-run"), "--dry-run does not go with --preview"),
        (("--per-clip", "1"), "manifest.json: is not JSON"),
        (("--remove",), "manifest.json: is not JSON"),
    ],
)
def test_mistakes_end_with_one_line(dataset, flags, message):
    (dataset / "manifest.json").write_text("{,")
    arguments = ["--dataset-dir", str(dataset), "--output-dir", str(dataset), *flags]
    done = subprocess.run([sys.executable, COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (dataset / "augmented").exists()


def test_help_names_every_augmentation(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert set(AUGMENTATIONS) <= set(re.findall(r"\w+", capsys.readouterr().out))


@pytest.mark.slow
def test_a_killed_run_leaves_only_recorded_clips_and_goes_on(dataset, augment, tmp_path, write_clip):
    for path in ("squats/a.mp4", "squats/b.mp4", "squats/c.mp4", "arm/a.mp4"):
        write_clip(dataset / path, frames=60, size=(320, 240))
    shutil.copytree(dataset, tmp_path / "whole")
    augment(tmp_path / "whole", "--per-clip", 6)
    arguments = [sys.executable, COMMAND, "--dataset-dir", dataset, "--output-dir", tmp_path, "--per-clip", "6"]
    quick = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    hurry = "import formcoach.data.augment_clips as c, runpy, sys; c.SAVE_SECONDS = 0.2; sys.argv = sys.argv[1:]; "
    hurry += "runpy.run_path(sys.argv[0], run_name='__main__')"
    for seconds in (1.2, 1.6, 2.0, 2.4):
        process = subprocess.Popen([sys.executable, "-c", hurry, *map(str, arguments[1:])], env=quick)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        entries = manifest(dataset)
        assert all(path in entries for path in derived(dataset))
        assert all(probe(dataset / path).frames for path in derived(dataset))
    assert augment(dataset, "--per-clip", 6) == 0
    assert derived(dataset) == derived(tmp_path / "whole")
    assert manifest(dataset) == manifest(tmp_path / "whole")
    assert not list((dataset / "augmented").rglob(".*"))
