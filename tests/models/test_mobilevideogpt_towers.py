"""Checkpoints without their vision towers: taken from local files or the hub, fitted, or refused by name."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_stub import HubStub
from mobile_checkpoints import image_tower, video_tower, write_mobile
from safetensors.torch import save_file

from formcoach.errors import UserError
from formcoach.models import load_model
from formcoach.models.mobilevideogpt.conversion import IMAGE_TOWER, VIDEO_TOWER

PICKLE = "videomamba_m16_25M_f8_res224.pth"
HALF = ["A_b_log", "D_b", "conv1d_b.weight", "conv1d_b.bias", "x_proj_b.weight", "dt_proj_b.weight", "dt_proj_b.bias"]


def write_video(folder, tensors=None, prefix="vision_encoder.", wrapping="model", file=PICKLE, **others):
    """Write VideoMamba's repository: a pickled training state of a larger model."""
    folder.mkdir(exist_ok=True)
    weights = {prefix + name: tensor for name, tensor in (tensors or video_tower()).items()}
    weights |= {prefix + "clip_decoder.0.head.weight": torch.zeros(3, 48), prefix + "pool_norm.weight": torch.ones(48)}
    weights |= {"text_encoder.layers.0.weight": torch.zeros(2), "temp": torch.tensor(0.07)}
    torch.save({wrapping: weights, "epoch": 3} if wrapping else weights, folder / file, **others)
    return folder


