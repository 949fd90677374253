import random
from collections import Counter

import pytest

from formcoach.data.annotations import LabelledClip
from formcoach.data.splits import SPLITS, Settings
from formcoach.data.splits import split_clips as split_all
from formcoach.errors import UserError

RATIOS = {"train": 0.6, "val": 0.2, "test": 0.2}


def split_clips(clips, ratios=(0.6, 0.2, 0.2), seed=42):
    return split_all(clips, Settings(ratios, seed)).splits


def clip(number, exercise="squats", person=None):
    return LabelledClip(f"{exercise}/{number}.mp4", (f"{exercise} - ok",), f"{exercise} - ok", exercise, person)


def demo_like(people=24, clips=360, exercises=6):
    """Everybody does everything."""
    return [clip(n, f"exercise {n % exercises}", f"person {n // exercises % people}") for n in range(clips)]


def lumpy(seed, clips=600):
    """Few people have most clips, and few exercises."""
    rng = random.Random(seed)
    return [
        clip(n, f"exercise {int(rng.expovariate(0.4))}", f"person {int(rng.expovariate(0.06))}") for n in range(clips)
    ]


def shares(splits, clips):
    return {name: len(members) / len(clips) for name, members in splits.items()}


def check_partition(splits, clips):
    assert sorted(c.path for members in splits.values() for c in members) == sorted(c.path for c in clips)
    people = [{c.person for c in members} - {None} for members in splits.values()]
    assert sum(map(len, people)) == len(set().union(*people))


@pytest.mark.parametrize("seed", range(8))
def test_every_clip_is_in_one_split_and_nobody_is_in_two(seed):
    clips = lumpy(seed)
    unknown = [clip(f"u{n}", f"exercise {n % 5}") for n in range(50)]
    splits = split_clips(clips + unknown, seed=seed)
    check_partition(splits, clips + unknown)


@pytest.mark.parametrize("seed", range(5))
def test_shares_are_near_the_ratios_overall_and_for_each_exercise(seed):
    clips = demo_like()
    splits = split_clips(clips, seed=seed)
    assert shares(splits, clips) == pytest.approx(RATIOS, abs=0.03)
    for name, members in splits.items():
        for count in Counter(c.exercise for c in members).values():
            assert count / 60 == pytest.approx(RATIOS[name], abs=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_lumpy_people_do_not_spoil_the_shares(seed):
    clips = lumpy(seed)
    assert shares(split_clips(clips, seed=seed), clips) == pytest.approx(RATIOS, abs=0.04)


def test_each_exercise_of_few_people_reaches_every_split():
    clips = [clip(n, f"exercise {n % 6}", f"person {n % 24}") for n in range(360)]  # four people an exercise
    for members in split_clips(clips).values():
        assert len({c.exercise for c in members}) == 6


def test_unknown_people_are_split_clip_by_clip_within_each_exercise():
    clips = [clip(n, f"exercise {n % 4}") for n in range(200)]
    for name, members in split_clips(clips).items():
        assert set(Counter(c.exercise for c in members).values()) == {round(50 * RATIOS[name])}


def test_exercises_with_a_single_clip_are_spread_too():
    clips = [clip(n, f"exercise {n}") for n in range(50)]
    assert shares(split_clips(clips), clips) == pytest.approx(RATIOS, abs=0.02)


def test_the_order_of_the_records_does_not_matter_but_the_seed_does():
    clips = lumpy(3)
    expected = split_clips(clips)
    for seed in range(3):
        shuffled = clips.copy()
        random.Random(seed).shuffle(shuffled)
        assert split_clips(shuffled) == expected
    assert split_clips(clips, seed=43) != expected


def test_members_are_mixed_so_that_the_first_few_are_a_fair_sample():
    train = split_clips(demo_like())["train"]
    assert len({c.exercise for c in train[:30]}) == 6


def test_other_ratios():
    clips = demo_like(people=100, clips=1200)
    splits = split_clips(clips, (80, 10, 10))
    assert shares(splits, clips) == pytest.approx({"train": 0.8, "val": 0.1, "test": 0.1}, abs=0.01)


@pytest.mark.parametrize("number", [3, 4, 5, 6, 10])
def test_few_clips_still_fill_every_split(number):
    splits = split_clips([clip(n, f"exercise {n % 2}") for n in range(number)])
    assert all(splits[name] for name in SPLITS)
    assert len(splits["train"]) == max(map(len, splits.values()))


def test_three_people_of_very_different_size_fill_every_split():
    clips = [clip(n, "squats", "busy" if n < 50 else f"person {n}") for n in range(52)]
    assert [len(members) for members in split_clips(clips).values()] == [50, 1, 1]


def test_too_few_people_or_clips_are_told_with_a_remedy():
    with pytest.raises(UserError, match=r"9 clips show only 2 people.*remove worker_id"):
        split_clips([clip(n, "squats", f"person {n % 2}") for n in range(9)])
    with pytest.raises(UserError, match=r"show only 1 person"):
        split_clips([clip(n, "squats", "me") for n in range(9)])
    with pytest.raises(UserError, match=r"2 usable clips are too few"):
        split_clips([clip(n) for n in range(2)])
    with pytest.raises(UserError, match=r"0 usable clips"):
        split_clips([])
