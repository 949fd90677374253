"""How a training is shared out over its processes."""

import argparse
from pathlib import Path

import pytest

from formcoach.errors import UserError
from formcoach.processes import Place
from formcoach.training.sharding import choose_deepspeed, loading_device, settings_for

ALONE, ONE_MACHINE = Place(), Place(1, 1, 2, 2)
TWO_MACHINES, ONE_EACH = Place(3, 1, 4, 2), Place(1, 0, 2, 1)


def flags(strategy=None, deepspeed=None, quantization=None):
    return argparse.Namespace(shard_strategy=strategy, deepspeed=deepspeed, quantization=quantization, nan="stop")


@pytest.mark.parametrize(
    ("strategy", "place", "file", "notices"),
    [
        (None, ALONE, "zero2.json", 0),
        ("zero2", TWO_MACHINES, "zero2.json", 0),
        ("full", ONE_MACHINE, "zero3.json", 0),
        ("hybrid", ONE_MACHINE, "zero3.json", 1),
        ("hybrid", TWO_MACHINES, "zero3_hybrid.json", 0),
        ("hybrid", ONE_EACH, "zero2.json", 1),
    ],
)
def test_strategy_picks_a_file(strategy, place, file, notices) -> None:
    choice = choose_deepspeed(flags(strategy), place)
    assert Path(choice.path).name == file
    assert len(choice.notices) == notices


def test_no_sharing_is_plain_pytorch() -> None:
    assert choose_deepspeed(flags("no"), ALONE).path is None
    assert choose_deepspeed(flags(deepspeed="none"), ALONE).path is None


@pytest.mark.parametrize(
    ("strategy", "file"),
    [("zero2", "zero3"), ("full", "zero2"), ("hybrid", "zero2"), ("no", "zero2"), ("full", "none"), ("hybrid", "none")],
)
def test_contradiction_is_refused(strategy, file) -> None:
    path = file if file == "none" else settings_file(file)
    with pytest.raises(UserError, match=f"--shard-strategy {strategy} contradicts --deepspeed .*{file}.*leave one"):
        choose_deepspeed(flags(strategy, path), ALONE)


def test_settings_follow_the_processes() -> None:
    offload = settings_for(settings_file("zero3_offload"), ALONE, cuda=False)["zero_optimization"]
    assert not offload["offload_param"]["pin_memory"]
    assert settings_for(settings_file("zero3_offload"), ALONE, cuda=True)["zero_optimization"]["offload_param"][
        "pin_memory"
    ]
    assert (
        settings_for(settings_file("zero3_hybrid"), TWO_MACHINES, cuda=True)["zero_optimization"][
            "zero_hpz_partition_size"
        ]
        == 2
    )


def test_weights_to_be_shared_out_are_not_loaded_onto_a_gpu() -> None:
    assert loading_device(settings_file("zero3"), TWO_MACHINES, cuda=True) == "cpu"
    assert loading_device(settings_file("zero2"), TWO_MACHINES, cuda=True) == "cuda:1"
    assert loading_device(None, ALONE, cuda=False) == "cpu"


def settings_file(name: str) -> str:
    return str(Path(__file__).resolve().parents[2] / "scripts" / f"{name}.json")
