"""The fast tokenizer against recorded ids and decodings, and against SentencePiece itself."""

import json
import random
import shutil

import pytest
from original_checkpoints import FIXTURE, TOKENIZER_FILES
from transformers import PreTrainedTokenizerFast
from transformers.utils.sentencepiece_model_pb2_new import ModelProto

from formcoach.errors import UserError
from formcoach.models.internvideo.tokenizer import TIDIED, SpecialTokens, build_backend, load_tokenizer

RECORDED = json.loads((FIXTURE / "expected_tokenizer.json").read_text())
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}


def test_every_recorded_string(tmp_path):
    tokenizer = load_tokenizer(FIXTURE)
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, PreTrainedTokenizerFast.from_pretrained(tmp_path)):
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


def test_as_many_pieces_as_the_8b_has():
    model = ModelProto.FromString((FIXTURE / "tokenizer.model").read_bytes())
    draw = random.Random(0)
    known = {piece.piece for piece in model.pieces}
    score = min(piece.score for piece in model.pieces)
    while len(known) < 92_544:
        text = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz▁", k=draw.randint(2, 12)))
        if text not in known:
            known.add(text)
            score -= 1
            model.pieces.add(piece=text, score=score, type=1)
    backend = build_backend(model, SpecialTokens({}, ROLES))
    assert backend.get_vocab_size() == 92_544


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
