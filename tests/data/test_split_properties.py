"""What must hold for every dataset, whatever is in it: nothing shared, nothing lost, nothing moved."""

import json
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from formcoach.data.annotations import LabelledClip, read_conversations
from formcoach.data.assignments import Assignments
from formcoach.data.prepare import Choices, write_splits
from formcoach.data.splits import SPLITS, TRAIN, Settings, split_clips
from formcoach.data.together import find_leaks, tie
from formcoach.errors import UserError

RATIOS = (0.6, 0.2, 0.2)


@st.composite
def datasets(draw):
    """Return clips, and groups of equal files and of look-alikes among them."""
    count = draw(st.integers(3, 40))
    people = draw(st.integers(1, 12))
    official = draw(st.sampled_from([[None], ["train", "test"], ["train", "val", "test"], [None, "train", "test"]]))
    rng = random.Random(draw(st.integers(0, 10_000)))
    clips = []
    for number in range(count):
        derived = clips and rng.random() < 0.2
        source = rng.choice([clip for clip in clips if clip.source is None]).path if derived else None
        person = rng.choice([None, f"person {rng.randrange(people)}"])
        exercise = f"exercise {rng.randrange(4)}"
        clips.append(
            LabelledClip(
                f"{exercise}/{number}.mp4", ("x - y",), "x - y", exercise, person, rng.choice(official), source
            )
        )
    paths = [clip.path for clip in clips]

    def groups():
        return [rng.sample(paths, 2) for _ in range(rng.randrange(4)) if count > 1]

    return clips, groups(), groups()


def partition(clips, splitting):
    """Every clip is in one split or left out with a reason."""
    placed = [clip.path for members in splitting.splits.values() for clip in members]
    assert sorted([*placed, *splitting.left_out]) == sorted(clip.path for clip in clips)
    assert all(splitting.left_out.values())


@settings(max_examples=300, deadline=None)
@given(datasets(), st.booleans(), st.integers(0, 3))
def test_nothing_is_in_two_splits_and_nothing_is_lost(dataset, resplit, seed):
    clips, same, looks = dataset
    ties = tie(clips, same, looks)
    try:
        splitting = split_clips(clips, Settings(RATIOS, seed, resplit, drop_leaks=True), ties)
    except UserError:
        return  # too few groups: nothing is written
    partition(clips, splitting)
    assert find_leaks(splitting.splits, ties) == []
    where = {clip.path: name for name, members in splitting.splits.items() for clip in members}
    for group in (*same, *looks):
        assert len({where[path] for path in group if path in where}) <= 1
    for clip in clips:
        if clip.source is not None and clip.path in where:
            assert where[clip.path] == where[clip.source] == TRAIN
        elif clip.path in where and clip.split == "test" and not resplit:
            assert where[clip.path] == "test"


@settings(max_examples=100, deadline=None)
@given(datasets(), st.randoms())
def test_the_order_of_the_clips_changes_nothing(dataset, rng):
    clips, same, looks = dataset
    shuffled = rng.sample(clips, len(clips))
    results = []
    for order in (clips, shuffled):
        try:
            results.append(split_clips(order, Settings(drop_leaks=True), tie(order, same, looks)))
        except UserError as error:
            results.append(str(error))
    assert results[0] == results[1]


@settings(max_examples=200, deadline=None)
@given(datasets(), datasets())
def test_clips_that_are_added_move_no_old_one(old, new):
    clips, same, looks = old
    more = [
        LabelledClip(f"new/{clip.path}", clip.labels, clip.answer, clip.exercise, clip.person, clip.split)
        for clip in new[0]
    ]
    choices = Settings(drop_leaks=True, resplit=True)
    try:
        first = split_clips(clips, choices, tie(clips, same, looks))
    except UserError:
        return
    before = Assignments(list(RATIOS), 42, True).with_splits(first.splits, {})
    # New clips are also equal to old ones, to several at times.
    mixed = [[new_clip.path, random.Random(n).choice(clips).path] for n, new_clip in enumerate(more) if n % 3 == 0]
    mixed += [[new_clip.path, random.Random(-n).choice(clips).path] for n, new_clip in enumerate(more) if n % 6 == 0]
    both = [*clips, *more]
    ties = tie(both, [*same, *mixed], looks)
    second = split_clips(both, choices, ties, before)
    partition(both, second)
    assert second.moved == []
    assert find_leaks(second.splits, ties) == []
    for name in SPLITS:
        now = {clip.path for clip in second.splits[name]}
        assert {clip.path for clip in first.splits[name]} <= now


@pytest.fixture(scope="module")
def originals(tmp_path_factory, write_clip):
    folder = tmp_path_factory.mktemp("originals")
    return [write_clip(folder / f"{number}.mp4", frames=3 + number) for number in range(6)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000))
def test_folders_of_all_kinds_come_out_whole(originals, seed):
    """A dataset folder with clips that are missing, damaged, unlabelled, equal, derived: each is accounted for."""
    rng = random.Random(seed)
    scratch = Path(tempfile.mkdtemp())
    try:
        dataset = scratch / "dataset"
        records, manifest, paths = [], {}, []
        for number in range(rng.randrange(8, 30)):
            path = f"{rng.choice('abc')}/{number}.mp4"
            file = dataset / path
            file.parent.mkdir(parents=True, exist_ok=True)
            kind = rng.choice(["equal", "own", "own", "own", "damaged", "missing", "unlabelled"])
            if kind == "equal":
                os.link(rng.choice(originals), file)
            elif kind == "damaged":
                file.write_bytes(b"no video")
            elif kind != "missing":
                file.write_bytes(rng.choice(originals).read_bytes() + rng.randbytes(8))  # behind the last box
            if kind != "missing":
                paths.append(path)
            if paths and rng.random() < 0.15 and kind == "own":
                manifest[path] = {"class": "x", "source": rng.choice(paths)}
            elif kind != "unlabelled":
                records.append({"video_path": path, "labels": [f"{path[0]} - {number % 3}"]})
                records[-1] |= rng.choice([{}, {"worker_id": rng.randrange(9)}])
        dataset.mkdir(exist_ok=True)
        (dataset / "manifest.json").write_text(json.dumps(manifest))
        outputs = []
        for _ in range(2):
            shutil.rmtree(scratch / "data", ignore_errors=True)
            rng.shuffle(records)
            (dataset / "ground_truth.json").write_text(json.dumps(records))
            try:
                write_splits(dataset, scratch / "data/annotaions", choices=Choices(skip_bad_clips=True))
            except UserError as error:
                outputs.append(str(error))
                continue
            written = {file.name: file.read_bytes() for file in (scratch / "data/annotaions").iterdir()}
            outputs.append(written)
            placed = [
                record.video
                for name in SPLITS
                for record in read_conversations(scratch / f"data/annotaions/qevd_fit_300k_{name}.jsonl")
            ]
            skipped = [json.loads(line) for line in written.get("qevd_fit_300k_skipped.jsonl", b"").splitlines()]
            named = {record["video_path"] for record in records} | set(paths)
            assert sorted([*placed, *(line["video"] for line in skipped)]) == sorted(named)
            assert all(line["reason"] for line in skipped)
        assert outputs[0] == outputs[1]
    finally:
        shutil.rmtree(scratch)