def write_image(folder, tensors=None, prefix="vision_model."):
    """Write CLIP's repository."""
    folder.mkdir(exist_ok=True)
    weights = {prefix + name: tensor for name, tensor in (tensors or image_tower()).items()}
    weights |= {"text_model.final_layer_norm.weight": torch.ones(32), "logit_scale": torch.tensor(2.6)}
    weights[prefix + "embeddings.position_ids"] = torch.arange(17)[None]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "pytorch_model.bin").write_bytes(b"pickled")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a checkpoint that has its towers."""
    folder = write_mobile(tmp_path_factory.mktemp("towers") / "whole")
    return load_model(folder, dtype="float32", device="cpu")[0].state_dict()


@pytest.fixture
def lacking(tmp_path):
    """Writes a checkpoint without towers; its folder is `tmp_path / "model"`."""

    def write(video=None, image=None, **options):
        without = (VIDEO_TOWER if video else "-", IMAGE_TOWER if image else "-")
        names = {"mm_vision_tower": video, "image_mm_vision_tower": image}
        given = {key: str(value) for key, value in names.items() if value}
        return write_mobile(tmp_path / "model", without=without, **given, **options)

    return write


def weights_of(folder, dtype="float32"):
    return load_model(folder, dtype=dtype, device="cpu")[0].state_dict()


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize(
    ("prefix", "wrapping"),
    [("vision_encoder.", "model"), ("module.vision_encoder.", "module"), ("", None), ("", "state_dict")],
)
def test_the_video_tower_is_found_in_its_file_however_it_is_wrapped(tmp_path, lacking, whole, prefix, wrapping):
    repository = write_video(tmp_path / "VideoMamba", prefix=prefix, wrapping=wrapping)
    assert_equal(weights_of(lacking(video=repository)), whole)


@pytest.mark.parametrize("prefix", ["vision_model.", "", "model.vision_model."])
def test_the_image_tower_is_found_in_safetensors(tmp_path, lacking, whole, prefix):
    assert_equal(weights_of(lacking(image=write_image(tmp_path / "clip", prefix=prefix))), whole)


def test_both_towers_by_file_in_an_older_format_beside_sharded_half_precision(tmp_path, lacking, whole):
    video = write_video(tmp_path / "a", _use_new_zipfile_serialization=False) / PICKLE
    image = write_image(tmp_path / "b") / "model.safetensors"
    folder = lacking(video=video, image=image, dtype=torch.bfloat16, shards=2)
    model, _ = load_model(folder, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert_equal(model.state_dict(), {name: tensor.bfloat16() for name, tensor in whole.items()})
    assert model.name_or_path == str(folder)


def test_positions_are_resized_to_the_model_s_frames(tmp_path, lacking):
    video, image = video_tower(side=6, frames=4), image_tower(side=3)
    folder = lacking(write_video(tmp_path / "a", video), write_image(tmp_path / "b", image))
    found = weights_of(folder)

    def bicubic(rows, side):
        grid = rows[1:].T.reshape(1, -1, side, side)
        grid = torch.nn.functional.interpolate(grid, size=(4, 4), mode="bicubic", align_corners=False)
        return torch.cat([rows[:1], grid.flatten(2)[0].T])

    linear = torch.nn.functional.interpolate(video["temporal_pos_embedding"].mT, size=8, mode="linear").mT
    expected = {
        "video.pos_embed": bicubic(video["pos_embed"][0], 6)[None],
        "video.temporal_pos_embedding": linear,
        "image.embeddings.position_embedding.weight": bicubic(image["embeddings.position_embedding.weight"], 3),
    }
    for name, tensor in expected.items():
        assert found[f"model.vision_tower.{name}"].equal(tensor)


def refusal(folder):
    with pytest.raises(UserError) as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("missing", HALF)
def test_half_a_video_tower_is_refused_wherever_it_is_from(tmp_path, lacking, missing):
    name = f"layers.1.mixer.{missing}"
    tensors = video_tower()
    del tensors[name]
    folder = lacking(video=write_video(tmp_path / "VideoMamba", tensors))
    refused = refusal(folder)
    assert f"{PICKLE}: tensor {name} of the video tower is missing" in refused and "must not be used" in refused
    refused = refusal(write_mobile(tmp_path / "own", without=(VIDEO_TOWER + name,)))
    assert f"tensor {VIDEO_TOWER}{name} is missing" in refused and "must not be used" in refused


def test_a_video_tower_without_its_backward_direction_is_refused(tmp_path, lacking):
    one_way = {
        name: tensor for name, tensor in video_tower().items() if not name.split("mixer.")[-1].startswith(tuple(HALF))
    }
    refused = refusal(lacking(video=write_video(tmp_path / "VideoMamba", one_way)))
    assert "layers.0.mixer.A_b_log of the video tower is missing" in refused and "half an encoder" in refused


def changed(tensors, **values):
    return tensors | {name.replace("__", "."): value for name, value in values.items()}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (video_tower(depth=3), "tensor layers.2.mixer.A_log belongs to a larger video tower than config.json"),
        (video_tower(depth=1), "tensor layers.1.mixer.A_b_log of the video tower is missing"),
        (changed(video_tower(), norm__weight=torch.ones(64)), "norm.weight of the video tower has shape (64,), but"),
        (changed(video_tower(), norm__weight=torch.ones(48).int()), "norm.weight of the video tower holds no plain"),
        (changed(video_tower(), norm__weight=torch.ones(48).to_sparse()), "norm.weight of the video tower holds no"),
        (changed(video_tower(), norm__weight=torch.ones(48, device="meta")), "norm.weight of the video tower holds no"),
        (changed(video_tower(), norm__weight="text"), "norm.weight of the video tower is missing"),
        (
            changed(video_tower(), pos_embed=torch.zeros(1, 16, 48)),
            "pos_embed of the video tower has shape (1, 16, 48)",
        ),
        (changed(video_tower(), pos_embed=torch.zeros(())), "pos_embed of the video tower has shape ()"),
        (
            changed(video_tower(), pos_embed=torch.zeros(1, 1, 48).expand(1, 1 + 2000**2, 48)),
            "pos_embed of the video tower has shape (1, 4000001, 48)",
        ),
        (
            changed(video_tower(), temporal_pos_embedding=torch.zeros(1, 1, 48).expand(1, 10**7, 48)),
            "temporal_pos_embedding of the video tower has shape (1, 10000000, 48)",
        ),
        ({"norm.weight": torch.ones(48)}, "has 0 tensors called temporal_pos_embedding, so it is no video tower"),
    ],
)
def test_another_video_tower_is_refused(tmp_path, lacking, tensors, message):
    refused = refusal(lacking(video=write_video(tmp_path / "VideoMamba", tensors)))
    assert message in refused and PICKLE in refused


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (image_tower(hidden_size=64), "of the image tower has shape (64"),
        (image_tower(num_hidden_layers=4), "encoder.layers.3."),
        (
            image_tower(num_hidden_layers=2),
            "tensor encoder.layers.2.self_attn.k_proj.weight of the image tower is missing",
        ),
        (image_tower(intermediate_size=64), "of the image tower has shape (64"),
        (changed(image_tower(), embeddings__class_embedding=torch.zeros(32).long()), "holds no plain numbers"),
    ],
)
def test_another_image_tower_is_refused(tmp_path, lacking, tensors, message):
    refused = refusal(lacking(image=write_image(tmp_path / "clip", tensors)))
    assert message in refused and "clip/model.safetensors" in refused


class Payload:
    """What a hostile file would have run."""

    def __reduce__(self):
        return (Path.touch, (Path("/tmp/formcoach-test-was-run"),))


def test_nothing_but_tensors_is_unpickled(tmp_path, lacking):
    folder = tmp_path / "VideoMamba"
    folder.mkdir()
    torch.save({"model": video_tower(), "extra": Payload()}, folder / PICKLE)
    assert "is damaged or holds more than weights" in refusal(lacking(video=folder))
    assert not Path("/tmp/formcoach-test-was-run").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 no archive", b"\x80\x02}q\x00."])
def test_a_damaged_video_file_is_named(tmp_path, lacking, content):
    (tmp_path / PICKLE).write_bytes(content)
    assert PICKLE in refusal(lacking(video=tmp_path / PICKLE))


def test_a_truncated_video_file_is_named(tmp_path, lacking):
    path = write_video(tmp_path / "VideoMamba") / PICKLE
    path.write_bytes(path.read_bytes()[:-1000])
    assert "is damaged or holds more than weights" in refusal(lacking(video=path))


def test_only_the_known_pickle_is_read(tmp_path, lacking):
    other = write_video(tmp_path / "VideoMamba", file="mine.pth")
    assert "mine.pth: is not read, since pickled weights can run code" in refusal(lacking(video=other / "mine.pth"))


def test_other_refusals_say_what_to_correct(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled/pytorch_model.bin").write_bytes(b"pickled")
    cases = {
        ("mm_vision_tower", "/no/such/folder"): "it is neither a hub id nor a folder or file here",
        ("mm_vision_tower", "nothing"): "it is neither a hub id nor a folder or file here",
        ("mm_vision_tower", "/" + "x" * 300): "File name too long",
        ("mm_vision_tower", "org/" + "x" * 300): "the hub has no ids like this",
        ("mm_vision_tower", "a\0b"): "it is neither a hub id nor a folder or file here",
        ("mm_vision_tower", str(tmp_path / "empty")): f"has neither model.safetensors nor {PICKLE}",
        ("image_mm_vision_tower", str(tmp_path / "empty")): "has no model.safetensors",
        ("image_mm_vision_tower", str(tmp_path / "pickled")): "has pickled weights (*.bin) only",
    }
    for number, ((setting, name), message) in enumerate(cases.items()):
        without = VIDEO_TOWER if setting == "mm_vision_tower" else IMAGE_TOWER
        folder = write_mobile(tmp_path / str(number), without=(without,), **{setting: name})
        refused = refusal(folder)
        assert f"{folder}/config.json: has no " in refused and setting in refused and message in refused


LOAD = """
import json, sys
from formcoach.errors import UserError
from formcoach.models import load_model

