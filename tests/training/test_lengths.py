"""Samples' lengths: equal to the real inputs', kept from start to start, and told in a table."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_models import ONE

from formcoach.data.augment import allowed
from formcoach.data.dataset import ClipDataset, Pick, Sample
from formcoach.data.video import VideoInfo, probe
from formcoach.errors import UserError
from formcoach.models import load_model
from formcoach.training.cache_file import CacheFile
from formcoach.training.length_report import length_line, length_table
from formcoach.training.lengths import Length, measure

INFO = VideoInfo(120, 30.0, 640, 480)


class Spy:
    """A processor that notes which questions are measured."""

    def __init__(self, processor) -> None:
        self._processor = processor
        self.asked: list[str] = []

    def __getattr__(self, name):
        return getattr(self._processor, name)

    def sample_lengths(self, question, *more):
        self.asked.append(question)
        return self._processor.sample_lengths(question, *more)


@pytest.fixture
def processor(small):
    _, processor = load_model(small.folder)
    processor.min_frames, processor.max_frames = small.frames, small.more_frames or small.frames
    return Spy(processor)


def make(number: int, question: str = "What is wrong?", **more) -> Sample:
    return Sample(f"id-{number}", Path(f"{number}.mp4"), question, f"squats, fault {number}", "auto", **more)


def lengths_of(samples, processor, cache=None, info=INFO) -> list[Length]:
    return measure(samples, {sample.clip: info for sample in samples}, processor, 2, cache)


def visual_tokens(processor, frames: int) -> int:
    """Return the placeholders of a clip."""
    return processor.prompt("?", frames, 4.0).count(processor.image_token)


def test_lengths_come_in_order_and_repeated_samples_are_measured_once(processor, small) -> None:
    samples = [make(number % 7, f"What {'is ' * (number % 7)}wrong?") for number in range(600)]
    lengths = lengths_of(samples, processor)
    assert len(processor.asked) == 7
    assert lengths == [Length(*processor.sample_lengths(s.question, small.frames, 4.0, s.answer)) for s in samples]
    assert lengths[0].total == lengths[0].text + visual_tokens(processor, small.frames) + lengths[0].answer
    assert lengths_of([], processor) == []


def test_an_augmented_sample_gets_the_longest_that_any_epoch_draws(processor, project) -> None:
    clip = project.clips[4]
    augmented = ("horizontal_flip", "tempo", "temporal_crop")
    sample = Sample("one", clip, "How is the left arm?", "curls - left arm bent", "auto", augmented)
    assert allowed(augmented, (sample.question, sample.answer)) == augmented
    info = probe(clip)
    most = measure([sample], {clip: info}, processor, 1, None)[0].total
    dataset = ClipDataset([sample], processor, {}, seed=0)
    assert most >= max(len(dataset[Pick(0, epoch)]["input_ids"]) for epoch in range(30))


def test_a_text_that_cannot_be_taken_is_named_with_its_sample(processor) -> None:
    bad = replace(make(1, f"What {processor.control_tokens[0]}?"), dataset="demo")
    with pytest.raises(UserError, match=r"^demo: sample id-1: the question .* contains the control token"):
        lengths_of([make(0), bad], processor)


def test_the_second_start_measures_nothing(processor, tmp_path) -> None:
    samples = [make(number) for number in range(20)]
    first = lengths_of(samples, processor, tmp_path / "new" / "cache")
    processor.asked.clear()
    assert lengths_of(samples, processor, tmp_path / "new" / "cache") == first
    assert processor.asked == []


def test_what_changes_a_length_has_it_measured_again(processor, small, tmp_path) -> None:
    samples = [make(0), make(1)]
    before = lengths_of(samples, processor, tmp_path)
    processor.asked.clear()
    samples[1] = make(1, "What exactly is wrong?")
    after = lengths_of(samples, processor, tmp_path)
    assert processor.asked == ["What exactly is wrong?"]
    assert after[0] == before[0] and after[1].text > before[1].text
    longer = lengths_of(samples, processor, tmp_path, replace(INFO, frames=300))[0]  # 10 s
    assert longer.visual == visual_tokens(processor, small.more_frames or small.frames)
    assert lengths_of([replace(samples[0], augmentations=("tempo",))], processor, tmp_path)[0].total >= before[0].total
    assert len(processor.asked) > 4


@ONE
def test_other_frame_limits_have_their_own_lengths(processor, tmp_path) -> None:
    few = lengths_of([make(0)], processor, tmp_path)[0]
    inner = processor._processor
    inner.min_frames = inner.max_frames = 16
    many = lengths_of([make(0)], processor, tmp_path)[0]
    assert (few.visual, many.visual) == (64, 256)
    inner.min_frames, inner.max_frames = 4, 8
    processor.asked.clear()
    assert lengths_of([make(0)], processor, tmp_path)[0] == few
    assert processor.asked == []


def test_another_tokenizer_has_its_own_lengths(processor, tmp_path) -> None:
    before = lengths_of([make(0)], processor, tmp_path)
    processor.tokenizer.add_tokens(["fault"])
    processor.asked.clear()
    after = lengths_of([make(0)], processor, tmp_path)
    assert processor.asked and after[0].answer < before[0].answer


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:30] + b"\1" + data[31:], lambda data: b""]
)
def test_a_damaged_cache_costs_only_time(processor, tmp_path, damage) -> None:
    expected = lengths_of([make(0)], processor, tmp_path)
    file = tmp_path / "lengths.cache"
    file.write_bytes(damage(file.read_bytes()))
    processor.asked.clear()
    assert lengths_of([make(0)], processor, tmp_path) == expected
    assert processor.asked


def test_a_folder_that_cannot_be_written_is_done_without(processor, small, tmp_path) -> None:
    (tmp_path / "a file").write_text("")
    folder = tmp_path / "a file" / "cache"
    assert lengths_of([make(0)], processor, folder)[0].visual == visual_tokens(processor, small.frames)


def test_keys_are_the_same_in_every_process(small) -> None:
    """Nothing that Python or the tokenizer orders by chance is part of a key."""
    program = (
        "import sys; from pathlib import Path; from formcoach.models import load_model\n"
        "from formcoach.training.length_cache import _setup\n"
        "print(_setup(load_model(Path(sys.argv[1]))[1]).hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program, str(small.folder)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_a_cache_keeps_what_is_used_and_a_limited_rest(tmp_path) -> None:
    path = tmp_path / "c.cache"

    def start(numbers) -> int:
        cache = CacheFile(path, int, 1, unused=10)
        known = [cache.get(b"%d" % number) for number in numbers].count(None)
        for number in numbers:
            cache.put(b"%d" % number, number)
        cache.save()
        return len(numbers) - known

    assert start(range(100)) == 0
    assert start(range(100, 110)) == 0
    assert start(range(100)) == 10  # of those of the first start the last ten were left
    assert start(range(100)) == 100
    assert CacheFile(path, int, 2).get(b"1") is None
    assert not list(tmp_path.glob(".*"))


def test_table_is_aligned_and_counts_repeats() -> None:
    lengths = [Length(100, 64, answer) for answer in (5, 10, 1200)]
    assert length_table([*lengths, *lengths[:2]]) == [
        "tokens a sample    shortest    median      95 %   longest",
        "  text                  100       100       100       100",
        "  visual                 64        64        64        64",
        "  answer                  5        10     1,200     1,200",
        "  all                   169       174     1,364     1,364",
        "5 samples and 2,050 tokens an epoch",
    ]
    assert length_line(lengths[:1]) == "validation: 1 sample of 169 to 169 tokens, median 169, 169 in all"
