"""The same recording is found again however it was encoded; other recordings of the same are left alone."""

import random
import shutil

import cv2
import numpy as np
import pytest
from clip_scenes import encode_again, film, scene

from formcoach.data.quality import measure
from formcoach.data.similarity import Signed, find_duplicates


def signed(folder):
    """Measure all clips of a folder."""
    for path in sorted(folder.iterdir()):
        quality = measure(path)
        yield Signed(path.name, quality.duration, quality.digest, quality.signature)


@pytest.fixture(scope="module")
def takes(tmp_path_factory):
    """Clips of two rooms; in the first somebody does the same again, in other tempo, phase and reach."""
    folder = tmp_path_factory.mktemp("takes")
    film(folder / "take.mp4", scene(0, fps=30), fps=30)
    film(folder / "later.mp4", scene(0, phase=0.3))
    film(folder / "slower.mp4", scene(0, period=2.1))
    film(folder / "smaller.mp4", scene(0, sway=12, fps=30), fps=30)
    film(folder / "elsewhere.mp4", scene(1))
    return folder


def test_other_takes_of_the_same_are_no_duplicates(takes):
    assert find_duplicates([*signed(takes)]) == []


CHANGES = {
    "worse": {"crf": 36},
    "half size": {"size": (160, 120)},
    "other shape": {"size": (320, 180)},
    "brighter": {"brighter": 15},
    "fewer frames": {"every": 2},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_recording_encoded_again_is_a_duplicate(takes, tmp_path, change):
    shutil.copytree(takes, tmp_path, dirs_exist_ok=True)
    encode_again(takes / "take.mp4", tmp_path / "copy.mp4", **CHANGES[change])
    encode_again(takes / "smaller.mp4", tmp_path / "copy of smaller.mp4", **CHANGES[change])
    groups = find_duplicates([*signed(tmp_path)])
    assert groups == [["copy of smaller.mp4", "smaller.mp4"], ["copy.mp4", "take.mp4"]]


def test_somebody_who_hardly_moves(tmp_path):
    film(tmp_path / "plank.mp4", scene(2, sway=1.5, period=2.5))
    film(tmp_path / "plank again.mp4", scene(2, sway=1.5, period=3.4, phase=0.4))
    encode_again(tmp_path / "plank.mp4", tmp_path / "plank copy.mp4", crf=26)
    assert find_duplicates([*signed(tmp_path)]) == [["plank copy.mp4", "plank.mp4"]]


def test_still_pictures(tmp_path):
    one, other = next(scene(3)), next(scene(4))
    shifted = np.roll(one, (12, 25), axis=(0, 1))
    for name, picture in {"one": one, "other": other, "shifted": shifted}.items():
        film(tmp_path / f"{name}.mp4", [picture] * 30)
    encode_again(tmp_path / "one.mp4", tmp_path / "copy.mp4", size=(160, 120))
    assert find_duplicates([*signed(tmp_path)]) == [["copy.mp4", "one.mp4"]]


def test_blank_clips_are_duplicates_only_byte_by_byte(tmp_path):
    rng = np.random.default_rng(0)
    for name, level in (("black", 2), ("black too", 5), ("white", 250)):
        film(tmp_path / f"{name}.mp4", (level + rng.normal(0, 1.5, (120, 160)) for _ in range(20)))
    shutil.copy(tmp_path / "black.mp4", tmp_path / "copy.mp4")
    assert find_duplicates([*signed(tmp_path)]) == [["black.mp4", "copy.mp4"]]


def test_a_clip_turned_by_its_metadata_equals_one_that_was_filmed_so(tmp_path):
    film(tmp_path / "lying.mp4", (np.ascontiguousarray(np.rot90(picture, 1)) for picture in scene(5)))
    data = bytearray((tmp_path / "lying.mp4").read_bytes())
    matrix = data.find(b"tkhd") + 44
    clockwise = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 320 << 16, 0, 1 << 30], ">i4").tobytes()
    data[matrix : matrix + 36] = clockwise
    (tmp_path / "lying.mp4").write_bytes(data)
    film(tmp_path / "upright.mp4", scene(5))
    assert find_duplicates([*signed(tmp_path)]) == [["lying.mp4", "upright.mp4"]]


def made_up(count, seed):
    """Return signed clips of many rooms, of which every tenth is a slightly changed copy of the one before."""
    rng = np.random.default_rng(seed)
    rooms = rng.integers(0, 256, (max(1, count // 50), 64), dtype=np.uint8)
    clips = []
    for number in range(count):
        if number % 10 == 9:
            row = row.copy()  # noqa: F821  # of the clip before
            row[rng.integers(0, 64, 6)] ^= np.uint8(4)
            row[64 + rng.integers(0, 56, 8)] ^= np.uint8(16)
        else:
            strengths = rng.integers(40, 90, 7, dtype=np.uint8)
            row = np.concatenate([rooms[number % len(rooms)], rng.integers(0, 256, 88, dtype=np.uint8), strengths])
        clips.append(Signed(f"{number:06}.mp4", 5.0, number.to_bytes(16, "big"), row.tobytes()))
    return clips


def test_the_order_does_not_matter():
    clips = made_up(600, seed=1)
    groups = find_duplicates(clips)
    assert groups == [[f"{number - 1:06}.mp4", f"{number:06}.mp4"] for number in range(9, 600, 10)]
    random.Random(0).shuffle(clips)
    assert find_duplicates(clips) == groups


def test_no_clips():
    assert find_duplicates([]) == []


@pytest.mark.slow
def test_crowds_stay_affordable():
    copies = made_up(12_000, seed=2)
    rng = np.random.default_rng(3)
    for number in range(6_000):  # all of one recording
        row = np.frombuffer(copies[0].signature, np.uint8).copy()
        row[rng.integers(0, 64, 3)] ^= np.uint8(2)
        copies[number] = Signed(copies[number].path, 5.0, copies[number].digest, row.tobytes())
    groups = find_duplicates(copies)
    assert len(groups[0]) == 6_000
    assert len(groups) == 1 + 600


def test_hashes_need_no_particular_size():
    cv2.setNumThreads(1)
    from formcoach.data.similarity import MOMENTS, signature

    pictures = [np.random.default_rng(0).random((7, 9)).astype(np.float32) * 200] * MOMENTS
    assert len(signature(pictures)) == 159
