"""Exports: bit-equal where nothing was trained, the adapter's answers where it was, and nothing half-written."""

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from mobile_checkpoints import PLACEHOLDER, image_tower, video_tower, write_mobile
from original_checkpoints import FIXTURE, write_original
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from formcoach.errors import UserError
from formcoach.models import export_model, load_model
from formcoach.models.adapters import add_lora, merge_adapter, save_adapter
from formcoach.models.family import Family
from formcoach.models.internvideo import INTERNVIDEO
from formcoach.models.mobilevideogpt import MOBILEVIDEOGPT
from formcoach.models.mobilevideogpt.conversion import IMAGE_TOWER, VIDEO_TOWER

TOWERS = (VIDEO_TOWER, IMAGE_TOWER)
UNUSED = {"track_embed.weight", "sam.mask_decoder.weight", "temporal_embed.weight", "cg_model.layer.weight"}
UNUSED_IN_MOBILE = {
    "model.vision_tower.vision_encoder.clip_decoder.0.head.weight",
    "model.vision_tower.vision_encoder.pool_norm.weight",
    "model.image_vision_tower.vision_tower.vision_model.embeddings.position_ids",
}


@dataclass(frozen=True)
class Case:
    """A family's small original checkpoint.

    Args:
        family: the family.
        base: the checkpoint, in several files.
        inputs: of its model.
        write: writes one in a single file, of a type of weights, with or without a head of its own.
        unused: tensors of it that are no part of the model.
        trained: some of those that an adapter changes.
    """

    family: Family
    base: Path
    inputs: dict
    write: Callable[..., Path]
    unused: set[str]
    trained: set[str]

    def logits(self, folder=None):
        return answers(folder or self.base, self.inputs)


def write_recorded(folder, dtype=torch.float32, tied=False):
    """InternVideo2.5's recorded checkpoint in one file."""
    source = (
        write_original(folder, dtype=dtype, tie_word_embeddings=True) if tied else write_original(folder, dtype=dtype)
    )
    if tied:
        tensors = tensors_of(source)
        tensors.pop("language_model.output.weight", None)
        save_file(tensors, source / "model.safetensors")
    return source


def write_used(folder, dtype=torch.float32, tied=False):
    """A Mobile-VideoGPT checkpoint in one file, with tensors that belong to no part of the model."""
    write_mobile(folder, dtype=dtype, tie_word_embeddings=tied)
    unused = {name: torch.arange(3).to(dtype if "ids" not in name else torch.int64) for name in UNUSED_IN_MOBILE}
    save_file(tensors_of(folder) | unused, folder / "model.safetensors", {"format": "pt"})
    return folder


def mobile_inputs():
    """A clip, a question and an answer."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[7, *[PLACEHOLDER] * 2402, 80, 81, 257, 30]])
    pixels = torch.randn(32, 3, 64, 64, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


@pytest.fixture(scope="module", params=["InternVideo2.5", "Mobile-VideoGPT"])
def case(request, full_inputs, tmp_path_factory):
    if request.param == "InternVideo2.5":
        trained = {
            "mlp1.1.weight",
            "language_model.model.layers.0.attention.wqkv.weight",
            "language_model.model.layers.1.feed_forward.w2.weight",
        }
        return Case(INTERNVIDEO, FIXTURE, full_inputs, write_recorded, UNUSED, trained)
    trained = {
        "model.mm_projector.mlp.mlp.0.weight",
        "model.image_mm_projector.peg.peg.0.bias",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
    }
    base = write_mobile(tmp_path_factory.mktemp("mobile") / "base", shards=2)
    return Case(MOBILEVIDEOGPT, base, mobile_inputs(), write_used, UNUSED_IN_MOBILE, trained)


def tensors_of(folder):
    return {name: tensor for shard in folder.glob("model*.safetensors") for name, tensor in load_file(shard).items()}


def answers(folder, inputs, **options):
    model, _ = load_model(folder, **({"dtype": "float32", "device": "cpu"} | options))
    with torch.no_grad():
        return model(**inputs).logits


def randomise(model):
    """Give the adapter weights that change the model's answers."""
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = 0.1 if ".lora_" in name else 0.02
            parameter.data += scale * torch.randn_like(parameter)