def told(folder):
    try:
        model, _ = load_model(folder, device="cpu")
    except UserError as error:
        return str(error)
    return sum(value.double().abs().sum().item() for value in model.state_dict().values())

json.dump([told(folder) for folder in sys.argv[1:]], sys.stdout)
"""


def test_towers_come_from_the_hub_once_and_offline_from_its_cache(tmp_path, lacking, whole):
    with HubStub() as hub:
        video, image = write_video(tmp_path / "video"), write_image(tmp_path / "image")
        (video / "videomamba_s16.pth").write_bytes(b"another")
        (tmp_path / "pickled").mkdir()
        (tmp_path / "pickled/pytorch_model.bin").write_bytes(b"pickled")
        for name, folder in {"mamba": video, "clip": image, "pickled": tmp_path / "pickled"}.items():
            hub.publish(f"org/{name}", folder, "main")
        folder = lacking(video="org/mamba", image="org/clip")
        by_file = write_mobile(tmp_path / "file", without=(VIDEO_TOWER,), mm_vision_tower=f"org/mamba/{PICKLE}")
        pickled = write_mobile(tmp_path / "bin", without=(IMAGE_TOWER,), image_mm_vision_tower="org/pickled")
        nothing = write_mobile(tmp_path / "none", without=(IMAGE_TOWER,), image_mm_vision_tower="org/nothing")

        def ask(*folders, **environment):
            done = subprocess.run(
                [sys.executable, "-c", LOAD, *map(str, folders)],
                env=hub.environment(tmp_path, OMP_NUM_THREADS="1", **environment),
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
                timeout=900,
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        *loaded, pickled, unknown = ask(folder, by_file, pickled, nothing)
        expected = sum(value.double().abs().sum().item() for value in whole.values())
        assert loaded == [pytest.approx(expected), pytest.approx(expected)]
        assert hub.files_asked() == ["model.safetensors", PICKLE]
        assert "has no image tower" in pickled and "has pickled weights (*.bin) only" in pickled
        assert "no such model on the hub" in unknown
        again, unknown = ask(folder, nothing, HF_HUB_OFFLINE="1")
        assert again == loaded[0] and hub.asked == []
        assert (
            f"{nothing}/config.json: has no image tower, and image_mm_vision_tower 'org/nothing' gives none" in unknown
        )
        assert "HF_HUB_OFFLINE is set" in unknown and "hf download org/nothing" in unknown and "\n" not in unknown
