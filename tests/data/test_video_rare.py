"""Rare clips and names that one reader or another would get wrong, or crash on."""

import os
import signal
import struct
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest

from formcoach.data import decord_process
from formcoach.data.video import READERS, iterate_frames, probe, probe_all, read_clip
from formcoach.errors import ClipError

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such name")


def every(total, fps):
    return range(total)


def without_first_key_frame(source: Path, target: Path) -> Path:
    """Copy what follows the second key frame, as some cutting programs do."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = old.streams.video[0]
        copy, keys = new.add_stream_from_template(stream), 0
        for packet in old.demux(stream):
            keys += bool(packet.size) and packet.is_keyframe
            if packet.size and keys > 1:
                packet.stream = copy
                new.mux(packet)
    return target


def noisy_stripes(number: int, width: int, height: int) -> np.ndarray:
    """Return a frame that carries its number as all do here, with noise, so that no frame equals another."""
    bits = number >> (np.arange(width) * 8 // width) & 1
    noise = np.random.default_rng(number).normal(0, 10, (height, width, 3))
    return (noise + (40 + 170 * bits)[None, :, None]).clip(0, 255).astype(np.uint8)


@pytest.fixture
def cut_open(tmp_path, write_clip):
    """Return a clip whose first frame cannot be decoded, the frame before it in time is gone."""
    options = {"x264-params": "open-gop=1:keyint=10:scenecut=0:bframes=3:b-adapt=0"}
    whole = write_clip(
        tmp_path / "whole.mp4", frames=40, fps=30, options=options, size=(160, 120), picture=noisy_stripes
    )
    return without_first_key_frame(whole, tmp_path / "cut.mkv")


def test_a_frame_that_does_not_come_out_is_not_replaced_by_the_next(cut_open, frame_numbers):
    with av.open(str(cut_open)) as container:
        stream = container.streams.video[0]
        stored = sorted(packet.pts for packet in container.demux(stream) if packet.size)
    with av.open(str(cut_open)) as container:
        decoded = {frame.pts for frame in container.decode(video=0)}
    missing = [number for number, pts in enumerate(stored) if pts not in decoded]
    assert missing == [0]
    for reader in READERS:
        with pytest.raises(ClipError, match=f"frame 0 of {len(stored)} cannot be decoded"):
            read_clip(cut_open, every, reader)
        first = 40 - len(stored)
        clip = read_clip(cut_open, lambda total, fps: [1, 5, total - 1], reader)
        assert frame_numbers(clip.frames) == [first + 1, first + 5, 39]


def test_frames_come_in_order_before_the_one_that_is_lost(cut_open):
    numbers = []
    with pytest.raises(ClipError, match="frame 0 of"):
        for number, _ in iterate_frames(cut_open, every):
            numbers.append(number)
    assert numbers == []


@pytest.mark.parametrize("pix_fmt", ["yuv422p10le", "yuv444p10le"])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_deep_colours(tmp_path, write_clip, pix_fmt, suffix):
    def picture(number, width, height):
        return np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)

    path = write_clip(tmp_path / f"clip{suffix}", pix_fmt=pix_fmt, picture=picture)
    expected = read_clip(path, every, "pyav").frames
    for reader in READERS:
        np.testing.assert_array_equal(read_clip(path, every, reader).frames, expected)


@pytest.mark.parametrize("suffix", [".mpg", ".ts"])
@pytest.mark.parametrize("options", [{}, {"bf": "0"}])
def test_broadcast_streams(tmp_path, write_clip, frame_numbers, suffix, options):
    path = write_clip(tmp_path / f"clip{suffix}", frames=40, fps=20, options=options)
    for reader in READERS:
        assert frame_numbers(read_clip(path, lambda total, fps: [10, 11, 20, 39], reader).frames) == [10, 11, 20, 39]


def test_a_slanted_picture_is_left_as_it_is(tmp_path, write_clip, frame_numbers):
    path = write_clip(tmp_path / "clip.mp4")
    data = bytearray(path.read_bytes())
    matrix = data.find(b"tkhd") + 44  # ISO 14496-12: 4 name, 4 flags, 20 times and ids, 16 others
    data[matrix : matrix + 36] = struct.pack(">9i", 46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30)  # 45 degrees
    path.write_bytes(data)
    for reader in READERS:
        assert frame_numbers(read_clip(path, every, reader).frames) == list(range(20))


@LINUX
@pytest.mark.parametrize("reader", READERS)
def test_a_name_with_a_colon(tmp_path, write_clip, monkeypatch, reader):
    write_clip(tmp_path / "take:2.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(read_clip("take:2.mp4", every, reader).frames) == 20


@LINUX
@pytest.mark.parametrize("reader", READERS)
def test_a_name_that_is_no_text(tmp_path, write_clip, reader):
    path = tmp_path / os.fsdecode(b"\xff\xfe.mp4")
    write_clip(tmp_path / "clip.mp4").rename(path)
    assert len(read_clip(path, every, reader).frames) == 20


@LINUX
def test_what_may_not_be_looked_at_is_named_among_others(tmp_path, write_clip):
    good = write_clip(tmp_path / "good.mp4")
    endless = tmp_path / "a" / "clip.mp4"
    endless.parent.symlink_to(endless.parent)
    results = list(probe_all([tmp_path / f"{'x' * 300}.mp4", endless, good]))
    assert "may not be read (file name too long)" in str(results[0])
    assert "may not be read (too many levels of symbolic links)" in str(results[1])
    assert results[2] == probe(good)


@LINUX
def test_a_decoder_that_somebody_killed_while_it_was_idle_costs_no_clip(tmp_path, write_clip):
    path = write_clip(tmp_path / "clip.mp4")
    read_clip(path, every, "decord")
    process = decord_process._idle(os.getpid()).queue[-1]._process
    process.send_signal(signal.SIGKILL)
    time.sleep(0.2)
    assert len(read_clip(path, every, "decord").frames) == 20