@pytest.fixture
def adapter(tmp_path):
    """A trained adapter, of the recorded checkpoint where no other base is named."""

    def make(base=FIXTURE, dtype="float32", quantization=None, frames=None, family=INTERNVIDEO, **options):
        model, processor = load_model(base, dtype=dtype, quantization=quantization, device="cpu")
        if frames is not None:
            processor.min_frames = processor.max_frames = frames
        adapted = add_lora(model, family, str(base), rank=4, alpha=8, **options)
        randomise(adapted)
        save_adapter(adapted, processor, tmp_path / "adapter")
        return tmp_path / "adapter"

    return make


def test_an_untrained_original_is_carried_over_file_by_file(tmp_path, case):
    exported = export_model(case.base, "original", tmp_path / "out")
    files = [path for path in case.base.iterdir() if path.name != "expected.safetensors"]
    assert exported.merged == 0 and exported.files == len(files)
    for path in files:
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_native_loads_bit_equal(tmp_path, case, dtype, tied):
    source = case.write(tmp_path / "source", dtype=dtype, tied=tied)
    exported = export_model(source, "native", tmp_path / "native")
    left_out = len(case.unused & set(tensors_of(source)))
    assert exported.notes == ((f"left out {left_out} tensors that the model does not use",) if left_out else ())
    before, its_processor = load_model(source, device="cpu")
    after, processor = load_model(tmp_path / "native", device="cpu")
    assert all(tensor.equal(after.state_dict()[name]) for name, tensor in before.state_dict().items())
    assert after.dtype == dtype
    assert processor.settings == its_processor.settings
    assert processor.tokenizer.get_vocab() == its_processor.tokenizer.get_vocab()


