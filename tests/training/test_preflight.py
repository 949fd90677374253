"""What is looked at before the first step: clips' headers, samples that are too long, and one sample in full."""

import json
import os
import re
import shutil
from dataclasses import replace

import pytest
from small_models import ONE

import formcoach.training.preflight as preflight
from formcoach.data.clip_facts import read_facts
from formcoach.data.collate import NO_LOSS
from formcoach.data.dataset import ClipDataset, read_samples
from formcoach.errors import UserError
from formcoach.models import load_model
from formcoach.training.headers import Headers
from formcoach.training.lengths import Length
from formcoach.training.preflight import Limit, check_lengths, long_rows, open_clips
from formcoach.training.sample_check import check_sample


@pytest.fixture
def samples(project):
    return read_samples(project.datasets, 0)


@pytest.fixture
def probed(monkeypatch) -> list[str]:
    """The names of the clips that are opened."""
    names = []
    real = preflight.probe
    monkeypatch.setattr(preflight, "probe", lambda clip: names.append(clip.name) or real(clip))
    return names


def test_clips_are_opened_once_for_all_starts(samples, probed, tmp_path) -> None:
    first = open_clips(samples, 2, False, Headers((), tmp_path / "cache"))
    assert len(probed) == 6
    probed.clear()
    assert open_clips(samples, 2, False, Headers((), tmp_path / "cache")) == first
    assert probed == []


