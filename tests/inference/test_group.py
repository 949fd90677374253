"""Processes that answer together: which GPU is whose, and where they may be."""

import pytest
import torch

from formcoach.errors import UserError
from formcoach.inference.group import device_of, group_of
from formcoach.processes import Place

ALONE, SECOND = Place(), Place(1, 1, 2, 2)


@pytest.fixture
def gpus(monkeypatch):
    def there_are(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return there_are


@pytest.mark.parametrize(
    ("named", "where", "count", "device"),
    [
        ("auto", ALONE, 2, "auto"),
        ("cuda:1", ALONE, 2, "cuda:1"),
        ("auto", SECOND, 2, "cuda:1"),
        ("cuda", SECOND, 4, "cuda:1"),
        ("cpu", SECOND, 2, "cpu"),
        ("auto", SECOND, 0, "auto"),
    ],
)
def test_each_process_has_its_own_gpu(gpus, named, where, count, device):
    gpus(count)
    assert device_of(named, where) == device


def test_too_few_gpus_or_one_for_all(gpus):
    gpus(1)
    with pytest.raises(UserError, match="2 processes need a GPU each, and there are 1; start fewer"):
        device_of("auto", SECOND)
    with pytest.raises(UserError, match="--device cuda:0 is one device for 2 processes"):
        device_of("cuda:0", SECOND)


def test_several_machines_are_refused():
    with pytest.raises(UserError, match="answered on one machine"), group_of(Place(0, 0, 4, 2)):
        pass
