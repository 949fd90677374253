"""How close answers are to the truth in their words: METEOR, ROUGE-L and BLEU-4.

Each is computed by the package that the field computes it with; here is only how they are called.
"""

from collections.abc import Sequence
from typing import Any

Pair = tuple[str, str]  # truth, answer

NO_WORDNET = (
    "METEOR counts equal words and word stems but no synonyms: WordNet's data was not there "
    "(python -m nltk.downloader wordnet)"
)


def meteor(pairs: Sequence[Pair]) -> list[float]:
    """Return METEOR in 0..1 by nltk; without WordNet's data (see `has_wordnet`) synonyms are no match.

    Words are those of nltk's Treebank tokenizer, which needs no data, in lower case.
    """
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.translate.meteor_score import single_meteor_score

    words = NLTKWordTokenizer().tokenize
    wordnet = _wordnet() if has_wordnet() else _NoSynonyms()
    return [single_meteor_score(words(truth), words(answer), wordnet=wordnet) for truth, answer in pairs]


def has_wordnet() -> bool:
    """Tell whether nltk finds the data of WordNet; nothing is downloaded."""
    try:
        _wordnet().ensure_loaded()
    except LookupError:
        return False
    return True


def rouge_l(pairs: Sequence[Pair]) -> list[float]:
    """Return ROUGE-L's F1 in 0..1 by `rouge-score`, without stemming."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    return [scorer.score(truth, answer)["rougeL"].fmeasure for truth, answer in pairs]


def bleu_4(pairs: Sequence[Pair]) -> list[float]:
    """Return BLEU in 0..1 of each answer by itself, by sacrebleu: up to 4-grams, as many as a short answer has."""
    from sacrebleu import sentence_bleu

    return [sentence_bleu(answer, [truth]).score / 100 for truth, answer in pairs]


def _wordnet() -> Any:
    from nltk.corpus import wordnet

    return wordnet


class _NoSynonyms:
    """Stands for WordNet where its data is missing."""

    def synsets(self, _word: str) -> list[Any]:
        """Return nothing."""
        return []
