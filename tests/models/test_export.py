"""Exports: bit-equal where nothing was trained, the adapter's answers where it was, and nothing half-written."""

import json
import shutil
from collections import namedtuple

import pytest
import torch
from original_checkpoints import FIXTURE, write_original
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from formcoach.errors import UserError
from formcoach.models import export_model, load_model
from formcoach.models.adapters import add_lora, merge_adapter, save_adapter
from formcoach.models.internvideo import INTERNVIDEO

UNUSED = {"track_embed.weight", "sam.mask_decoder.weight", "temporal_embed.weight", "cg_model.layer.weight"}


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
    """A trained adapter of the recorded checkpoint."""

    def make(base=FIXTURE, dtype="float32", quantization=None, frames=8, **options):
        model, processor = load_model(base, dtype=dtype, quantization=quantization, device="cpu")
        processor.min_frames = processor.max_frames = frames
        adapted = add_lora(model, INTERNVIDEO, str(base), rank=4, alpha=8, **options)
        randomise(adapted)
        save_adapter(adapted, processor, tmp_path / "adapter")
        return tmp_path / "adapter"

    return make


def test_an_untrained_original_is_carried_over_file_by_file(tmp_path):
    exported = export_model(FIXTURE, "original", tmp_path / "out")
    files = [path for path in FIXTURE.iterdir() if path.name != "expected.safetensors"]
    assert exported.merged == 0 and exported.files == len(files)
    for path in files:
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_native_loads_bit_equal(tmp_path, dtype):
    source = write_original(tmp_path / "source", dtype=dtype)
    exported = export_model(source, "native", tmp_path / "native")
    assert exported.notes == (f"left out {len(UNUSED)} tensors that the model does not use",)
    before, its_processor = load_model(source, device="cpu")
    after, processor = load_model(tmp_path / "native", device="cpu")
    assert all(tensor.equal(after.state_dict()[name]) for name, tensor in before.state_dict().items())
    assert after.dtype == dtype
    assert processor.settings == its_processor.settings
    assert processor.tokenizer.get_vocab() == its_processor.tokenizer.get_vocab()


