"""The clips that a command line names."""

from pathlib import Path

import pytest

from formcoach.errors import UserError
from formcoach.inference.clips import named_clips


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_a_folder_is_all_its_clips_in_natural_order(tmp_path):
    in_order = ["9.mp4", "10.MP4", "a/2.mp4", "a/b/1.webm", "a/b/01.mp4", "a-b/1.mov", "A2.mp4", "a10.mp4"]
    touch(tmp_path, *in_order, ".hidden.mp4", ".cache/1.mp4", "a/.trash/1.mp4", "notes.txt", "a/labels.json")
    expected = ["9.mp4", "10.MP4", "a/2.mp4", "a/b/01.mp4", "a/b/1.webm", "A2.mp4", "a10.mp4", "a-b/1.mov"]
    assert named_clips([tmp_path]) == [tmp_path / name for name in expected]


def test_each_clip_comes_once_in_the_order_of_the_command_line(tmp_path):
    touch(tmp_path, "b/2.mp4", "b/1.mp4", "a.mp4")
    missing, hidden = tmp_path / "missing.mp4", tmp_path / ".hidden.mp4"
    names = [missing, tmp_path / "b/2.mp4", tmp_path / "b", hidden, tmp_path / "a.mp4", missing]
    assert named_clips(names) == [missing, tmp_path / "b/2.mp4", tmp_path / "b/1.mp4", hidden, tmp_path / "a.mp4"]


def test_a_folder_without_clips(tmp_path):
    touch(tmp_path, "notes.txt", ".hidden.mp4")
    with pytest.raises(UserError, match=r"has no clips in it or below it; name another folder, or a clip$"):
        named_clips([tmp_path])
