"""`--feature-cache`: the same losses without decoding and without the vision tower."""

import json
import os
import re
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import ONE, change_vision_setting, change_vision_tower

from formcoach.errors import UserError
from formcoach.models import load_model, sizes_for
from formcoach.models.mobilevideogpt.modeling import VisionTowers

FLAGS = ("--max-steps", 4, "--checkpoint-interval", -1)


def cached(project):
    return sorted((project.root / "features").rglob("*.safetensors"))


def train(project, *flags):
    return project.train(*FLAGS, "--feature-cache", project.root / "features", *flags)


def augment(project):
    registry = json.loads(project.datasets.read_text())
    registry["demo"]["data_augment"] = ["horizontal_flip", "brightness"]
    project.datasets.write_text(json.dumps(registry))


def test_losses_are_those_without_the_cache(project, logged, capsys) -> None:
    run = project.train(*FLAGS, "--mirco-batch-size", 2)
    without = logged(run, "loss"), logged(run, "val_loss")
    train(project)  # fills it, clip by clip
    assert re.search(r"([678]) clips, 0% found, \1 computed; 0", capsys.readouterr().out)  # two may be equal to others
    train(project, "--mirco-batch-size", 2)
    assert re.search(r"[678] clips, 100% found, 0 computed; 0\.", capsys.readouterr().out)
    last = project.root / "run_3"
    assert logged(last, "loss") == pytest.approx(without[0], abs=1e-6)
    assert logged(last, "val_loss") == pytest.approx(without[1], abs=1e-6)


def test_neither_clips_nor_vision_tower_are_needed_any_more(project, logged, monkeypatch) -> None:
    train(project)

    def never(*_):
        raise AssertionError("the vision tower ran")

    model, _ = load_model(project.small.folder, device="cpu")
    monkeypatch.setattr(type(model.model.get_submodule(project.small.family.vision)), "forward", never)
    with pytest.raises(AssertionError, match="the vision tower ran"):
        project.train(*FLAGS, "--num-workers", 0, "--work-dir", project.root / "uncached")
    for clip in project.clips:
        before = clip.stat()
        content = clip.read_bytes()
        start = content.index(b"mdat") + 4
        clip.write_bytes(content[:start] + bytes(200) + content[start + 200 :])  # frames are lost, the header is not
        os.utime(clip, ns=(before.st_atime_ns, before.st_mtime_ns))
    train(project)
    assert logged(project.root / "run_2", "loss") == logged(project.root / "run", "loss")


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_half_precision_is_kept_apart(project, logged, dtype) -> None:
    run = project.train(*FLAGS, "--dtype", dtype)
    train(project, "--dtype", "fp32")
    train(project, "--dtype", dtype)
    assert logged(project.root / "run_3", "loss") == logged(run, "loss")
    assert len(list((project.root / "features").glob("*/"))) == (1 if dtype == "fp32" else 2)


def test_what_decides_the_features_decides_their_file(project, capsys) -> None:
    train(project)
    more = len(cached(project))
    if project.small.more_frames is not None:
        train(project, "--max_num_frames", project.small.more_frames, "--min_num_frames", project.small.more_frames)
        assert len(cached(project)) > more
        more = len(cached(project))
    shutil.copy(project.clips[2], project.clips[3])  # another content under the same name
    train(project)
    assert len(cached(project)) == more  # that content is known
    assert "100% found" in capsys.readouterr().out
    base = project.root / "base"
    shutil.copytree(project.small.folder, base)
    change_vision_tower(project.small, base)
    train(project, "--model", base)
    assert len(list((project.root / "features").glob("*/"))) == 2
    change_vision_setting(project.small, base)  # the weights are the same
    train(project, "--model", base)
    assert len(list((project.root / "features").glob("*/"))) == 3


def test_damaged_features_are_computed_again(project, logged) -> None:
    run = train(project)
    first, second, *_ = cached(project)
    first.write_bytes(first.read_bytes()[:-8])
    second.write_bytes(b"")
    train(project)
    assert logged(project.root / "run_2", "loss") == logged(run, "loss")


