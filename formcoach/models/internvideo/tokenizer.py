"""A fast tokenizer from InternVideo2.5's `tokenizer.model` (SentencePiece BPE), without remote code.

The original tokenizer cuts the text at special tokens and lets SentencePiece encode each part on its own, then puts
``<s>`` in front. The `tokenizers` library does the same: it normalises and encodes each part between added tokens by
itself.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import tokenizers
from google.protobuf.message import DecodeError
from huggingface_hub.constants import HF_ASSETS_CACHE
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast
from transformers.utils.sentencepiece_model_pb2_new import ModelProto, NormalizerSpec

from formcoach.errors import UserError
from formcoach.files import read_bytes, read_json, write_text
from formcoach.models.internvideo.original import TokenId
from formcoach.models.weights import REMEDY

Kind = TypeVar("Kind")

SPACE = "▁"  # SentencePiece writes a space as this
CACHE = Path(HF_ASSETS_CACHE) / "formcoach" / "tokenizers"
VERSION = 1  # of the conversion: raised where its result changes, so that what is cached is made anew
MANY = 1 << 16  # more spaces than any text begins with

# Values of `ModelProto.SentencePiece.Type` and `TrainerSpec.ModelType`, sentencepiece_model.proto.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
BPE_MODEL = 2

# The original tokenizer tidies decoded text this way, in this order (`clean_up_tokenization` of transformers 4).
TIDIED = {
    " .": ".",
    " ?": "?",
    " !": "!",
    " ,": ",",
    " ' ": "'",
    " n't": "n't",
    " 'm": "'m",
    " 's": "'s",
    " 've": "'ve",
    " 're": "'re",
}


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens that a checkpoint adds to its SentencePiece model, and the roles of some.

    Args:
        ids: token -> id, for all added tokens.
        roles: ``bos_token``, ``eos_token``, ``unk_token`` and ``pad_token`` -> token.
    """

    ids: dict[str, int]
    roles: dict[str, str]


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Build the fast tokenizer of a checkpoint in its authors' layout.

    Args:
        folder: holds `tokenizer.model` and `tokenizer_config.json` or `added_tokens.json`; a `tokenizer.json` there is
            used as it is.

    Raises:
        UserError: if a file is missing, damaged or not a SentencePiece BPE model.
    """
    special = _special_tokens(folder)
    if (folder / "tokenizer.json").is_file():
        backend = _read_backend(folder / "tokenizer.json")
    else:
        backend = _converted(folder / "tokenizer.model", special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=[token for token in special.ids if token not in special.roles.values()],
        clean_up_tokenization_spaces=False,
        name_or_path=str(folder),
        **special.roles,
    )


def _converted(path: Path, special: SpecialTokens) -> Tokenizer:
    """Return the converted tokenizer of a SentencePiece model, from the hub's cache of derived files if it is there.

    With the 92,544 pieces of InternLM2.5 the conversion takes 1.5 s, reading it back 0.3 s. Where nothing can be
    written, it is converted each time.
    """
    data = read_bytes(path, REMEDY)
    key = hashlib.sha256(f"{VERSION} {tokenizers.__version__} {special}".encode() + data).hexdigest()
    cached = CACHE / f"{key}.json"
    if cached.is_file():
        with suppress(UserError):  # a damaged one is made anew
            return _read_backend(cached)
    backend = build_backend(_parse_model(path, data), special)
    with suppress(OSError):
        write_text(cached, backend.to_str())
    return backend


def build_backend(model: ModelProto, special: SpecialTokens) -> Tokenizer:
    """Convert a SentencePiece BPE model and a checkpoint's added tokens.

    An added token may take the place of an unused piece (the id decides), as in InternLM2.5.
    """
    pieces = [(piece.piece, piece.score, piece.type) for piece in model.pieces]
    vocabulary = {text: number for number, (text, _, _) in enumerate(pieces)}
    taken = set(special.ids.values())
    vocabulary = {text: number for text, number in vocabulary.items() if number not in taken} | special.ids
    mergeable = {text: score for text, score, kind in pieces if kind == NORMAL and vocabulary.get(text) not in taken}
    tokenizer = Tokenizer(
        BPE(
            vocabulary,
            _merges(mergeable, vocabulary),
            unk_token=special.roles["unk_token"],
            fuse_unk=True,
            byte_fallback=model.trainer_spec.byte_fallback,
        )
    )
    tokenizer.normalizer = _normalizer(model.normalizer_spec)
    tokenizer.decoder = _decoder(model.normalizer_spec)
    symbols = [text for text, _, kind in pieces if kind == USER_DEFINED and text in vocabulary]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in symbols])
    control = [text for text, _, kind in pieces if kind == CONTROL and text in vocabulary]
    tokenizer.add_special_tokens(
        [
            AddedToken(text, normalized=False, special=True)
            for text in dict.fromkeys([*control, *special.roles.values(), *special.ids])
        ]
    )
    begin = special.roles["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    return tokenizer


def _merges(scores: dict[str, float], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Return the pairs that make up each piece, best piece first.

    SentencePiece merges the neighbours whose union has the highest score; `tokenizers` the pair that comes first.

    Args:
        scores: mergeable piece -> score.
        vocabulary: piece -> id, only to order the pairs of one piece.
    """
    ranked = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in scores and right in scores:
                ranked.append((-score, vocabulary[piece], vocabulary[left], vocabulary[right], left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


def _normalizer(spec: NormalizerSpec) -> normalizers.Normalizer:
    """Return what SentencePiece does to a text before it cuts it (normalizer.cc), for one part of the text."""
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [
            normalizers.Replace(Regex(f"^ +|[ {SPACE}]+$"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps)


def _decoder(spec: NormalizerSpec) -> decoders.Decoder:
    """Return what makes text of tokens: bytes put together, spaces that were put in front dropped, others tidied."""
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if spec.remove_extra_whitespaces:
        steps.append(decoders.Strip(" ", MANY, 0))
    elif spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(steps + [decoders.Replace(untidy, tidy) for untidy, tidy in TIDIED.items()])


class Token(msgspec.Struct, frozen=True):
    """A token with its properties, as transformers writes it; only its text counts here."""

    content: str


class TokenizerFiles(msgspec.Struct, frozen=True):
    """What `tokenizer_config.json` and `special_tokens_map.json` say about special tokens."""

    added_tokens_decoder: dict[TokenId, Token] = {}
    bos_token: str | Token | None = None
    eos_token: str | Token | None = None
    unk_token: str | Token | None = None
    pad_token: str | Token | None = None


def _special_tokens(folder: Path) -> SpecialTokens:
    """Collect the added tokens of `tokenizer_config.json`, `added_tokens.json` and `special_tokens_map.json`."""
    config = _read_optional(folder / "tokenizer_config.json", TokenizerFiles)
    named = _read_optional(folder / "special_tokens_map.json", TokenizerFiles)
    ids = _read_optional(folder / "added_tokens.json", dict[str, TokenId])
    ids |= {token.content: number for number, token in config.added_tokens_decoder.items()}
    defaults = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    roles = {}
    for role, default in defaults.items():
        token = msgspec.structs.asdict(config)[role] or msgspec.structs.asdict(named)[role] or default
        roles[role] = token.content if isinstance(token, Token) else token
    return SpecialTokens(dict(sorted(ids.items(), key=lambda item: item[1])), roles)


def _read_optional(path: Path, kind: type[Kind]) -> Kind:
    """Return a JSON file's content, an empty one where there is none."""
    try:
        return msgspec.convert(read_json(path, REMEDY) if path.is_file() else {}, kind, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}. {REMEDY}") from None


def _read_backend(path: Path) -> Tokenizer:
    text = json.dumps(read_json(path, REMEDY))
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises no narrower type
        raise UserError(f"{path}: is not a tokenizer ({error}). {REMEDY}") from None


def _parse_model(path: Path, data: bytes) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise UserError(f"{path}: is not a SentencePiece model. {REMEDY}") from None
    if model.trainer_spec.model_type != BPE_MODEL or not model.pieces:
        raise UserError(f"{path}: is not a SentencePiece BPE model. {REMEDY}")
    return model
