"""What opening a checkpoint has in common for all families: it is checked before anything large is read."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig

from formcoach.errors import UserError
from formcoach.models.conversion import expected_shapes
from formcoach.models.layout import Counterpart
from formcoach.models.weights import DTYPES, REMEDY, Header

Model = TypeVar("Model")


def empty_model(kind: type[Model], path: Path, config: Any) -> Model:
    """Return a model without weights, on torch's meta device.

    Args:
        kind: its class.
        path: of its `config.json`, for messages.
        config: what it says.

    Raises:
        UserError: if its sizes do not fit together.
    """
    try:
        with torch.device("meta"):
            return kind(config)
    except (KeyError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"{path}: no model can be built of it ({' '.join(str(error).split())}). {REMEDY}") from None


def check_vocabulary(folder: Path, processor: Any, config: Any) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding for.

    Raises:
        UserError: naming the token with the highest id.
    """
    token, number = max(processor.tokenizer.get_vocab().items(), key=lambda item: item[1])
    if number >= config.text_config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer's {token!r} has the id {number}, but the model of config.json knows "
            f"{config.text_config.vocab_size} tokens. {REMEDY}"
        )


def check_tensors(
    folder: Path,
    model: Any,
    tensors: Sequence[Counterpart],
    stored: Mapping[str, Header],
    unused: re.Pattern,
    kind: str,
) -> str:
    """Compare the checkpoint's headers with what the model needs, before anything is loaded; return the weights' type.

    Args:
        folder: the checkpoint's.
        model: on torch's meta device.
        tensors: that the checkpoint is to have.
        stored: that it has.
        unused: matches the names of those that may be there but belong to no part of the model.
        kind: what the model is called, for messages, with its article.

    Raises:
        UserError: naming the first missing, surplus, misshapen or mistyped tensor.
    """
    wanted = expected_shapes(tensors, model.state_dict())
    optional = {one.name for one in tensors if one.parts[0] in model.all_tied_weights_keys}
    missing = [name for name in wanted if name not in stored and name not in optional]
    surplus = [name for name in stored if name not in wanted and not unused.match(name)]
    used = {name: header for name, header in stored.items() if name in wanted}
    misshapen = [name for name, header in used.items() if header.shape != wanted[name]]
    mistyped = [name for name, header in used.items() if header.dtype not in DTYPES]
    if missing:
        raise UserError(f"{folder}: tensor {missing[0]} is missing{_more(missing)}. {REMEDY}")
    if surplus:
        raise UserError(f"{folder}: tensor {surplus[0]} belongs to no part of {kind} model{_more(surplus)}. {REMEDY}")
    if misshapen:
        name = misshapen[0]
        raise UserError(
            f"{folder}: tensor {name} has shape {used[name].shape}, but config.json asks for {wanted[name]}"
            f"{_more(misshapen)}. {REMEDY}"
        )
    if mistyped:
        name = mistyped[0]
        raise UserError(
            f"{folder}: tensor {name} is {used[name].dtype}, not one of {', '.join(DTYPES.values())}"
            f"{_more(mistyped)}. {REMEDY}"
        )
    return DTYPES[next(iter(used.values())).dtype]


def generation_config(processor: Any) -> GenerationConfig:
    """Return greedy decoding that ends at the end of the text or of the turn."""
    return GenerationConfig(
        bos_token_id=processor.tokenizer.bos_token_id,
        eos_token_id=processor.end_token_ids,
        pad_token_id=processor.tokenizer.pad_token_id,
        do_sample=False,
    )


def leave_odd_widths_unpacked(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking NF4 weights for the CPU that its kernel cannot take.

    It needs multiples of 32 outputs and 64 inputs and crashes otherwise (bitsandbytes 0.50).
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit) and (module.out_features % 32 or module.in_features % 64):
            module.support_avx512bf16_for_cpu = False


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
