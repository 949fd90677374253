"""Which linear layers get LoRA, from what a user writes."""

import re

from torch import nn

from formcoach.errors import UserError
from formcoach.models.family import Family

ALL = "all-linear"
_NAMES = re.compile(r"[A-Za-z0-9_]+(\s*,\s*[A-Za-z0-9_]+)*")


def target_pattern(model: nn.Module, family: Family, wanted: str | None) -> str:
    """Return a regular expression for the full names of the language model's layers that get LoRA.

    Args:
        model: the base model.
        family: its family.
        wanted: names of layers as ``q_proj,v_proj``; ``all-linear``; a regular expression for full names; None: the
            family's own choice.

    Raises:
        UserError: it is no regular expression, or matches no linear layer of the language model, or others.
    """
    if wanted is None:
        return family.lora_targets
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    inside = [name for name in linear if f".{family.language}." in f".{name}"]
    known = sorted({name.rpartition(".")[2] for name in inside})
    if wanted == ALL:
        return _pattern(family, known)
    if _NAMES.fullmatch(wanted):
        names = [name.strip() for name in wanted.split(",")]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UserError(
                f"--lora-targets: the language model has no linear layer {unknown[0]!r}; it has {', '.join(known)}"
            )
        return _pattern(family, names)
    try:
        found = [name for name, _ in model.named_modules() if re.fullmatch(wanted, name)]
    except re.error as error:
        raise UserError(
            f"--lora-targets {wanted!r}: is no regular expression ({error}); or name layers: {', '.join(known)}"
        ) from None
    odd = [name for name in found if name not in inside]
    if odd or not found:
        what = f"matches {odd[0]}, which is no linear layer" if odd else "matches no linear layer"
        raise UserError(
            f"--lora-targets {wanted!r}: {what} of the language model, like {inside[0]} (--lora-vit: the vision tower)"
        )
    return wanted


def _pattern(family: Family, names: list[str]) -> str:
    return rf"(.*\.)?{re.escape(family.language)}\..*\.({'|'.join(map(re.escape, names))})"
