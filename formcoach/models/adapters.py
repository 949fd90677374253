"""LoRA adapters: built on a base model, saved so that plain PEFT reads them, and loaded onto that base only."""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils import load_peft_weights, set_peft_model_state_dict
from peft.utils.constants import DUMMY_TARGET_MODULES
from safetensors import SafetensorError
from torch import nn

from formcoach.errors import UserError
from formcoach.files import read_json, write_json
from formcoach.models.family import Family
from formcoach.models.hub import HubName, commit_of
from formcoach.models.location import ADAPTER_WEIGHTS, BASE_FILE, Location, named_at, resolve_checkpoint
from formcoach.models.lora_targets import target_pattern

REMEDY = "Name another checkpoint."
ADAPTER = "default"  # PEFT's name for the only adapter of a model

_WINDOW = 1 << 16  # bytes hashed at a time
_WINDOWS = 16  # of each file of weights


class BaseModel(msgspec.Struct, frozen=True):
    """`base_model.json` of an adapter: which base it was trained on.

    Args:
        name: as the user named it, without a revision.
        fingerprint: see `fingerprint`.
        revision: its commit on the hub; None: it was a folder.
    """

    name: str
    fingerprint: str
    revision: str | None = None


def add_lora(
    model: Any,
    family: Family,
    base: str,
    *,
    rank: int,
    alpha: int,
    dropout: float = 0.0,
    targets: str | None = None,
    train_language: bool = True,
    train_connector: bool = True,
    train_vit: bool = False,
    language_in_full: bool = False,
    vit_in_full: bool = False,
) -> PeftModel:
    """Freeze a model and put trainable weights beside its own: LoRA matrices, and a copy of the connector.

    LoRA adds ``alpha / rank * B A x`` to a linear layer's output, A drawn at random and B zero, so that the model
    answers as before until it is trained (Hu et al., "LoRA", ICLR 2022). All trained weights are float32. The base
    may be quantised; it is not changed, and `PeftModel.disable_adapter` gives exactly it.

    Args:
        model: a base model from `load_model`.
        family: its family.
        base: its name as the user gave it, kept with the adapter; a folder is kept as absolute path, a hub id with the
            commit that `model` was loaded from.
        rank: columns of B.
        alpha: see above.
        dropout: on the input of A.
        targets: the language model's linear layers that get it, see `formcoach.models.lora_targets`.
        train_language: whether the language model gets LoRA.
        train_connector: whether the connector is trained, in full.
        train_vit: whether the vision tower gets LoRA too.
        language_in_full: whether a copy of the language model and of its head is trained instead.
        vit_in_full: whether a copy of the vision tower is trained instead.

    Raises:
        UserError: if nothing is to be trained, or `targets` matches no linear layer.
    """
    wanted = [target_pattern(model, family, targets)] if train_language and not language_in_full else []
    if train_vit and not vit_in_full:
        wanted.append(family.vision_lora_targets)
    copied = [family.connector] if train_connector else []
    copied += [family.vision] if vit_in_full else []
    copied += [family.language, *_head(model)] if language_in_full else []
    if not wanted and not copied:
        raise UserError("nothing is to be trained: language model, connector and vision tower are all frozen")
    hub = HubName.parse(base)
    config = LoraConfig(
        revision=(commit_of(Path(model.name_or_path)) or hub.revision) if hub else None,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="|".join(wanted) if wanted else DUMMY_TARGET_MODULES,
        modules_to_save=copied or None,
    )
    if hub:
        base = hub.id
    elif Path(base).is_dir():
        base = str(Path(base).resolve())
    _keep_differentiable(model)
    return _adapted(model, config, base)


def _head(model: Any) -> list[str]:
    """Return the name of the language modelling head, unless that is the embedding matrix."""
    head = model.get_output_embeddings()
    if head.weight is model.get_input_embeddings().weight:
        return []
    return [name for name, module in model.named_modules() if module is head]


def save_adapter(model: PeftModel, processor: Any, folder: Path, state_dict: dict[str, Any] | None = None) -> None:
    """Write adapter, processor and the name of the base model to `folder`.

    Args:
        model: from `add_lora`.
        processor: the model's processor.
        folder: is created if need be; to be moved to its final place by the caller (`files.replacing_folder`).
        state_dict: the model's weights where they have to be gathered first (ZeRO-3).
    """
    model.save_pretrained(folder, save_embedding_layers=False, state_dict=state_dict)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    processor.save_pretrained(folder)
    config = model.peft_config[ADAPTER]
    name, revision = config.base_model_name_or_path, config.revision
    base = BaseModel(name, fingerprint(resolve_checkpoint(named_at(name, revision))), revision)
    write_json(folder / BASE_FILE, msgspec.to_builtins(base))