def test_a_clip_that_was_replaced_by_one_of_equal_size_is_opened_again(samples, probed, tmp_path) -> None:
    open_clips(samples, 2, False, Headers((), tmp_path / "cache"))
    probed.clear()
    clip = samples[2].clip
    status = clip.stat()
    os.utime(clip, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    open_clips(samples, 2, False, Headers((), tmp_path / "cache"))
    assert probed == [clip.name]
    clip.unlink()
    with pytest.raises(UserError, match=f"1 clip cannot be read: .*{clip.name}.*--skip-bad-clips"):
        open_clips(samples, 2, False, Headers((), tmp_path / "cache"))


def test_headers_that_the_dataset_folder_keeps_are_used_and_it_is_not_written_to(project, samples, probed) -> None:
    root = project.root / "dataset"
    expected = open_clips(samples, 2, False)
    assert not (root / ".formcoach").exists()
    read_facts(root, [str(sample.clip.relative_to(root)) for sample in samples[:5]])
    before = (root / ".formcoach" / "clips.msgpack").read_bytes()
    probed.clear()
    assert open_clips(samples, 2, False, Headers([root], None)) == expected
    assert probed == [samples[5].clip.name]
    assert (root / ".formcoach" / "clips.msgpack").read_bytes() == before


def test_a_bad_clip_is_opened_at_every_start(samples, probed, tmp_path) -> None:
    samples[1].clip.write_bytes(b"no clip")
    for _ in range(2):
        opened = open_clips(samples, 2, True, Headers((), tmp_path / "cache"))
        assert len(opened.bad) == 1 and len(opened.samples) == 5
    assert probed.count(samples[1].clip.name) == 2


def test_samples_that_are_too_long_are_counted_and_the_first_are_named(samples) -> None:
    opened = open_clips(samples + samples, 2, False)
    lengths = {sample: Length(10, 64, number) for number, sample in enumerate(samples)}
    assert check_lengths(opened, lengths, Limit(79), False, "d.json") == (opened, [])
    found = "4 samples have more than --max-length 75 tokens: train-2 (76), train-3 (77), train-4 (78), ..."
    with pytest.raises(UserError) as raised:
        check_lengths(opened, lengths, Limit(75), False, "d.json")
    remedy = "raise it, lower --max_num_frames, or leave them out with --skip-bad-clips"
    assert str(raised.value) == f"d.json: {found}; {remedy}"
    left, lines = check_lengths(opened, lengths, Limit(75), True, "d.json")
    assert left.samples == samples[:2] * 2 and set(left.infos) == {sample.clip for sample in samples[:2]}
    assert lines == [f"d.json: left out: {found}"]
    assert check_lengths(opened, lengths, Limit(15, "text"), False, "d.json") == (opened, [])
    found = (
        r"d.json: 3 samples have more than --max-length 12 tokens: train-3 \(13\), .*; raise it, shorten them, or leave"
    )
    with pytest.raises(UserError, match=found):
        check_lengths(opened, lengths, Limit(12, "text"), False, "d.json")
    with pytest.raises(UserError, match=r"d.json: no sample is left: 6 samples have more than --max-length 9 tokens"):
        check_lengths(opened, lengths, Limit(9), True, "d.json")
    assert long_rows(opened, lengths, 79) == []
    line = "1 sample has more than --pack-max-length 78 tokens: train-5 (79); each gets a row of its own"
    assert long_rows(opened, lengths, 78) == [line]


@pytest.fixture(scope="module")
def loaded(small):
    return load_model(small.folder, dtype="float32", device="cpu")


@pytest.fixture
def checked(samples, small, loaded):
    """A data set of the real clips, and the configuration of its model."""
    model, processor = loaded
    processor.min_frames = processor.max_frames = small.frames
    return ClipDataset(samples, processor, {}), model.config


# Of each family: the counts of the first sample's tokens, the last line with visual ones, and a setting on which their
# number depends, with another value of it and the number then.
SHOWN = {"internvideo": (192, 11), "mobilevideogpt": (168, 24)}
VISUAL_LINES = {"internvideo": "  Frame4: <img>[16 visual tokens]</img>", "mobilevideogpt": "  [72 visual tokens]"}
OTHER_CONFIG = {"internvideo": ({"tokens_per_group": 32}, 64, 32), "mobilevideogpt": ({"image_side": 1}, 72, 24)}
OTHER_PROCESSOR = {"internvideo": ("tokens_per_frame", 8, 16), "mobilevideogpt": ("visual_tokens", 36, 72)}


def test_one_sample_is_shown_as_text(checked, small) -> None:
    lines = check_sample(*checked, "tiny")
    tokens, learned = SHOWN[small.family.key]
    assert lines[0] == f"sample train-0: {tokens} tokens, of which the last {learned} are learned:"
    assert VISUAL_LINES[small.family.key] in lines
    assert lines[-1] == "  learned > squats - not low enough<|im_end|>"


@ONE
def test_a_long_sample_is_shortened_in_the_middle(checked) -> None:
    dataset, config = checked
    dataset.processor.min_frames = dataset.processor.max_frames = 64
    dataset.samples = [replace(dataset.samples[0], question="Why? " * 400)]
    lines = check_sample(dataset, config, "tiny")
    assert len(lines) < 16 and max(map(len, lines)) < 180
    assert any(line.startswith("  ... ") and line.endswith(" lines ...") for line in lines)
    assert any("Frame1: <img>[16 visual tokens]</img>" in line for line in lines)


@pytest.mark.parametrize("answer", ["a , b ' c .", "  two  spaces ", "深蹲 👍🏽", "\nlines\n", "１２ ﬁt"])
def test_answers_that_tokenizers_tidy_are_in_order(checked, answer) -> None:
    dataset, config = checked
    dataset.samples = [replace(dataset.samples[0], answer=answer)]
    assert check_sample(dataset, config, "tiny")


def test_a_configuration_of_another_model_is_refused(checked, small) -> None:
    dataset, config = checked
    changed, asked, made = OTHER_CONFIG[small.family.key]
    other = type(config).from_dict({**config.to_dict(), **changed})
    with pytest.raises(UserError) as raised:
        check_sample(dataset, other, "some/model")
    assert str(raised.value).startswith(
        f"some/model: does not fit together: the prompt has {asked} visual tokens for {small.frames} frames, "
        f"the model makes {made} of them; "
    )
    other = type(config).from_dict({**config.to_dict(), "image_token_id": 5})
    with pytest.raises(UserError, match=r"placeholder of a visual token has the id \d+, the model's 5; copy"):
        check_sample(dataset, other, "some/model")


def test_wrong_labels_are_refused(checked, monkeypatch) -> None:
    dataset, config = checked
    processor = dataset.processor
    real = processor.text_inputs

    def damaged(change):
        def text_inputs(*arguments):
            ids, labels = real(*arguments)
            change(ids, labels)
            return ids, labels

        monkeypatch.setattr(processor, "text_inputs", text_inputs)
        with pytest.raises(UserError) as raised:
            check_sample(dataset, config, "tiny")
        return str(raised.value)

    assert "not the last tokens" in damaged(lambda ids, labels: labels.__setitem__(3, ids[3]))
    assert "not the last tokens" in damaged(lambda ids, labels: labels.fill_(NO_LOSS))
    assert "at which the model does not stop" in damaged(lambda ids, labels: (ids[-1:].fill_(9), labels[-1:].fill_(9)))
    assert "read" in damaged(lambda ids, labels: (ids[-4:-2].fill_(60), labels[-4:-2].fill_(60)))


def test_a_training_tells_its_samples_and_leaves_long_ones_out(project, steps) -> None:
    annotations = project.root / "data" / "annotaions" / "train.jsonl"
    lines = [json.loads(line) for line in annotations.read_text().splitlines()]
    lines[3]["conversations"][1]["value"] = "long " * 300
    annotations.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ("--max-length", 300, "--max-steps", 1, "--dset-cache-dir", project.root / "cache")
    with pytest.raises(UserError, match=r"1 sample has more than --max-length 300 tokens: train-3 \(\d+\); raise it"):
        project.train(*flags)
    assert not (project.root / "run").exists()
    run = project.train(*flags, "--skip-bad-clips")
    log = (run / "train.log").read_text()
    assert "left out: 1 sample has more than --max-length 300 tokens: train-3 (" in log
    assert "tokens a sample    shortest    median      95 %   longest" in log
    assert "5 samples and " in log and "validation: 2 samples of " in log
    assert "  learned > squats - not low enough<|im_end|>" in log
    resolved = json.loads((run / "training_config.json").read_text())["resolved"]
    assert resolved["training_samples"] == 5 and resolved["longest_sample"] < 300
    assert steps(run) == [1]


@pytest.mark.parametrize(("flag", "refused"), [("--dset-cache-dir", False), ("--feature-cache", True)])
def test_a_cache_that_cannot_be_written_is_told(project, flag, refused) -> None:
    (project.root / "file").write_text("")
    flags = ("--max-steps", 1, flag, project.root / "file" / "cache")
    line = f"{flag} {project.root}/file/cache: cannot be written ("
    if refused:
        with pytest.raises(UserError, match=re.escape(line)):
            project.train(*flags)
    else:
        assert line in (project.train(*flags) / "train.log").read_text()


def test_a_processor_of_another_checkpoint_is_one_line(project, tmp_path) -> None:
    folder = tmp_path / "native"
    model, processor = load_model(project.small.folder, dtype="float32", device="cpu")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    settings = json.loads((folder / "processor_config.json").read_text())
    name, other, right = OTHER_PROCESSOR[project.small.family.key]
    (folder / "processor_config.json").write_text(json.dumps(settings | {name: other}))
    message = rf"processor_config.json: {name} is {other}, but the model of .* has {right}"
    with pytest.raises(UserError, match=message):
        project.train("--model", folder, "--max-steps", 1, "--mirco-batch-size", 1)
    shutil.rmtree(folder)
