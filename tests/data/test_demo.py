"""The demo dataset: real clips, honest labels, nobody in two places at once."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from formcoach.data.annotations import read_labels, read_manifest
from formcoach.data.demo import FORMS, contact_sheet, demo_person, make_demo_dataset, plan_clips
from formcoach.data.demo_descriptions import described_take
from formcoach.data.demo_motion import EXERCISES, JOINTS, Body, Style
from formcoach.data.demo_picture import draw
from formcoach.data.video import probe, read_clip
from formcoach.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "dataset"
    return folder, make_demo_dataset(folder, clips=9, people=3, seed=1)


def test_clips_are_real_videos_of_the_stated_kind(demo):
    folder, planned = demo
    for clip in planned:
        info = probe(folder / clip.path)
        assert (info.width, info.height, round(info.fps)) == (640, 480, 15)
        assert 2.95 <= info.duration <= 6.05


def test_every_clip_moves(demo):
    folder, planned = demo
    for clip in planned:
        frames = read_clip(folder / clip.path, lambda count, fps: [0, count // 5, count // 3]).frames.astype(int)
        assert np.abs(frames[1:] - frames[:1]).max() > 40


def test_labels_are_in_the_official_and_the_seeds_formats(demo):
    folder, planned = demo
    official = read_labels(folder / "fine_grained_labels_with_worker_ids.json")
    truth = read_labels(folder / "ground_truth.json")
    classes = read_manifest(folder / "manifest.json")
    assert [record.labels for record in official] == [[clip.label] for clip in planned]
    assert {record.worker_id for record in official} == {"demo-00", "demo-01", "demo-02"}
    assert [record.video_path for record in truth] == [f"./{clip.path}" for clip in planned]
    assert {path: entry.class_ for path, entry in classes.items()} == {
        clip.path: clip.take.exercise.name for clip in planned
    }
    for record in truth:
        assert record.labels_descriptive.startswith(record.labels[0])


def test_same_seed_same_bytes(demo, tmp_path):
    folder, planned = demo
    make_demo_dataset(tmp_path / "again", clips=9, people=3, seed=1)
    for name in [clip.path for clip in planned] + ["ground_truth.json", "contact_sheet.png"]:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_the_full_set_is_balanced_and_lengths_say_nothing():
    planned = plan_clips(360, 24, 7)
    assert len({exercise.name for exercise, _ in FORMS}) >= 6
    assert all(len(exercise.forms) >= 4 for exercise in EXERCISES)  # correct form and three faults
    assert max(Counter(clip.label for clip in planned).values()) <= 1 + min(
        Counter(clip.label for clip in planned).values()
    )
    assert set(Counter(clip.worker for clip in planned).values()) == {15}
    by_label = {}
    for clip in planned:
        by_label.setdefault(clip.label, []).append(clip.take.duration)
    means = [np.mean(durations) for durations in by_label.values()]
    spread = np.std([clip.take.duration for clip in planned]) / np.sqrt(360 / len(by_label))
    assert np.std(means) < 1.5 * spread  # as far apart as chance would have them


def test_a_fault_changes_the_motion():
    body = Body()
    for exercise in EXERCISES:
        correct = np.stack([exercise.pose(body, phase, Style()) for phase in np.linspace(0, 2, 33)])
        assert correct.shape == (33, len(JOINTS), 3)
        for form in exercise.forms[1:]:
            style = form.style
            faulty = np.stack([exercise.pose(body, phase, style) for phase in np.linspace(0, 2, 33)])
            assert style.pace != "steady" or style.stops or np.abs(faulty - correct).max() > 0.1  # metres


def test_limbs_keep_their_length():
    body = Body()
    bones = [
        ("shoulder_l", "elbow_l", body.upper_arm),
        ("hip_r", "knee_r", body.thigh),
        ("knee_l", "ankle_l", body.shin),
    ]
    for exercise in EXERCISES:
        for form in exercise.forms:
            joints = exercise.pose(body, 0.4, form.style)
            for first, second, length in bones:
                distance = np.linalg.norm(joints[JOINTS.index(first)] - joints[JOINTS.index(second)])
                assert distance == pytest.approx(length, abs=1e-6)


def test_pretraining_sees_no_person_of_a_demo_and_no_coaching_answer():
    cast = {demo_person(seed, number).room for seed in range(5) for number in range(24)}
    for number in range(60):
        sample = described_take(0, number)
        assert sample.take.person.room not in cast
        assert " - " not in sample.description
        for exercise, form in FORMS:
            assert exercise.name not in sample.description
            assert form.seen not in sample.description


def test_nothing_is_replaced(tmp_path):
    (tmp_path / "ground_truth.json").write_text("[]")
    with pytest.raises(UserError, match=r"ground_truth\.json: exists"):
        make_demo_dataset(tmp_path, clips=3, people=3)
    assert [path.name for path in tmp_path.iterdir()] == ["ground_truth.json"]


def test_contact_sheet_shows_every_form():
    planned = plan_clips(len(FORMS), 3, 0)
    sheet = contact_sheet(planned)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (13 * 144, 2 * 960, 3)


def test_pictures_do_not_depend_on_what_was_drawn_before():
    take, other = (clip.take for clip in plan_clips(3, 3, 0)[:2])
    before = draw(take, 1.0)
    draw(other, 0.5)
    assert np.array_equal(before, draw(take, 1.0))


@pytest.mark.parametrize(
    ("flags", "words"), [(["--people", "2"], "at least 3 people"), (["--clips", "2"], "--clips 2")]
)
def test_wrong_numbers_are_one_line(tmp_path, flags, words):
    command = [sys.executable, str(ROOT / "utils/make_demo_dataset.py"), "--dataset-dir", str(tmp_path / "d"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "d").exists()


def test_label_files_are_utf8_json(demo):
    folder, _ = demo
    for path in folder.glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