def test_sharded_native_has_an_index(tmp_path):
    export_model(FIXTURE, "native", tmp_path / "native")
    index = json.loads((tmp_path / "native" / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(index) == set(tensors_of(tmp_path / "native"))
    assert set(index.values()) == {path.name for path in FIXTURE.glob("*.safetensors") if "expected" not in path.name}


@pytest.mark.parametrize("kind", ["original", "native"])
@pytest.mark.parametrize("options", [{}, {"train_vit": True}, {"train_connector": False}, {"train_language": False}])
def test_merged_answers_as_the_adapter_did(tmp_path, adapter, full_inputs, fixture_model, kind, options):
    trained = adapter(**options)
    exported = export_model(trained, kind, tmp_path / "out")
    expected = answers(trained, full_inputs)
    torch.testing.assert_close(answers(tmp_path / "out", full_inputs), expected, atol=1e-4, rtol=0)
    assert (expected - fixture_model[0](**full_inputs).logits).abs().max() > 0.01
    assert exported.merged == sum(
        not tensor.equal(fixture_model[0].state_dict()[name])
        for name, tensor in load_model(tmp_path / "out", device="cpu")[0].state_dict().items()
    )


def test_original_keeps_names_files_and_what_is_not_used(tmp_path, adapter):
    source = write_original(tmp_path / "source")
    (source / "modeling_internvl_chat.py").write_text("raise SystemExit")
    (source / "assets").mkdir()
    (source / "assets" / "demo.txt").write_text("kept")
    (source / "optimizer.bin").write_bytes(b"not kept")
    export_model(adapter(base=source), "original", tmp_path / "out")
    written, before = tensors_of(tmp_path / "out"), tensors_of(source)
    assert written.keys() == before.keys()
    assert all(written[name].equal(before[name]) for name in UNUSED)
    assert {name for name in before if not written[name].equal(before[name])} >= {
        "mlp1.1.weight",
        "language_model.model.layers.0.attention.wqkv.weight",
        "language_model.model.layers.1.feed_forward.w2.weight",
    }
    for path in source.rglob("*"):
        if path.is_file() and path.suffix not in {".safetensors", ".bin"}:
            assert (tmp_path / "out" / path.relative_to(source)).read_bytes() == path.read_bytes()
    assert not (tmp_path / "out" / "optimizer.bin").exists()


def test_an_adapter_of_a_quantised_base_is_merged_into_the_exact_weights(tmp_path, adapter):
    pytest.importorskip("bitsandbytes")
    source = write_original(tmp_path / "source", dtype=torch.bfloat16)
    trained = adapter(base=source, dtype="bfloat16", quantization="nf4")
    export_model(trained, "native", tmp_path / "out")
    name = "model.language_model.layers.1.mlp.down_proj"
    lora = load_file(trained / "adapter_model.safetensors")
    down, up = (lora[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    exact = load_model(source, device="cpu")[0].state_dict()[f"{name}.weight"]
    assert tensors_of(tmp_path / "out")[f"{name}.weight"].equal((exact.float() + 2 * up @ down).bfloat16())


@pytest.mark.parametrize("variant", [{"use_rslora": True}, {"use_dora": True}, {"alpha_pattern": {"q_proj": 32}}])
def test_adapters_made_elsewhere_are_merged_as_peft_does(tmp_path, full_inputs, variant):
    base, processor = load_model(FIXTURE, dtype="float32", device="cpu")
    config = LoraConfig(r=4, lora_alpha=8, target_modules=INTERNVIDEO.lora_targets, **variant)
    adapted = get_peft_model(base, config)
    randomise(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    processor.save_pretrained(tmp_path / "adapter")
    export_model(tmp_path / "adapter", "original", tmp_path / "out", base=FIXTURE)
    with torch.no_grad():
        expected = adapted.eval()(**full_inputs).logits
    torch.testing.assert_close(answers(tmp_path / "out", full_inputs), expected, atol=1e-4, rtol=0)


def test_merging_in_memory(adapter, full_inputs):
    trained = adapter()
    merged = merge_adapter(load_model(trained, dtype="float32", device="cpu")[0])
    with torch.no_grad():
        found = merged(**full_inputs).logits
    torch.testing.assert_close(found, answers(trained, full_inputs), atol=1e-4, rtol=0)


def test_a_quantised_base_is_not_merged_in_memory(adapter):
    pytest.importorskip("bitsandbytes")
    with pytest.raises(UserError, match="not merged into a quantised base"):
        merge_adapter(load_model(adapter(), quantization="nf4", device="cpu")[0])


def test_an_exported_adapter_loads_without_the_run(tmp_path, adapter, full_inputs):
    trained = adapter()
    (trained / "resume").mkdir()
    (trained / "resume" / "optimizer.safetensors").touch()
    expected = answers(trained, full_inputs)
    export_model(trained, "adapter", tmp_path / "shared")
    shutil.rmtree(trained)
    assert answers(tmp_path / "shared", full_inputs).equal(expected)
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


def test_a_link_out_of_the_checkpoint_is_not_followed(tmp_path):
    source = write_original(tmp_path / "source")
    (tmp_path / "secret").write_text("not for others")
    (source / "README.md").symlink_to(tmp_path / "secret")
    assert "README.md: is a link to a file outside" in refusal(source, "original", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_shard_outside_of_the_checkpoint_is_not_read(tmp_path):
    source = write_original(tmp_path / "source")
    (source / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"mlp1.0.bias": "../elsewhere.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "'../elsewhere.safetensors' is not inside" in refusal(source, "native", tmp_path / "out")


def test_a_tied_head_goes_through(tmp_path, full_inputs):
    source = write_original(tmp_path / "source", tie_word_embeddings=True)
    tensors = tensors_of(source)
    tensors.pop("language_model.output.weight", None)
    save_file(tensors, source / "model.safetensors")
    export_model(source, "native", tmp_path / "native")
    assert answers(tmp_path / "native", full_inputs).equal(answers(source, full_inputs))