def load_adapter(model: Any, folder: Path, trainable: bool = False) -> PeftModel:
    """Put the adapter in `folder` on its base model.

    Args:
        model: the base from `load_model`; see `check_base`. On torch's meta device, only the adapter gets weights.
        folder: from `save_adapter`.
        trainable: whether training goes on.

    Raises:
        UserError: if the adapter is damaged or does not fit the model.
    """
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(f"{folder}: has no {ADAPTER_WEIGHTS}; pickled weights are not read. {REMEDY}")
    if trainable:
        _keep_differentiable(model)
    try:
        config = PeftConfig.from_pretrained(folder)
        config.inference_mode = not trainable
        adapted = _adapted(model, config, config.base_model_name_or_path)
        if model.device.type == "meta":
            _give_memory(adapted)
        device = "cpu" if model.device.type == "meta" else str(model.device)
        loaded = set_peft_model_state_dict(adapted, load_peft_weights(str(folder), device=device))
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: the adapter cannot be loaded ({reason}). {REMEDY}") from None
    wrong = [name for name in loaded.missing_keys if f".{ADAPTER}." in name] + loaded.unexpected_keys
    if wrong:
        raise UserError(f"{folder}: the adapter does not fit the model, first at {wrong[0]}. {REMEDY}")
    if not trainable:
        adapted.requires_grad_(False)
    return adapted.train(trainable)


def merge_adapter(model: PeftModel) -> Any:
    """Return the base model with its adapter merged in; `model` is used up.

    For a checkpoint on the disk see `formcoach.models.export`, which does not need the model in memory.

    Raises:
        UserError: if the base is quantised: merging would keep the quantisation's error in the weights.
    """
    if vars(model.get_base_model()).get("is_quantized", False):
        raise UserError(
            "an adapter is not merged into a quantised base: load the model without quantization, "
            "or use utils/export_model.py, which merges into the exact weights"
        )
    return model.merge_and_unload()


def check_base(location: Location) -> None:
    """Refuse an adapter on a base that it was not trained on.

    Raises:
        UserError: naming both bases.
    """
    if location.adapter is None or not (location.adapter / BASE_FILE).is_file():
        return  # an adapter from elsewhere: PEFT compares the shapes
    path = location.adapter / BASE_FILE
    try:
        trained = msgspec.convert(read_json(path, REMEDY), BaseModel)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {error}. {REMEDY}") from None
    if trained.fingerprint != fingerprint(location.base):
        exact = named_at(trained.name, trained.revision)
        same = " of then, whose weights have changed since" if exact == location.exact else ""
        raise UserError(
            f"{location.adapter}: was trained on {exact}{same}; it cannot be used with {location.exact}. "
            "Name its own base model, or train again"
        )


def fingerprint(folder: Path) -> str:
    """Return what tells a model's weights from others: a hash of its weight files' sizes and samples of their bytes.

    A copy or a download of the same files has the same fingerprint. It reads 1 MiB a file at most.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{size}\n".encode())
        with path.open("rb") as file:
            for window in range(_WINDOWS):
                file.seek(window * max(size - _WINDOW, 0) // (_WINDOWS - 1))
                digest.update(file.read(_WINDOW))
    return digest.hexdigest()


def _adapted(model: Any, config: PeftConfig, base: str) -> PeftModel:
    """Return `model` with an adapter whose weights are float32.

    Half precision would lose small steps, and PEFT itself raises only the LoRA matrices.
    """
    config.base_model_name_or_path = None  # PEFT puts a path of this machine there, and warns of it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
        adapted = get_peft_model(model, config)
    adapted.peft_config[ADAPTER].base_model_name_or_path = base
    for name, parameter in adapted.named_parameters():
        if f".{ADAPTER}." in name:
            parameter.data = parameter.data.float()
    return adapted


def _give_memory(adapted: PeftModel) -> None:
    """Move the adapter's parameters, but not the base's, from torch's meta device to the CPU."""
    for name, parameter in list(adapted.named_parameters()):
        if f".{ADAPTER}." in f"{name}.":
            owner, _, last = name.rpartition(".")
            value = nn.Parameter(torch.empty_like(parameter, device="cpu"), parameter.requires_grad)
            setattr(adapted.get_submodule(owner), last, value)


def _keep_differentiable(model: Any) -> None:
    """Keep NF4 weights in the layout that has a backward pass.

    On CPUs with AVX-512 BF16 bitsandbytes repacks a weight at its first evaluation, for speed; from then on its
    layer silently passes no gradient (bitsandbytes 0.50), so that a run would stop learning after its first validation.
    """
    if not vars(model).get("is_loaded_in_4bit", False):
        return
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.state_dict()  # as a side effect, unpacks a weight that was repacked already
            module.support_avx512bf16_for_cpu = False
