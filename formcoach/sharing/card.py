"""The model card: what a model is, how it was made, what it can do and what not, and how it is loaded."""

from pathlib import Path

import msgspec

from formcoach import __version__
from formcoach.errors import UserError
from formcoach.evaluation.metrics import MEASURES
from formcoach.evaluation.scores import Difference
from formcoach.models.hub import HubName
from formcoach.sharing.bundle import CARD, Bundle
from formcoach.sharing.local_paths import find_local_path
from formcoach.sharing.origin import ModelScores, Origin, RunScores

TEMPLATE = Path(__file__).resolve().parents[1] / "assets" / "sharing" / "model_card.md.jinja"
TAG = "formcoach"  # tells on the hub that we wrote a card

_LICENCES = {  # as their authors state them on the hub or in their repository
    "OpenGVLab/InternVideo2_5_Chat_8B": "apache-2.0",
    "OpenGVLab/InternVL_2_5_HiCo_R16": "apache-2.0",
    "Amshaker/Mobile-VideoGPT-0.5B": "cc-by-nc-sa-4.0",
    "Amshaker/Mobile-VideoGPT-1.5B": "cc-by-nc-sa-4.0",
}
_TINY_LICENCE = "apache-2.0"  # formcoach's own
_MEANINGS = {  # of the measures on a card
    "exercise_match": "the answer names the clip's exercise",
    "fault_match": "it also says exactly what a coach saw",
    "fault_f1": "faults named and present, balanced",
    "meteor": "wording",
    "rouge_l": "wording",
    "similarity": "meaning, as embeddings of sentences see it",
    "judge": "how far a language model found that answer and truth agree",
}


def model_card(repo: str, bundle: Bundle, origin: Origin | None) -> str:
    """Return the text of `README.md`.

    Args:
        repo: `owner/name` that it is for.
        bundle: what is uploaded.
        origin: how the model was trained, if that is known.

    Raises:
        UserError: a path of this machine would be in it.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    scores = origin.scores if origin else None
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        metadata=_metadata(bundle),
        repo=repo,
        name=repo.rpartition("/")[2],
        is_adapter=bundle.is_adapter,
        is_original=_is_original(bundle),
        base=bundle.base,
        base_name=bundle.base_name,
        licence=_licence(bundle.base),
        origin=origin,
        scores=scores,
        score_rows=_score_rows(scores) if scores else [],
        version=__version__,
    )
    if found := find_local_path(text):
        raise UserError(f"{CARD}: a path of this machine would be in it ({found}); remove it from the run's files")
    return text


def _metadata(bundle: Bundle) -> str:
    """Return the YAML at the head of the card, as the hub defines it (huggingface.co/docs/hub/model-cards)."""
    from huggingface_hub import ModelCardData

    base, licence = bundle.base, _licence(bundle.base)
    relation = "adapter" if bundle.is_adapter else "finetune"
    library = "peft" if bundle.is_adapter else "transformers" if _is_original(bundle) else TAG
    return ModelCardData(
        base_model=base.id if base else None,
        license=licence or "other",
        license_name=None if licence else "licence-of-the-base-model",
        license_link=None if licence or base is None else f"https://huggingface.co/{base.id}",
        library_name=library,
        pipeline_tag="video-text-to-text",
        tags=[TAG, "video", "exercise", *(["lora"] if bundle.is_adapter else [])],
        base_model_relation=relation if base else None,
    ).to_yaml()


def _licence(base: HubName | None) -> str | None:
    """Return the licence of a base as the hub spells it; None: it is not known here."""
    return _TINY_LICENCE if base is None else _LICENCES.get(base.id)


def _is_original(bundle: Bundle) -> bool:
    """Tell whether a whole model is in its authors' layout, which has no processor of ours."""
    return not bundle.is_adapter and "processor_config.json" not in bundle.files


def _score_rows(scores: RunScores) -> list[list[str]]:
    """Return title, a cell a model, difference and least difference if there are some, and meaning of each score."""
    rows = []
    for measure in MEASURES:
        if measure.name in _MEANINGS:
            cells = [_cell(one, measure.name) for one in scores.models]
            if any(cells):
                more = _difference_cells(scores.differences.get(measure.name)) if scores.differences else []
                rows.append([measure.title, *cells, *more, _MEANINGS[measure.name]])
    return rows


def _cell(scores: ModelScores, name: str) -> str:
    """Return a score in per cent, with its interval if there is one; nothing without a score."""
    value = msgspec.structs.asdict(scores)[name]
    if value is None:
        return ""
    bounds = scores.intervals.get(name)
    return f"{100 * value:.1f} %" + (f" ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})" if bounds else "")


def _difference_cells(difference: Difference | None) -> list[str]:
    """Return a difference with its interval, and the least that the test clips could show."""
    if difference is None:
        return ["", ""]
    told = f"{100 * difference.value:+.1f} ({100 * difference.low:+.1f} to {100 * difference.high:+.1f})"
    return [told, f"{100 * difference.smallest:.1f}"]
