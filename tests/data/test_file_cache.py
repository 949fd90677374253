import os

import msgspec
import pytest

from formcoach.data.file_cache import FileCache


class Size(msgspec.Struct):
    width: int


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"clip")
    return tmp_path


def cache_of(folder, version=1):
    return FileCache(folder, "sizes", Size, version)


def test_a_value_is_found_again_until_its_file_changes(folder):
    cache = cache_of(folder)
    cache.put("a.mp4", Size(3))
    cache.put("b.mp4", Size(4))
    cache.save()
    os.utime(folder / "b.mp4", (1, 1))
    again = cache_of(folder)
    assert again.get("a.mp4") == Size(3)
    assert again.get("b.mp4") is None
    (folder / "a.mp4").unlink()
    assert again.get("a.mp4") is None


def test_another_version_or_a_damaged_file_begins_anew(folder):
    cache = cache_of(folder)
    cache.put("a.mp4", Size(3))
    cache.save()
    assert cache_of(folder, version=2).get("a.mp4") is None
    cache.path.write_bytes(cache.path.read_bytes()[:-3])
    assert cache_of(folder).get("a.mp4") is None


def test_a_file_that_is_not_there_is_not_remembered(folder):
    cache = cache_of(folder)
    cache.put("gone.mp4", Size(3))
    cache.save()
    assert not cache.path.exists()


def test_a_folder_that_cannot_be_written_to_costs_only_time(folder):
    cache = cache_of(folder)
    (folder / ".formcoach").write_text("in the way")
    cache.put("a.mp4", Size(3))
    cache.save()
    assert cache.get("a.mp4") == Size(3)