def test_sharded_native_has_an_index(tmp_path, case):
    export_model(case.base, "native", tmp_path / "native")
    index = json.loads((tmp_path / "native" / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == set(tensors_of(tmp_path / "native"))
    assert set(index.values()) == {path.name for path in case.base.glob("model-*.safetensors")}


@pytest.mark.parametrize("kind", ["original", "native"])
@pytest.mark.parametrize("options", [{}, {"train_vit": True}, {"train_connector": False}, {"train_language": False}])
def test_merged_answers_as_the_adapter_did(tmp_path, adapter, case, kind, options):
    trained = adapter(case.base, family=case.family, **options)
    exported = export_model(trained, kind, tmp_path / "out")
    expected = case.logits(trained)
    torch.testing.assert_close(case.logits(tmp_path / "out"), expected, atol=1e-4, rtol=0)
    before = load_model(case.base, dtype="float32", device="cpu")[0]
    with torch.no_grad():
        assert (expected - before(**case.inputs).logits).abs().max() > 0.01
    assert exported.merged == sum(
        not tensor.equal(before.state_dict()[name])
        for name, tensor in load_model(tmp_path / "out", device="cpu")[0].state_dict().items()
    )


def test_original_keeps_names_files_and_what_is_not_used(tmp_path, adapter, case):
    source = case.write(tmp_path / "source")
    (source / "modeling_of_its_authors.py").write_text("raise SystemExit")
    (source / "assets").mkdir()
    (source / "assets" / "demo.txt").write_text("kept")
    (source / "optimizer.bin").write_bytes(b"not kept")
    export_model(adapter(source, family=case.family), "original", tmp_path / "out")
    written, before = tensors_of(tmp_path / "out"), tensors_of(source)
    assert written.keys() == before.keys()
    assert all(written[name].equal(before[name]) for name in case.unused)
    assert {name for name in before if not written[name].equal(before[name])} >= case.trained
    for path in source.rglob("*"):
        if path.is_file() and path.suffix not in {".safetensors", ".bin"}:
            assert (tmp_path / "out" / path.relative_to(source)).read_bytes() == path.read_bytes()
    assert not (tmp_path / "out" / "optimizer.bin").exists()


def test_an_adapter_of_a_quantised_base_is_merged_into_the_exact_weights(tmp_path, adapter, case):
    pytest.importorskip("bitsandbytes")
    source = case.write(tmp_path / "source", dtype=torch.bfloat16)
    trained = adapter(source, dtype="bfloat16", quantization="nf4", family=case.family)
    export_model(trained, "native", tmp_path / "out")
    name = "model.language_model.layers.1.mlp.down_proj"
    lora = load_file(trained / "adapter_model.safetensors")
    down, up = (lora[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    exact = load_model(source, device="cpu")[0].state_dict()[f"{name}.weight"]
    assert tensors_of(tmp_path / "out")[f"{name}.weight"].equal((exact.float() + 2 * up @ down).bfloat16())


@pytest.mark.parametrize("variant", [{"use_rslora": True}, {"use_dora": True}, {"alpha_pattern": {"q_proj": 32}}])
def test_adapters_made_elsewhere_are_merged_as_peft_does(tmp_path, case, variant):
    base, processor = load_model(case.base, dtype="float32", device="cpu")
    config = LoraConfig(r=4, lora_alpha=8, target_modules=case.family.lora_targets, **variant)
    adapted = get_peft_model(base, config)
    randomise(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    export_model(tmp_path / "adapter", "original", tmp_path / "out", base=case.base)
    with torch.no_grad():
        expected = adapted.eval()(**case.inputs).logits
    torch.testing.assert_close(case.logits(tmp_path / "out"), expected, atol=1e-4, rtol=0)


def test_merging_in_memory(adapter, case):
    trained = adapter(case.base, family=case.family)
    merged = merge_adapter(load_model(trained, dtype="float32", device="cpu")[0])
    with torch.no_grad():
        found = merged(**case.inputs).logits
    torch.testing.assert_close(found, case.logits(trained), atol=1e-4, rtol=0)


def test_a_quantised_base_is_not_merged_in_memory(adapter):
    pytest.importorskip("bitsandbytes")
    with pytest.raises(UserError, match="not merged into a quantised base"):
        merge_adapter(load_model(adapter(), quantization="nf4", device="cpu")[0])


def test_an_exported_adapter_loads_without_the_run(tmp_path, adapter, case):
    trained = adapter(case.base, family=case.family)
    (trained / "resume").mkdir()
    (trained / "resume" / "optimizer.safetensors").touch()
    expected = case.logits(trained)
    export_model(trained, "adapter", tmp_path / "shared")
    shutil.rmtree(trained)
    assert case.logits(tmp_path / "shared").equal(expected)
    assert not (tmp_path / "shared" / "resume").exists()


def test_native_keeps_the_frames_of_the_training_and_original_tells_them(tmp_path, adapter):
    trained = adapter(frames=16)
    assert "trained with 16 to 16 frames" in export_model(trained, "original", tmp_path / "original").notes[0]
    export_model(trained, "native", tmp_path / "native")
    assert load_model(tmp_path / "native", device="cpu")[1].max_frames == 16


def refusal(*arguments, **options):
    with pytest.raises(UserError) as caught:
        export_model(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_exported_is_refused(tmp_path, adapter, monkeypatch):
    out = tmp_path / "out"
    assert "without an adapter; use --format original or native" in refusal(FIXTURE, "adapter", out)
    export_model(FIXTURE, "native", tmp_path / "native")
    assert "use --format native" in refusal(tmp_path / "native", "original", out)
    assert "exists already" in refusal(FIXTURE, "native", tmp_path / "native")
    assert "was trained on" in refusal(adapter(), "original", out, base=write_original(tmp_path / "other"))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, 1000))
    assert "GB free; free some or name a folder on another disk" in refusal(FIXTURE, "original", out)
    assert not out.exists() and not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize("kind", ["adapter", "original", "native"])
@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("adapter_config.json", "[]", "is not an object"),
        ("adapter_config.json", '{"base_model_name_or_path": "BASE", "peft_type": "NOPE"}', "cannot be loaded"),
        ("adapter_model.safetensors", None, "has no adapter_model.safetensors; pickled weights are not read"),
        ("processor_config.json", "[]", "processor_config.json: Expected `object`"),
        ("tokenizer_config.json", "[]", "its tokenizer cannot be read"),
        ("base_model.json", "[]", "base_model.json: Expected `object`"),
    ],
)
def test_a_damaged_adapter_leaves_nothing_behind(tmp_path, adapter, kind, file, content, message):
    trained = adapter()
    if content is None:
        (trained / file).rename(trained / "adapter_model.bin")
    else:
        (trained / file).write_text(content.replace("BASE", str(FIXTURE)))
    assert message in refusal(trained, kind, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_link_out_of_the_checkpoint_is_not_followed(tmp_path, case):
    source = case.write(tmp_path / "source")
    (tmp_path / "secret").write_text("not for others")
    (source / "README.md").symlink_to(tmp_path / "secret")
    assert "README.md: is a link to a file outside" in refusal(source, "original", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shard_outside_of_the_checkpoint_is_not_read(tmp_path, case):
    source = case.write(tmp_path / "source")
    (source / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "'../elsewhere.safetensors' is not inside" in refusal(source, "native", tmp_path / "out")


def test_a_tied_head_goes_through(tmp_path, adapter, case):
    source = case.write(tmp_path / "source", tied=True)
    export_model(source, "native", tmp_path / "native")
    assert case.logits(tmp_path / "native").equal(case.logits(source))
    trained = adapter(source, family=case.family)
    export_model(trained, "original", tmp_path / "original")
    torch.testing.assert_close(case.logits(tmp_path / "original"), case.logits(trained), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["original", "native"])
@pytest.mark.parametrize(("trained", "shards"), [(False, 1), (True, 2)])
def test_towers_from_elsewhere_are_part_of_an_export(tmp_path, adapter, kind, trained, shards):
    towers, names = tmp_path / "towers", ("mm_vision_tower", "image_mm_vision_tower")
    write_towers(towers)
    settings = dict.fromkeys(names, str(towers))
    dtype = torch.float32 if trained else torch.bfloat16
    source = write_mobile(tmp_path / "source", dtype=dtype, shards=shards, without=TOWERS, **settings)
    model = adapter(source, family=MOBILEVIDEOGPT, train_vit=True) if trained else source
    exported = export_model(model, kind, tmp_path / "out")
    assert exported.notes == (f"included the video tower of {towers}", f"included the image tower of {towers}")
    inputs = mobile_inputs()
    expected, state = answers(model, inputs), load_model(source, device="cpu")[0].state_dict()
    shutil.rmtree(towers)
    torch.testing.assert_close(answers(tmp_path / "out", inputs), expected, atol=1e-4 if trained else 0, rtol=0)
    after = load_model(tmp_path / "out", device="cpu")[0].state_dict()
    assert trained or all(tensor.equal(after[name]) for name, tensor in state.items())
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == set(tensors_of(tmp_path / "out"))
    assert set(index.values()) == {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    if kind == "original":
        assert {name for name in index if name.startswith(TOWERS)} == set(towers_of_a_whole_one(tmp_path))
        assert json.loads((tmp_path / "out/config.json").read_text()) == json.loads(
            (source / "config.json").read_text()
        )


def write_towers(folder):
    """Write both towers into one file."""
    folder.mkdir()
    tensors = {f"vision_model.{name}": tensor for name, tensor in image_tower().items()}
    save_file(tensors | video_tower(), folder / "model.safetensors")


def towers_of_a_whole_one(folder):
    return [name for name in tensors_of(write_mobile(folder / "whole")) if name.startswith(TOWERS)]
