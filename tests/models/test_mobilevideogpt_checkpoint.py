"""Mobile-VideoGPT's configurations and tokenizers: what the published ones say, and what is refused by name."""

import json

import pytest
from mobile_checkpoints import PUBLISHED_EXTRAS, VIDEO, write_mobile
from transformers.convert_slow_tokenizer import bytes_to_unicode

from formcoach.errors import UserError
from formcoach.models import load_model, sizes_for
from formcoach.models.mobilevideogpt.checkpoint import config_from_original, load_tokenizer
from formcoach.models.mobilevideogpt.original import PUBLISHED_05B, PUBLISHED_15B, parse_original
from formcoach.models.mobilevideogpt.processor import MobileVideoGPTProcessor, ProcessorSettings
from formcoach.models.mobilevideogpt.sizes import sizes_of

QWEN = {
    "0.5B": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14},
    "1.5B": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12},
}
COMMON = {
    "architectures": ["MobileVideoGPTQwenForCausalLM"],
    "model_type": "MobileVideoGPT_qwen",
    "vocab_size": 151936,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-06,
    "hidden_act": "silu",
    "mm_vision_tower": "OpenGVLab/VideoMamba",
    "image_mm_vision_tower": "openai/clip-vit-base-patch16",
    "mm_projector_type": "etp",
    "image_mm_projector_type": "etp",
    "mm_vision_select_layer": -2,
}


@pytest.mark.parametrize(("size", "published"), [("0.5B", PUBLISHED_05B), ("1.5B", PUBLISHED_15B)])
@pytest.mark.parametrize("tied", [False, True])
def test_published_configurations_are_understood(tmp_path, size, published, tied):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(COMMON | QWEN[size] | PUBLISHED_EXTRAS | {"tie_word_embeddings": tied}))
    found = parse_original(path, json.loads(path.read_text()))
    config = config_from_original(path, found, 151_646)
    text, image = config.text_config, config.image_config
    for name, value in QWEN[size].items():
        assert getattr(text, name) == getattr(published, name) == value
    assert (text.num_key_value_heads, text.vocab_size) == (2, 151936)
    assert (text.eos_token_id, text.rope_parameters["rope_theta"]) == (258, 1e6)
    assert (image.hidden_size, image.num_hidden_layers, image.image_size, image.patch_size) == (768, 12, 224, 16)
    assert (config.video_width, config.video_depth, config.image_layer) == (576, 32, -2)
    assert config.visual_tokens(16) == 2402 and config.tie_word_embeddings == tied
    embeddings = 151_936 * text.hidden_size
    assert sizes_for(tmp_path).parameters == sizes_of(published).parameters - tied * embeddings


def test_a_tied_head_is_the_embedding_matrix(tmp_path):
    tied, _ = load_model(write_mobile(tmp_path / "tied", tie_word_embeddings=True), device="cpu")
    assert tied.lm_head.weight is tied.get_input_embeddings().weight
    untied, _ = load_model(write_mobile(tmp_path / "untied"), device="cpu")
    assert not untied.lm_head.weight.equal(untied.get_input_embeddings().weight)


