"""What opening a checkpoint has in common for all families: it is checked before anything large is read."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import GenerationConfig

from formcoach.errors import UserError
from formcoach.models.conversion import Conversion, counterparts, expected_shapes
from formcoach.models.layout import Borrowed, Counterpart, Layout
from formcoach.models.precision import Precision
from formcoach.models.weights import DTYPES, REMEDY, Header, header_of, read_headers, weight_files

Model = TypeVar("Model")

UNQUANTISED = ("model.vision_tower", "model.multi_modal_projector", "lm_head")


@dataclass(frozen=True)
class Outline:
    """A checkpoint folder without its weights, which need not be there.

    Args:
        is_original: whether it is in its authors' layout rather than in this project's.
        model: on torch's meta device.
        processor: the model's.
    """

    is_original: bool
    model: Any
    processor: Any


@dataclass(frozen=True)
class Checkpoints:
    """How a family's checkpoints are read.

    Args:
        kind: what its models are called, with the article, for messages.
        outline: reads all but the weights of a folder. It raises a `UserError` if a file is missing or damaged, or the
            configuration is not that of such a model.
        conversions: from original tensor names to ours.
        unused: matches the names of tensors that belong to no part of the model.
        essential: matches the names of tensors that need more than to be called missing, and what is said of them.
        borrow: returns what a checkpoint in the original layout takes from elsewhere; its arguments are the folder, the
            model and the names of the checkpoint's tensors. It raises a `UserError` if that is not to be had.
    """

    kind: str
    outline: Callable[[Path], Outline]
    conversions: Sequence[Conversion]
    unused: re.Pattern
    essential: tuple[re.Pattern, str] | None = None
    borrow: Callable[[Path, Any, Collection[str]], Sequence[Borrowed]] | None = None

    def open(self, folder: Path) -> Layout:
        """Read all but the weights of a checkpoint in the original layout or in this project's, and check it.

        Raises:
            UserError: see `outline`, or a tensor is missing, surplus or of the wrong shape; it names file and tensor.
        """
        found = self.outline(folder)
        names = list(found.model.state_dict())
        tensors = (
            counterparts(names, self.conversions)
            if found.is_original
            else [Counterpart(name, (name,)) for name in names]
        )
        shards = weight_files(folder)
        stored = read_headers(shards)
        borrowed = self.borrow(folder, found.model, stored) if self.borrow and found.is_original else ()
        stored |= {name: header_of(tensor) for part in borrowed for name, tensor in part.tensors.items()}
        dtype = self._check(folder, found.model, tensors, stored)
        by_name = {one.name: one for one in tensors}
        return Layout(folder, found.is_original, found.model, found.processor, shards, dtype, by_name, tuple(borrowed))

    def load(self, folder: Path, precision: Precision) -> tuple[Any, Any]:
        """Return model, in evaluation mode, and processor of a folder in the original layout or in this project's.

        Original weights are renamed while transformers streams them from the shards; there is no second copy.

        Raises:
            UserError: see `open`.
        """
        layout = self.open(folder)
        model = type(layout.model).from_pretrained(
            **_source(layout),
            config=layout.model.config,
            local_files_only=True,
            generation_config=generation_config(layout.processor),
            **precision.loading_arguments(UNQUANTISED, layout.dtype),
        )
        model.name_or_path = model.config.name_or_path = str(folder)
        if precision.quantization == "nf4":
            leave_odd_widths_unpacked(model)
        return model.eval(), layout.processor

    def _check(self, folder: Path, model: Any, tensors: Sequence[Counterpart], stored: Mapping[str, Header]) -> str:
        """Compare the headers with what the model needs, before anything is loaded; return the weights' type.

        Args:
            folder: the checkpoint's.
            model: on torch's meta device.
            tensors: that the checkpoint is to have.
            stored: that it has.

        Raises:
            UserError: naming the first missing, surplus, misshapen or mistyped tensor.
        """
        wanted = expected_shapes(tensors, model.state_dict())
        optional = {one.name for one in tensors if one.parts[0] in model.all_tied_weights_keys}
        missing = [name for name in wanted if name not in stored and name not in optional]
        if missing:
            self._refuse_without(folder, missing)
        surplus = [name for name in stored if name not in wanted and not self.unused.match(name)]
        if surplus:
            raise UserError(
                f"{folder}: tensor {surplus[0]} belongs to no part of {self.kind} model{_more(surplus)}. {REMEDY}"
            )
        used = {name: header for name, header in stored.items() if name in wanted}
        misshapen = [name for name, header in used.items() if header.shape != wanted[name]]
        if misshapen:
            name = misshapen[0]
            raise UserError(
                f"{folder}: tensor {name} has shape {used[name].shape}, but config.json asks for {wanted[name]}"
                f"{_more(misshapen)}. {REMEDY}"
            )
        mistyped = [name for name, header in used.items() if header.dtype not in DTYPES]
        if mistyped:
            name = mistyped[0]
            raise UserError(
                f"{folder}: tensor {name} is {used[name].dtype}, not one of {', '.join(DTYPES.values())}"
                f"{_more(mistyped)}. {REMEDY}"
            )
        return DTYPES[next(iter(used.values())).dtype]

    def _refuse_without(self, folder: Path, missing: list[str]) -> None:
        """Raise the `UserError` for missing tensors; of those that are essential, it says why."""
        pattern, why = self.essential or (re.compile("(?!)"), "")
        first = next((name for name in missing if pattern.fullmatch(name)), None)
        reason = f": {why}" if first else ""
        raise UserError(f"{folder}: tensor {first or missing[0]} is missing{_more(missing)}{reason}. {REMEDY}")


def _source(layout: Layout) -> dict[str, Any]:
    """Return where transformers finds the weights: in the folder, or also in what is borrowed.

    In the second case it gets tensors, which stay on the disk until they are used.
    """
    if not layout.borrowed:
        return {"pretrained_model_name_or_path": layout.folder}
    tensors: dict[str, Tensor] = {}
    for shard in layout.shards:
        with safe_open(shard, framework="pt") as stored:
            names = [name for name in stored.keys() if name in layout.counterparts]  # noqa: SIM118
            tensors |= {name: stored.get_tensor(name) for name in names}
    for part in layout.borrowed:
        tensors |= part.tensors
    return {"pretrained_model_name_or_path": None, "state_dict": tensors}


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
    except (KeyError, ValueError, TypeError, ArithmeticError, AssertionError, RuntimeError) as error:
        raise UserError(f"{path}: no model can be built of it ({' '.join(str(error).split())}). {REMEDY}") from None


def check_heads(path: Path, text: Any) -> None:
    """Refuse a language model whose channels cannot be shared out to its heads, in pairs that are rotated.

    Args:
        path: of its `config.json`, for messages.
        text: its configuration.

    Raises:
        UserError: naming the sizes.
    """
    width, heads, groups = text.hidden_size, text.num_attention_heads, text.num_key_value_heads
    if width % (2 * heads) or heads % groups:
        raise UserError(
            f"{path}: hidden_size {width}, num_attention_heads {heads} and num_key_value_heads {groups} do not go "
            f"together. {REMEDY}"
        )


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
