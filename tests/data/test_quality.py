"""What is measured on real clips."""

import os
import struct

import cv2
import numpy as np
import pytest
from clip_scenes import FPS, encode_again, film, scene

from formcoach.data.quality import measure, measure_all
from formcoach.errors import ClipError


def gray_frames(path):
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2GRAY))
    return frames


@pytest.mark.parametrize("full_range", [False, True])
def test_brightness_and_sharpness_are_those_of_opencv(tmp_path, full_range):
    path = film(tmp_path / "clip.mp4", scene(), full_range=full_range)
    quality, frames = measure(path), gray_frames(path)
    assert quality.brightness == pytest.approx(np.mean(frames), abs=1)
    sharpness = np.median([cv2.Laplacian(frame, cv2.CV_64F).var() for frame in frames])
    assert quality.sharpness == pytest.approx(sharpness, rel=0.08)


def test_size_and_duration(tmp_path):
    quality = measure(film(tmp_path / "clip.mp4", scene(seconds=3, size=(322, 182)), fps=30))
    assert (quality.width, quality.height, quality.duration) == (322, 182, 1.5)


def test_size_is_the_one_that_is_shown(tmp_path):
    path = film(tmp_path / "clip.mp4", scene(seconds=1))
    data = bytearray(path.read_bytes())
    matrix = data.find(b"tkhd") + 44  # ISO 14496-12: 4 name, 4 flags, 20 times and ids, 16 others
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 240 << 16, 0, 1 << 30)
    path.write_bytes(data)
    quality = measure(path)
    assert (quality.width, quality.height) == (240, 320)


def test_blur_lowers_sharpness(tmp_path):
    sharp = measure(film(tmp_path / "sharp.mp4", scene()))
    blurred = measure(film(tmp_path / "blurred.mp4", (cv2.GaussianBlur(picture, (0, 0), 3) for picture in scene())))
    assert blurred.sharpness < 15 < 50 < sharp.sharpness


def test_noise_is_no_motion(tmp_path):
    still = measure(film(tmp_path / "still.mp4", scene(sway=0, noise=6)))
    moving = measure(film(tmp_path / "moving.mp4", scene(sway=12, noise=6)))
    assert still.motion == 0 and moving.motion == 1
    assert still.movement < 0.05 < moving.movement


def test_frozen_stretches(tmp_path):
    frames = [*scene(seconds=3)]
    stuck = measure(film(tmp_path / "stuck.mp4", [*frames[:FPS], *[frames[FPS]] * (2 * FPS)]))
    assert 1.7 <= stuck.frozen <= 2.1
    assert measure(film(tmp_path / "still.mp4", [frames[0]] * 45)).frozen == 3.0
    assert measure(film(tmp_path / "plank.mp4", scene(seconds=3, sway=1.5, period=2.5))).frozen < 1


def test_slow_movements_are_not_frozen(tmp_path):
    quality = measure(film(tmp_path / "slow.mp4", scene(seconds=3, sway=8, period=40)))
    assert quality.motion < 0.5 and quality.frozen < 1


def test_black_stretches(tmp_path):
    frames = [*scene(seconds=3)]
    late = [*frames[:FPS], *(picture * 0 + 4 for picture in frames[FPS:])]
    assert 1.8 <= measure(film(tmp_path / "late.mp4", late)).black <= 2.1
    assert measure(film(tmp_path / "all.mp4", (picture * 0 for picture in frames))).black == 3.0
    assert measure(film(tmp_path / "dim.mp4", (picture * 0.4 for picture in frames))).black == 0.0


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_very_short_clips(tmp_path, frames):
    quality = measure(film(tmp_path / "clip.mp4", [*scene(seconds=1)][:frames]))
    assert quality.duration == pytest.approx(frames / FPS)
    assert quality.brightness > 50


def test_other_pixel_formats(tmp_path, write_clip):
    ten_bits = write_clip(tmp_path / "ten.mp4", pix_fmt="yuv420p10le")
    planar_rgb = write_clip(tmp_path / "rgb.mp4", codec="libx264rgb", pix_fmt="rgb24")
    usual = measure(write_clip(tmp_path / "usual.mp4"))
    for path in (ten_bits, planar_rgb):
        assert measure(path).brightness == pytest.approx(usual.brightness, abs=2.5)


def test_clips_that_cannot_be_read_are_named_and_the_others_measured(tmp_path):
    good = film(tmp_path / "good.mp4", scene(seconds=1))
    data = good.read_bytes()
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.mp4").write_text("hello")
    cv2.imwrite(str(tmp_path / "picture.png"), np.zeros((48, 64, 3), np.uint8))
    (tmp_path / "picture.png").rename(tmp_path / "picture.mp4")
    damaged = bytearray(encode_again(good, tmp_path / "damaged.mp4").read_bytes())
    start = damaged.find(b"mdat")
    damaged[start + 2000 : start + 3500] = bytes(1500)
    (tmp_path / "damaged.mp4").write_bytes(damaged)
    names = [path.name for path in tmp_path.iterdir()]
    measured = dict(measure_all(tmp_path, names, workers=2))
    assert sorted(measured) == sorted(names)
    assert measured.pop("good.mp4").width == 320
    measured.pop("damaged.mp4")  # decoders conceal what is lost of a frame
    assert all(isinstance(error, ClipError) and error.path == name for name, error in measured.items())
    assert measured["zero.mp4"].reason == "is empty (0 bytes)"


def test_measures_are_taken_from_the_cache_until_a_clip_changes(tmp_path):
    path = film(tmp_path / "a" / "clip.mp4", scene(seconds=1))
    first = dict(measure_all(tmp_path, ["a/clip.mp4"], workers=1))
    status, data = path.stat(), path.read_bytes()
    path.write_bytes(bytes(len(data)))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert dict(measure_all(tmp_path, ["a/clip.mp4"], workers=1)) == first  # nobody looked
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert isinstance(dict(measure_all(tmp_path, ["a/clip.mp4"], workers=1))["a/clip.mp4"], ClipError)
