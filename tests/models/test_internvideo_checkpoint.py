"""Checkpoints in the original layout: what loads, what goes back, and what is refused by name."""

import json

import pytest
import torch
from literal_model import LiteralModel
from original_checkpoints import FIXTURE, write_original
from safetensors.torch import load_file

from formcoach.errors import UserError
from formcoach.models import load_model


def edit_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    for name, value in values.items():
        *path, last = name.split("__")
        part = config
        for key in path:
            part = part[key]
        part[last] = value
    (folder / "config.json").write_text(json.dumps(config))


def refusal(folder):
    with pytest.raises(UserError) as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_file_and_shards_load_alike(original, fixture_model, full_inputs):
    model, _ = load_model(original, dtype="float32", device="cpu")
    with torch.no_grad():
        assert model(**full_inputs).logits.equal(fixture_model[0](**full_inputs).logits)


def test_weights_go_back_bit_equal(base_model, tmp_path):
    model, _ = base_model
    model.save_pretrained(tmp_path, save_original_format=True)
    written, source = load_file(tmp_path / "model.safetensors"), {}
    for shard in FIXTURE.glob("model-*.safetensors"):
        source |= load_file(shard)
    unused = {"track_embed.weight", "sam.mask_decoder.weight", "temporal_embed.weight", "cg_model.layer.weight"}
    assert set(source) - set(written) == unused
    assert all(tensor.equal(source[name]) for name, tensor in written.items())


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"num_attention_heads": 8, "num_key_value_heads": 1},
        {"image_size": 196, "num_attention_heads": 4, "num_key_value_heads": 4, "rope_scaling": None},
        {"image_size": 112, "num_hidden_layers": 11, "bias": True},
        {"hidden_size": 96, "intermediate_size": 100, "num_attention_heads": 8},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"tie_word_embeddings": True},
        {"dtype": torch.float16},
        {"top": {"select_layer": -2}},
        {"vision": {"norm_type": "rms_norm"}},
        {"vision": {"qk_normalization": True, "qkv_bias": False}},
    ],
    ids=[
        "5x5 grid",
        "one key-value head",
        "no grouping",
        "biases and two-digit layers",
        "odd widths",
        "linear scaling",
        "tied head",
        "float16 weights",
        "another layer",
        "RMS norms",
        "normalised queries and keys",
    ],
)
def test_other_sizes_compute_what_is_written_down(tmp_path, sizes):
    folder = write_original(tmp_path / "other", **({"image_size": 140} | sizes))
    model, processor = load_model(folder, dtype="float32", device="cpu")
    side = sizes.get("image_size", 140)
    assert processor.settings.image_size == side
    pixels = torch.randn(8, 3, side, side, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([processor.tokenizer(processor.prompt("squat, é 中?", 8, 3.2)).input_ids])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels).logits[0]
    expected = LiteralModel(folder).logits(pixels, ids, image_token=568)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_auto_keeps_the_checkpoint_s_type(tmp_path, dtype):
    folder = write_original(tmp_path / "half", dtype=dtype)
    model, _ = load_model(folder, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer_config.json", [], "tokenizer_config.json: Expected `object`"),
        ("tokenizer_config.json", {"bos_token": 5}, "tokenizer_config.json: Expected `str | object | null`"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "Expected `int`, got `str`"),
        ("special_tokens_map.json", "x", "special_tokens_map.json: Expected `object`"),
        ("added_tokens.json", {"<img>": -1}, "added_tokens.json: Expected `int` >= 0"),
        ("added_tokens.json", {"<far>": 99_999}, "the tokenizer's '<far>' has the id 99999, but the model"),
    ],
)
def test_damaged_tokenizer_files_are_named(original, file, content, message):
    (original / file).write_text(json.dumps(content))
    assert message in refusal(original)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llava"}, 'model_type "llava" is not supported'),
        ({"template": "internlm2-chat"}, "template is 'internlm2-chat'"),
        ({"ps_version": "v1"}, "ps_version is 'v1'"),
        ({"llm_config__model_type": "qwen2"}, "llm_config.model_type is 'qwen2'"),
        ({"force_image_size": 448}, "force_image_size is 448"),
        ({"llm_config__hidden_size": "wide"}, "Expected `int`, got `str` - at `$.llm_config.hidden_size`"),
        ({"llm_config__num_attention_heads": 5}, "is not a multiple of the number of attention heads"),
        ({"vision_config__image_size": 84, "force_image_size": 84}, "36 tokens a group cannot be merged to 64"),
        ({"vision_config__image_size": 182, "force_image_size": 182}, "182 pixels cannot be cut into pairs"),
        ({"llm_config__num_hidden_layers": 10**9}, "Expected `int` <= 1000 - at `$.llm_config.num_hidden_layers`"),
        ({"llm_config__num_hidden_layers": 0}, "Expected `int` >= 1 - at `$.llm_config.num_hidden_layers`"),
        ({"vision_config__image_size": 10**9}, "Expected `int` <= 10000 - at `$.vision_config.image_size`"),
        ({"llm_config__hidden_act": "nope"}, "Invalid enum value 'nope' - at `$.llm_config.hidden_act`"),
        ({"llm_config__rope_scaling": {"type": "yarn", "factor": 2.0}}, "Invalid enum value 'yarn'"),
        ({"llm_config__pad_token_id": 10**6}, "no model can be built of it (Padding_idx"),
        ({"vision_config__num_attention_heads": 3}, "no model can be built of it (embed_dim must be divisible"),
        ({"select_layer": -7}, "select_layer -7 is none of the vision tower's 2 layers"),
        ({"vision_config": {}}, "Object missing required field `hidden_size` - at `$.vision_config`"),
    ],
)
def test_another_kind_of_model_is_refused(original, change, message):
    edit_config(original, **change)
    refused = refusal(original)
    assert message in refused and "config.json" in refused


