"""Which samples share a step, a process and a forward pass: nothing is lost, nothing counts twice."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formcoach.data.packing import best_fit, split_to
from formcoach.training.batches import Batches, BatchOrder, BatchSettings, Packing, ValidationOrder

PLAIN = BatchSettings(epochs=3, max_steps=None, global_batch_size=8, micro_batch_size=2, processes=2, seed=1)

lengths_of_samples = st.lists(st.integers(1, 300), min_size=1, max_size=60)


def picks_of(batches: Batches) -> list:
    """Return all samples of a run that count."""
    return [
        pick
        for step in range(batches.steps)
        for rows in batches.step(step)
        for row in rows
        for pick in row
        if pick.counts
    ]


@st.composite
def settings_of_batches(draw) -> BatchSettings:
    processes, micro, passes = (draw(st.integers(1, 3)) for _ in range(3))
    packing = draw(st.none() | st.builds(Packing, st.integers(50, 600)))
    return BatchSettings(
        epochs=draw(st.floats(0.3, 4)),
        max_steps=draw(st.none() | st.integers(1, 12)),
        global_batch_size=processes * micro * passes,
        micro_batch_size=micro,
        processes=processes,
        seed=draw(st.integers(0, 5)),
        group_by_length=draw(st.booleans()),
        packing=packing,
    )


@settings(max_examples=150, deadline=None)
@given(lengths_of_samples, settings_of_batches())
def test_every_sample_is_seen_as_often_as_any_other(lengths, how) -> None:
    batches = Batches(lengths, how)
    seen = Counter(pick.index for pick in picks_of(batches))
    assert sum(seen.values()) == batches.samples
    assert max(seen.values()) - min(seen[index] for index in range(len(lengths))) <= 1
    epochs = Counter((pick.index, pick.epoch) for pick in picks_of(batches))
    assert set(epochs.values()) == {1}


@settings(max_examples=150, deadline=None)
@given(lengths_of_samples, settings_of_batches())
def test_every_process_has_as_many_passes_and_none_is_too_large(lengths, how) -> None:
    batches = Batches(lengths, how)
    for step in range(batches.steps):
        for rows in batches.step(step):
            assert len(rows) == batches.passes
            for row in rows:
                assert 1 <= len(row) <= how.micro_batch_size
                if how.packing is not None and len(row) > 1:
                    assert sum(lengths[pick.index] for pick in row) <= how.packing.capacity


@settings(max_examples=60, deadline=None)
@given(lengths_of_samples, settings_of_batches())
def test_a_run_can_be_entered_at_any_step_and_in_any_process(lengths, how) -> None:
    batches, again = Batches(lengths, how), Batches(lengths, how)
    steps = [batches.step(step) for step in range(batches.steps)]
    assert [again.step(step) for step in reversed(range(batches.steps))] == steps[::-1]
    for rank in range(how.processes):
        order = list(BatchOrder(again, rank))
        assert len(order) == len(BatchOrder(again, rank))
        assert order == [row for step in steps for row in step[rank]]


@settings(max_examples=60, deadline=None)
@given(lengths_of_samples, settings_of_batches())
def test_a_step_has_the_same_samples_however_it_is_shared_out(lengths, how) -> None:
    alone = replace(how, processes=1, micro_batch_size=how.global_batch_size, packing=None)
    for step in range(Batches(lengths, how).steps):
        shared = {
            (pick.index, pick.epoch)
            for rows in Batches(lengths, how).step(step)
            for row in rows
            for pick in row
            if pick.counts
        }
        (((whole,),),) = [Batches(lengths, alone).step(step)]
        assert shared == {(pick.index, pick.epoch) for pick in whole}


def test_epochs_have_different_orders_and_seeds_too() -> None:
    lengths = [10] * 40
    first, second = (picks_of(Batches(lengths, replace(PLAIN, seed=seed))) for seed in (1, 2))
    assert [pick.index for pick in first] != [pick.index for pick in second]
    by_epoch = [[pick.index for pick in first if pick.epoch == epoch] for epoch in range(3)]
    assert by_epoch[0] != by_epoch[1]


def test_grouping_by_length_lets_similar_samples_share_a_step() -> None:
    lengths = np.random.default_rng(0).integers(20, 2000, 400).tolist()

    def spread(batches: Batches) -> float:
        found = [
            [lengths[pick.index] for rows in batches.step(step) for row in rows for pick in row] for step in range(40)
        ]
        return float(np.mean([max(step) - min(step) for step in found]))

    plain = Batches(lengths, PLAIN)
    grouped = Batches(lengths, replace(PLAIN, group_by_length=True))
    assert spread(grouped) < 0.1 * spread(plain)
    steps = [
        sum(lengths[pick.index] for rows in grouped.step(step) for row in rows for pick in row) for step in range(40)
    ]
    assert steps != sorted(steps, reverse=True)  # their order stays random


def test_rows_hold_samples_of_one_data_set_unless_they_may_be_mixed() -> None:
    kinds = ["a", "b"] * 20
    lengths = [10] * 40
    settings_ = replace(PLAIN, processes=1, micro_batch_size=8, packing=Packing(1000, kinds))
    rows = [row for step in range(15) for row in Batches(lengths, settings_).step(step)[0]]
    assert all(len({kinds[pick.index] for pick in row}) == 1 for row in rows)
    mixed = Batches(lengths, replace(settings_, packing=Packing(1000)))
    assert mixed.passes == 1
    assert any(len({kinds[pick.index] for pick in row}) == 2 for row in mixed.step(0)[0])


def test_a_sample_that_is_longer_than_a_row_has_one_of_its_own() -> None:
    batches = Batches([900, 10, 10, 10], replace(PLAIN, global_batch_size=4, processes=1, packing=Packing(100)))
    rows = batches.step(0)[0]
    assert [pick.index for row in rows if len(row) == 1 for pick in row].count(0) == 1


@given(st.lists(st.integers(1, 100), min_size=1, max_size=80), st.integers(100, 400), st.integers(1, 9))
def test_best_fit_loses_nothing_and_comes_near_the_fewest_rows(lengths, capacity, most) -> None:
    rows = best_fit(lengths, capacity, most)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    assert all(sum(lengths[place] for place in row) <= capacity and len(row) <= most for row in rows)
    if most >= len(lengths):
        assert len(rows) <= 11 / 9 * -(-sum(lengths) // capacity) + 4
    wanted = min(len(rows) + 2, len(lengths))
    split = split_to(rows, wanted)
    assert len(split) == wanted
    assert sorted(place for row in split for place in row) == list(range(len(lengths)))


@pytest.mark.parametrize("packing", [None, Packing(120)], ids=["padded", "packed"])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_validation_reads_each_sample_once_in_as_many_passes_everywhere(packing, processes) -> None:
    lengths = [10, 70, 30, 90, 20, 60, 50]
    how = replace(PLAIN, processes=processes, packing=packing)
    orders = [list(ValidationOrder(lengths, how, rank)) for rank in range(processes)]
    assert len({len(order) for order in orders}) == 1
    seen = [pick.index for order in orders for row in order for pick in row if pick.counts]
    assert sorted(seen) == list(range(7))