def test_augmented_clips_are_left_out_unless_variants_are_asked_for(project, logged, capsys) -> None:
    augment(project)
    train(project)
    assert "feature cache: off for training clips" in capsys.readouterr().out
    assert len(cached(project)) == 2  # those for validation
    train(project, "--feature-variants", 2, "--epochs", 4)
    assert "100% found" not in capsys.readouterr().out
    found = len(cached(project))
    assert 2 + 6 <= found <= 2 + 6 * 2
    train(project, "--feature-variants", 2, "--seed", 7)
    assert len(cached(project)) > found
    without = project.train(*FLAGS, "--work-dir", project.root / "plain")
    plain = project.root / "plain"
    assert without == project.root / "run"
    # The first epoch shows the first variant, which is how the clips would be shown without a cache.
    assert logged(project.root / "run_2", "loss")[:3] == pytest.approx(logged(plain, "loss")[:3], abs=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--lora-vit",), "does not change"),
        (("--feature-cache", "/proc/features"), "cannot be written"),
    ],
)
def test_a_cache_that_cannot_be(project, flags, message) -> None:
    with pytest.raises(UserError, match=message):
        train(project, *flags)


def poison(path):
    """Let a file of features hold nothing but NaN."""
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    tensors = {name: torch.full_like(value, float("nan")) for name, value in load_file(path).items()}
    save_file(tensors, path, about)


def test_poisoned_features_stop_the_training_or_are_left_out(project, logged, capsys) -> None:
    project.datasets.with_name("diy_ft_data_val.json").unlink()
    run = train(project)
    poison(cached(project)[0])
    with pytest.raises(UserError, match=r"the loss is nan in step \d, samples train-\d; lower --lr"):
        train(project)
    train(project, "--nan", "skip", "--work-dir", project.root / "skipping")
    output = capsys.readouterr().out
    assert "the loss is not finite, left out samples train-" in output
    assert "(1 so far)" in output
    losses, others = logged(project.root / "skipping", "loss"), logged(run, "loss")
    assert len(losses) == 4
    assert all(0.5 * other < loss < 2 * other for loss, other in zip(losses, others, strict=True))


def test_poisoned_validation_features_stop_the_training_or_are_left_out(project, logged, capsys, write_clip) -> None:
    for number, clip in enumerate(path for path in project.clips if "val" in str(path)):
        write_clip(clip, frames=20, seed=50 + number)
    registry = project.datasets.with_name("diy_ft_data_val.json")
    registry.rename(project.root / "later.json")
    train(project)
    before = cached(project)
    (project.root / "later.json").rename(registry)
    train(project)
    poison(next(path for path in cached(project) if path not in before))
    with pytest.raises(UserError, match=r"the validation loss is not finite after step 4, samples val-\d"):
        train(project)
    train(project, "--nan", "skip", "--work-dir", project.root / "skipping")
    assert "step 4: left out of validation, the loss is not finite: samples val-" in capsys.readouterr().out
    assert logged(project.root / "skipping", "val_loss")[0] < 10


@ONE
def test_two_frozen_towers_are_not_needed_any_more(project, small_mobile, logged, capsys, monkeypatch) -> None:
    def train_mobile(*flags):
        return project.train(
            *("--model", small_mobile, "--min_num_frames", 16, "--max_num_frames", 16, "--dtype", "bf16"),
            *("--max-steps", 2, "--checkpoint-interval", -1, "--mirco-batch-size", 2, *flags),
        )

    run = train_mobile()
    without = logged(run, "loss"), logged(run, "val_loss")
    cache = "--feature-cache", project.root / "features"
    train_mobile(*cache)
    report = re.search(r"(\d) clips, 0% found, \1 computed; (\d\.\d) MB", capsys.readouterr().out)
    clips = cached(project)
    assert len(clips) == int(report[1])
    tensors = load_file(clips[0])
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "image_features": (1, 16, 16, 32),
        "video_features": (1, 2, 196, 32),
    }
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    held = 2 * sizes_for(small_mobile).features
    assert all(held < clip.stat().st_size < held + 1000 for clip in clips)
    assert float(report[2]) == pytest.approx(len(clips) * held / 1e6, abs=0.06)

    def never(*_):
        raise AssertionError("a vision tower ran")

    for tower in ("see_images", "see_video"):
        monkeypatch.setattr(VisionTowers, tower, never)
    train_mobile(*cache)
    assert "100% found, 0 computed" in capsys.readouterr().out
    last = project.root / "run_3"
    assert (logged(last, "loss"), logged(last, "val_loss")) == (
        pytest.approx(without[0], abs=1e-6),
        pytest.approx(without[1], abs=1e-6),
    )