def test_an_own_config_with_a_wrong_value(base_model, tmp_path):
    model, processor = base_model
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    edit_config(tmp_path, text_config__num_hidden_layers=10**9)
    assert "Expected `int` <= 1000 - at `$.text_config.num_hidden_layers`" in refusal(tmp_path)
    edit_config(tmp_path, text_config__num_hidden_layers=2, tokens_per_group="many")
    assert "config.json: Validation error for field 'tokens_per_group'" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"frames_per_group": 0}, "config.json: frames_per_group is 0"),
        ("config.json", {"tokens_per_group": -4}, "config.json: tokens_per_group is -4"),
        ("config.json", {"frames_per_group": 3}, "cannot be merged to 64"),
        ("processor_config.json", {"max_frames": 10}, "max_frames 10 are not multiples of 4 in rising order"),
        ("processor_config.json", {"min_frames": 16}, "min_frames 16 and max_frames 8 are not"),
        ("processor_config.json", {"image_size": 448}, "image_size is 448, but the model of config.json has 168"),
        ("processor_config.json", {"tokens_per_frame": 64}, "tokens_per_frame is 64, but the model"),
        ("processor_config.json", {"frames_per_group": 2}, "frames_per_group is 2, but the model"),
        ("processor_config.json", {"frames_per_group": 0}, "are not multiples of 0"),
    ],
)
def test_own_files_that_do_not_fit_together(base_model, tmp_path, file, change, message):
    model, processor = base_model
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    values = json.loads((tmp_path / file).read_text()) | change
    (tmp_path / file).write_text(json.dumps(values))
    refused = refusal(tmp_path)
    assert file in refused and message in refused


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_only_the_language_model_is_quantised(quantization, full_inputs, recorded):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model, _ = load_model(FIXTURE, dtype="bfloat16", quantization=quantization, device="cpu")
    kinds = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    quantised = {name for name, module in model.named_modules() if isinstance(module, kinds)}
    assert len(quantised) == 2 * 7
    assert all("language_model.layers" in name for name in quantised)
    with torch.no_grad():
        loss = model(**full_inputs, labels=recorded["labels"]).loss
    assert abs(loss - recorded["loss"][0]) < 0.1
