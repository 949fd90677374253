"""The fast tokenizer against recorded ids and decodings, and against SentencePiece itself."""

import json
import random
import shutil

import pytest
from original_checkpoints import FIXTURE, TOKENIZER_FILES
from transformers import PreTrainedTokenizerFast
from transformers.utils.sentencepiece_model_pb2_new import ModelProto

from formcoach.errors import UserError
from formcoach.models.internvideo import tokenizer
from formcoach.models.internvideo.random_checkpoint import write_tokenizer
from formcoach.models.internvideo.tokenizer import TIDIED, SpecialTokens, build_backend, load_tokenizer

RECORDED = json.loads((FIXTURE / "expected_tokenizer.json").read_text())
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}


def test_every_recorded_string(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "CACHE", tmp_path / "cache")
    converted, cached = load_tokenizer(FIXTURE), load_tokenizer(FIXTURE)
    converted.save_pretrained(tmp_path)
    for each in (converted, cached, PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        assert [each(entry["text"]).input_ids for entry in RECORDED] == [entry["ids"] for entry in RECORDED]
        decoded = [each.decode(entry["ids"], skip_special_tokens=True) for entry in RECORDED]
        assert decoded == [entry["decoded"] for entry in RECORDED]


@pytest.mark.parametrize(
    ("rule", "dummy_prefix", "remove_spaces"),
    [("identity", True, False), ("nmt_nfkc", True, True), ("identity", True, True), ("nfkc", False, True)],
)
def test_other_normalisations_equal_sentencepiece(tmp_path, rule, dummy_prefix, remove_spaces):
    sentencepiece = pytest.importorskip("sentencepiece")
    draw = random.Random(0)
    words = ["squat", "push", "up", "  ", "knees", "caving", "in", "(right", "arm)", "-", "中文", "é", "ﬁ", "Ａ", "\t"]
    (tmp_path / "corpus").write_text("\n".join(" ".join(draw.choices(words, k=12)) for _ in range(400)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus"),
        model_prefix=str(tmp_path / "tokenizer"),
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name=rule,
        add_dummy_prefix=dummy_prefix,
        remove_extra_whitespaces=remove_spaces,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    model = ModelProto.FromString((tmp_path / "tokenizer.model").read_bytes())
    backend = build_backend(model, SpecialTokens({"<img>": len(model.pieces)}, ROLES))
    letters = "abcdehipsuqtrn  ﬁＡ中é🏋\t-(),.!12 ▁"
    for _ in range(300):
        text = "".join(draw.choices(letters, k=draw.randint(0, 30)))
        ids = reference.encode(text)
        assert backend.encode(text, add_special_tokens=False).ids == ids
        decoded = reference.decode(ids)
        for untidy, tidy in TIDIED.items():
            decoded = decoded.replace(untidy, tidy)
        assert backend.decode(ids) == decoded
        parted = [*ids, len(model.pieces), *ids]
        assert backend.encode(f"{text}<img>{text}", add_special_tokens=False).ids == parted


def test_an_added_token_takes_the_place_of_an_unused_piece(tmp_path):
    model = ModelProto.FromString((FIXTURE / "tokenizer.model").read_bytes())
    model.pieces[500].piece = "[UNUSED_TOKEN_1]"
    backend = build_backend(model, SpecialTokens({"<|im_end|>": 500}, ROLES))
    assert backend.encode("a<|im_end|>a", add_special_tokens=False).ids == [468, 500, 468]
    assert backend.decode([500], skip_special_tokens=False) == "<|im_end|>"


def test_as_many_pieces_as_the_8b_has(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "CACHE", tmp_path / "cache")
    write_tokenizer(tmp_path, 92_553)
    text = "push your knees out 🏋 深蹲<|im_end|>\n<img><IMG_CONTEXT></img>"
    converted = load_tokenizer(tmp_path)
    assert len(converted) == 92_553
    assert converted.convert_tokens_to_ids(["<|im_end|>", "<img>", "<IMG_CONTEXT>"]) == [92_542, 92_544, 92_546]
    ids = converted(text).input_ids
    assert converted.decode(ids) == "<s>" + text
    (cached,) = (tmp_path / "cache").iterdir()
    monkeypatch.setattr(tokenizer, "build_backend", None)  # what is cached is not converted again
    assert load_tokenizer(tmp_path)(text).input_ids == ids
    monkeypatch.undo()
    monkeypatch.setattr(tokenizer, "CACHE", tmp_path / "cache")
    cached.write_text("{")  # damaged
    assert load_tokenizer(tmp_path)(text).input_ids == ids
    assert cached.stat().st_size > 1000


def test_another_token_is_converted_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "CACHE", tmp_path / "cache")
    write_tokenizer(tmp_path, 1000)
    before = load_tokenizer(tmp_path)("<box>").input_ids
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config["added_tokens_decoder"]["998"]["content"] = "<crate>"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    added = json.loads((tmp_path / "added_tokens.json").read_text())
    added["<crate>"] = added.pop("<box>")
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    again = load_tokenizer(tmp_path)
    assert again("<crate>").input_ids == before
    assert len(again("<box>").input_ids) > 2


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(tokenizer, "CACHE", tmp_path / "file" / "cache")
    assert load_tokenizer(FIXTURE)("a").input_ids == [1, 468]


@pytest.mark.parametrize("content", [b"not protobuf \xff\xff\xff", b""])
def test_a_damaged_model_is_named(tmp_path, content):
    for name in TOKENIZER_FILES:
        shutil.copy(FIXTURE / name, tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.model: is not a SentencePiece"):
        load_tokenizer(tmp_path)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.model: no such file"):
        load_tokenizer(tmp_path)