@pytest.fixture
def tokenizer_files(tmp_path):
    """Writes a Qwen2 tokenizer as older transformers did: vocabulary, merges and a list of added tokens."""

    def write(**config):
        vocabulary = {byte: number for number, byte in enumerate(sorted(bytes_to_unicode().values()))} | {"ab": 256}
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
        (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
        added = dict(enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"], start=257))
        decoder = {str(number): {"content": token, "special": True} for number, token in added.items()}
        values = {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": decoder, "bos_token": None}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(values | config))
        return tmp_path

    return write


@pytest.mark.parametrize(
    ("config", "pad", "ends"),
    [
        ({"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, 257, [259, 257]),
        ({"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}, 257, [257, 259]),
        ({"eos_token": "<|endoftext|>", "pad_token": None}, 257, [257, 259]),
        ({"eos_token": "<|im_end|>", "pad_token": None}, 259, [259, 257]),
    ],
)
def test_either_end_ends_an_answer_and_there_is_a_padding(tokenizer_files, config, pad, ends):
    tokenizer = load_tokenizer(tokenizer_files(**config))
    processor = MobileVideoGPTProcessor(tokenizer, ProcessorSettings())
    assert (tokenizer.pad_token_id, processor.end_token_ids) == (pad, ends)
    assert tokenizer("ab<|im_end|>b<image>").input_ids == [256, 259, tokenizer.convert_tokens_to_ids("b"), 260]


def test_generation_ends_as_the_processor_says(tmp_path):
    model, processor = load_model(write_mobile(tmp_path / "original"), device="cpu")
    settings = model.generation_config
    assert (settings.eos_token_id, settings.pad_token_id) == (processor.end_token_ids, 256)
    assert processor.end_token_ids == [256, 258] and settings.do_sample is False


def refusal(folder):
    with pytest.raises(UserError) as caught:
        load_model(folder, device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mm_projector_type": "mlp2x_gelu"}, "mm_projector_type 'mlp2x_gelu' is not supported, only 'etp'"),
        ({"image_mm_projector_type": "ldp"}, "image_mm_projector_type 'ldp' is not supported"),
        ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature 'cls_patch' is not supported"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end True is not supported"),
        ({"use_sliding_window": True}, "use_sliding_window True is not supported"),
        ({"mm_vision_select_layer": -9}, "mm_vision_select_layer -9 is none of the image tower's 3 layers"),
        ({"mm_vision_tower": ""}, "Expected `str` of length >= 1 - at `$.mm_vision_tower`"),
        ({"mm_vision_tower": "x" * 10**6}, "Expected `str` of length <= 400 - at `$.mm_vision_tower`"),
        ({"mm_vision_tower": ["a"]}, "Expected `str`, got `array` - at `$.mm_vision_tower`"),
        ({"num_hidden_layers": 10**9}, "Expected `int` <= 1000 - at `$.num_hidden_layers`"),
        ({"hidden_size": 0}, "Expected `int` >= 1 - at `$.hidden_size`"),
        ({"hidden_size": 36, "num_attention_heads": 5}, "config.json"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 and num_key_value_heads 3 do not go together"),
        ({"num_attention_heads": 64}, "hidden_size 32, num_attention_heads 64 and num_key_value_heads 2 do not go"),
        ({"num_attention_heads": 32}, "hidden_size 32, num_attention_heads 32"),  # one channel cannot be rotated
        ({"hidden_act": "nope"}, "Invalid enum value 'nope' - at `$.hidden_act`"),
        ({"vision_tower_config": {"depth": 10**9}}, "Expected `int` <= 1000 - at `$.vision_tower_config.depth`"),
        ({"vision_tower_config": {"embed_dim": -1}}, "Expected `int` >= 1 - at `$.vision_tower_config.embed_dim`"),
        ({"vision_tower_config": None}, "Expected `object`, got `null` - at `$.vision_tower_config`"),
        ({"image_vision_tower_config": {"image_size": 10**9}}, "Expected `int` <= 10000"),
        ({"image_vision_tower_config": {"num_attention_heads": 5}}, "is not a multiple of"),
        ({"image_vision_tower_config": {"image_size": 60}}, "image_size and patch_size are 60 and 16"),
        ({"eos_token_id": -1}, "Expected `int` >= 0 - at `$.eos_token_id`"),
        (
            {"vocab_size": 259},
            "the tokenizer's '<image>' has the id 259, but the model of config.json knows 259 tokens",
        ),
    ],
)
def test_another_kind_of_model_is_refused(tmp_path, change, message):
    folder = write_mobile(tmp_path / "original")
    config = json.loads((folder / "config.json").read_text())
    for name, value in change.items():
        config[name] = config[name] | value if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(config))
    refused = refusal(folder)
    assert message in refused and "config.json" in refused and len(refused) < 1000


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", "{", "its tokenizer cannot be read"),
        ("tokenizer.json", "[]", "its tokenizer cannot be read"),
        ("tokenizer_config.json", "[]", "its tokenizer cannot be read"),
        ("tokenizer_config.json", '{"eos_token": 5}', "its tokenizer cannot be read"),
        ("tokenizer.json", None, "no tokenizer.json and no vocab.json"),
    ],
)
def test_damaged_tokenizer_files_are_named(tmp_path, file, content, message):
    folder = write_mobile(tmp_path / "original")
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    assert message in refusal(folder)


def test_a_tokenizer_of_another_model_is_named(tokenizer_files, tmp_path):
    folder = write_mobile(tmp_path / "original")
    (folder / "tokenizer.json").unlink()
    tokenizer_files(added_tokens_decoder={})
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / name).rename(folder / name)
    assert "the tokenizer has no special token <|im_start|>" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video_depth": 10**9}, "Expected `int` <= 1000 - at `$.video_depth`"),
        ({"frames": 10**9}, "Expected `int` <= 10000 - at `$.frames`"),
        ({"image_side": 0}, "Expected `int` >= 1 - at `$.image_side`"),
        ({"selected": 3}, "selected 3 times pooled 7 is no square"),
        ({"chunk": 5}, "frames and chunk are 16 and 5, which do not go together"),
        ({"chunk": 2}, "chunk and selected are 2 and 4"),
        ({"image_layer": 9}, "mm_vision_select_layer 9 is none of the image tower's 3 layers"),
        ({"video_width": VIDEO["embed_dim"] + 1}, "but config.json asks for"),
        ({"frames": "many"}, "config.json"),
        ({"image_token_id": 5}, "the id of <image> is "),
    ],
)
def test_own_configurations_that_do_not_fit(tmp_path, change, message):
    model, processor = load_model(write_mobile(tmp_path / "original"), device="cpu")
    model.save_pretrained(tmp_path / "own")
    processor.save_pretrained(tmp_path / "own")
    path = tmp_path / "own/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused = refusal(tmp_path / "own")
    assert message in refused and "own" in refused
