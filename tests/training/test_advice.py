"""The advice for trainings that do not fit: what it names is estimated to fit, and no part of it is in vain."""

import argparse
from dataclasses import replace
from itertools import product

import pytest

from formcoach.models import sizes_for
from formcoach.training.advice import advice, least_memory, settings_that_fit
from formcoach.training.flags import add_training_flags
from formcoach.training.memory import estimate
from formcoach.training.workload import FROZEN, FULL, LORA, Workload

SIZES = sizes_for("OpenGVLab/InternVideo2_5_Chat_8B")
WORKS = [
    Workload(micro_batch_size=clips, recompute=share, quantization=kind, vision=vision, pack_length=row, zero=zero)
    for clips, share, kind, vision, row, zero in product(
        (1, 6), (0.0, 1.0), (None, "nf4"), (FROZEN, LORA, FULL), (None, 4000), (0, 2)
    )
]
CARDS = (6e9, 8e9, 12e9, 16e9, 24e9, 40e9, 80e9)


def with_flags(work: Workload, flags: list[str]) -> Workload:
    """Return the training that a user gets who adds `flags`, read as the trainer reads them."""
    parser = argparse.ArgumentParser()
    add_training_flags(parser)
    args = parser.parse_args(flags)
    given = {
        "micro_batch_size": args.micro_batch_size,
        "pack_length": args.pack_max_length,
        "recompute": args.selective_recompute,
        "quantization": args.quantization,
        "frames": args.max_frames,
        "lora_rank": args.lora_rank,
    }
    if args.deepspeed is not None:
        assert args.deepspeed in ("scripts/zero2_offload.json", "scripts/zero3_offload.json")
        stage = 3 if "zero3" in args.deepspeed else 2
        given |= {"zero": stage, "offload_optimizer": True, "offload_parameters": stage == 3}
    return replace(work, **{name: value for name, value in given.items() if value is not None})


def fits(work: Workload, memory: float) -> bool:
    return estimate(SIZES, work).total <= memory


@pytest.mark.parametrize("memory", CARDS)
def test_what_is_advised_fits_and_nothing_of_it_is_in_vain(memory):
    for work in WORKS:
        flags = settings_that_fit(SIZES, work, memory)
        if flags is None:
            assert least_memory(SIZES, work) > memory
            continue
        assert fits(with_flags(work, flags), memory)
        pairs = [flags[place : place + 2] for place in range(0, len(flags), 2)]
        for pair in pairs:
            left = [flag for other in pairs if other != pair for flag in other]
            assert not fits(with_flags(work, left), memory), (work, flags)


@pytest.mark.parametrize(
    ("work", "memory", "flags"),
    [
        (Workload(), 80e9, []),
        (Workload(quantization="nf4", micro_batch_size=8), 10e9, ["--mirco-batch-size", "4"]),
        (Workload(quantization="nf4", recompute=0.0, text_tokens=900), 10e9, ["--selective-recompute", "1"]),
        (Workload(), 16e9, ["--quantization", "int8"]),
        (Workload(quantization="nf4", pack_length=8000, micro_batch_size=64), 10e9, ["--pack-max-length", "2000"]),
        (Workload(vision=FULL, quantization="nf4"), 12e9, ["--deepspeed", "scripts/zero2_offload.json"]),
        (Workload(language=FULL), 80e9, None),
    ],
)
def test_the_gentlest_change_that_suffices_is_advised(work, memory, flags):
    assert settings_that_fit(SIZES, work, memory, host=64e9) == flags


def test_what_is_offloaded_has_to_fit_too():
    work = Workload(language=FULL)
    assert settings_that_fit(SIZES, work, 80e9, host=256e9) == ["--deepspeed", "scripts/zero2_offload.json"]
    assert settings_that_fit(SIZES, work, 80e9, host=64e9) is None


def test_changes_are_combined_where_one_alone_does_not_suffice():
    work = Workload(micro_batch_size=8, recompute=0.0)
    flags = settings_that_fit(SIZES, work, 12e9)
    assert "--quantization" in flags
    assert len(flags) > 2


def test_a_language_model_that_is_trained_in_full_is_not_quantised():
    for memory in CARDS:
        flags = settings_that_fit(SIZES, Workload(language=FULL, micro_batch_size=4), memory)
        assert flags is None or "--quantization" not in flags


def test_the_fewest_frames_go_down_with_the_most():
    work = Workload(quantization="nf4", frames=64, min_frames=8, zero=2, offload_optimizer=True)
    assert settings_that_fit(SIZES, work, 7.5e9)[0] == "--max_num_frames"
    eight, four = (estimate(SIZES, replace(work, frames=frames, min_frames=frames)).total for frames in (8, 4))
    flags = settings_that_fit(SIZES, work, (eight + four) / 2)
    assert flags == ["--min_num_frames", "4", "--max_num_frames", "4"]


def test_a_model_that_takes_one_number_of_frames_gets_no_other():
    sizes = sizes_for("Amshaker/Mobile-VideoGPT-1.5B")
    work = Workload(frames=16, min_frames=16, micro_batch_size=4, lora_rank=64, text_tokens=2048)
    tried = [settings_that_fit(sizes, work, memory) for memory in (2e9, 3e9, 4e9, 5e9, 6e9, 8e9, 80e9)]
    assert tried[0] is None and tried[-1] == []
    assert len([flags for flags in tried if flags]) > 2
    assert not any("frames" in flag for flags in tried if flags for flag in flags)


def test_the_line_names_flags_or_the_memory_that_would_do():
    assert advice(SIZES, Workload(), 16e9) == "should fit: --quantization int8"
    assert advice(SIZES, Workload(), 2e9).startswith("no setting makes it fit: it needs ")
