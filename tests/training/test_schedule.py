"""Learning rates over the steps."""

import math
from itertools import pairwise

import pytest
import torch

from formcoach.config import interval_steps
from formcoach.training.schedule import CONNECTOR, LANGUAGE, VISION, LearningRates, scheduler


def rates_over(steps: int, rates: LearningRates) -> list[list[float]]:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates.peaks.values()]
    optimizer = torch.optim.AdamW(groups)
    schedule = scheduler(optimizer, rates, steps)
    course = []
    for _ in range(steps):
        course.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    return course


def test_warm_up_rises_to_the_peak_and_the_cosine_falls_to_the_minimum() -> None:
    rates = LearningRates({LANGUAGE: 1e-3, CONNECTOR: 1e-4, VISION: 1e-5}, minimum=1e-6, warmup_ratio=0.1)
    course = rates_over(100, rates)
    assert course[0] == pytest.approx([1e-4, 1e-5, 1e-6])
    assert course[9] == pytest.approx([1e-3, 1e-4, 1e-5])
    middle = 10 + 45
    for peak, rate in zip(rates.peaks.values(), course[middle], strict=True):
        assert rate == pytest.approx(1e-6 + (peak - 1e-6) * (1 + math.cos(math.pi / 2)) / 2)
    assert course[-1] == pytest.approx([1e-6] * 3, rel=0.5)
    assert all(late[0] <= early[0] for early, late in pairwise(course[9:]))


def test_no_step_is_wasted_on_a_rate_of_zero() -> None:
    for steps in (1, 2, 3, 30):
        rates = LearningRates({LANGUAGE: 1e-3}, minimum=0.0, warmup_ratio=0.03)
        assert min(rate for step in rates_over(steps, rates) for rate in step) > 0


@pytest.mark.parametrize(
    ("interval", "steps"), [(0.25, 41), (5, 5), (500, 162), (-1, 162), (0.0001, 1), (1, 1)], ids=str
)
def test_interval_is_a_share_a_count_or_the_end(interval: float, steps: int) -> None:
    assert interval_steps(interval, 162) == pytest.approx(steps, abs=1)
