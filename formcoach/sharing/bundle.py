"""What of a trained model is uploaded: files of known names, without anything that only this machine has."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formcoach.errors import UserError
from formcoach.files import read_bytes, read_json, write_json
from formcoach.models.hub import HubName
from formcoach.models.location import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE_FILE,
    PACKAGED,
    RECIPE_FILE,
    check_link,
    is_adapter,
    resolve_checkpoint,
)
from formcoach.models.weights import INDEX, weight_files
from formcoach.sharing.local_paths import find_local_path

CARD = "README.md"
REMEDY = "Name another checkpoint."

_JSON = {
    ADAPTER_CONFIG,
    BASE_FILE,
    RECIPE_FILE,
    INDEX,
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
}
_TEXT = {"chat_template.jinja", "LICENSE", "LICENSE.txt", "NOTICE"}
_VOCABULARY = {"tokenizer.model", "vocab.json", "merges.txt"}  # pieces of words, some of which look like paths
_VOCABULARY_KEYS = {"model", "added_tokens"}  # likewise, of tokenizer.json
_NAMES_BASE = {ADAPTER_CONFIG: "base_model_name_or_path", BASE_FILE: "name"}  # file -> key, beside `revision`
_WHERE_IT_LAY = {"_name_or_path", "name_or_path"}  # transformers noted there what a file was once loaded from


@dataclass(frozen=True)
class Bundle:
    """A model for others.

    Args:
        is_adapter: whether it needs its base beside it.
        base: what it was trained on; None: a packaged model.
        base_name: of what it was trained on: hub id, or the packaged model's name.
        files: name in the repository -> file.
        left_out: names of what lies beside them and stays here.
    """

    is_adapter: bool
    base: HubName | None
    base_name: str
    files: dict[str, Path]
    left_out: list[str]


def trained_model(model_path: str) -> Path:
    """Return the folder to upload: an adapter's, an exported model's, or a run's best checkpoint, else its newest.

    Raises:
        UserError: there is none, or nobody trained it here.
    """
    if model_path in PACKAGED or (HubName.parse(model_path) and not Path(model_path).is_dir()):
        raise UserError(
            f"--model_path {model_path}: is no folder; name a run, a checkpoint or what utils/export_model.py wrote"
        )
    return resolve_checkpoint(model_path)


def collect(folder: Path, base_model: str | None, store: Path) -> Bundle:
    """Return what is uploaded of a model.

    In the copies that are uploaded, an adapter names its base as the hub does, and an exported model takes its
    authors' code from their repository.

    Args:
        folder: from `trained_model`.
        base_model: the base on the hub, where `folder` does not name it; None: it does.
        store: a folder for the copies that differ.

    Raises:
        UserError: a file is missing or damaged, has a path of this machine in it, or the base is not on the hub.
    """
    base, base_name = _base(folder, base_model)
    weights = _weights(folder)
    files, left_out = {}, []
    for path in sorted(folder.iterdir()):
        if path not in weights and path.name not in _JSON | _TEXT | _VOCABULARY:
            left_out += [path.name] if path.is_file() else [f"{path.name}/"]
            continue
        check_link(path, folder)
        if path in weights:
            _check_weights(path)
        files[path.name] = _for_others(path, base, base_name, store) if path.name in _JSON else path
        if path.name in _TEXT:
            _refuse_paths(path, read_bytes(path, REMEDY).decode("utf-8", "replace"))
    return Bundle(is_adapter(folder), base, base_name, files, left_out)


def _base(folder: Path, given: str | None) -> tuple[HubName | None, str]:
    """Return what a model was trained on, None for a packaged model, and its name."""
    wanted = HubName.parse(given) if given not in (None, *PACKAGED) else None
    if given not in (None, *PACKAGED) and wanted is None:
        raise UserError(f"--base_model {given}: is no model of the hub; name it as owner/name or owner/name@revision")
    if not is_adapter(folder):
        if given is None:
            raise UserError(
                f"{folder}: does not say what it was trained on; add --base_model owner/name "
                f"(or {' or '.join(PACKAGED)})"
            )
        return wanted, wanted.id if wanted else given
    config = _read_object(folder / ADAPTER_CONFIG)
    recorded = str(config.get("base_model_name_or_path") or "")
    revision = config.get("revision")
    known = HubName.parse(recorded) if recorded not in PACKAGED else None
    if recorded not in PACKAGED and known is None:
        if given is None:
            raise UserError(
                f"{folder}: was trained on {recorded or 'a model without a name'}, which others do not have; "
                "name the same model on the hub with --base_model owner/name"
            )
        return wanted, wanted.id if wanted else given
    exact = known and HubName(known.id, revision or known.revision)
    if given is not None and (wanted not in (exact, known) or (wanted is None and given != recorded)):
        raise UserError(f"--base_model {given}: {folder} was trained on {exact or recorded}; leave the flag out")
    return exact, exact.id if exact else recorded


def _read_object(path: Path) -> dict[str, Any]:
    value = read_json(path, REMEDY)
    if not isinstance(value, dict):
        raise UserError(f"{path}: is not an object. {REMEDY}")
    return value


def _weights(folder: Path) -> tuple[Path, ...]:
    weights = (folder / ADAPTER_WEIGHTS,) if is_adapter(folder) else weight_files(folder)
    for path in weights:
        if not path.is_file() or path.parent != folder:
            raise UserError(f"{path}: no such file in {folder}. {REMEDY}")
    return weights


def _check_weights(path: Path) -> None:
    """Refuse a damaged file, and one with a path in its header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as stored:
            _refuse_paths(path, stored.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path}: is damaged ({error}). {REMEDY}") from None


def _for_others(path: Path, base: HubName | None, base_name: str, store: Path) -> Path:
    """Return a JSON file as it is uploaded: itself, or a copy in `store` that differs."""
    value = _read_object(path)
    shared = _without_origin(value, base)
    if path.name in _NAMES_BASE:
        shared |= {_NAMES_BASE[path.name]: base_name, "revision": base.revision if base else None}
    checked = shared
    if path.name == "tokenizer.json":
        checked = {key: item for key, item in shared.items() if key not in _VOCABULARY_KEYS}
    _refuse_paths(path, checked)
    if shared == value:
        return path
    write_json(store / path.name, shared)
    return store / path.name


def _without_origin(value: Any, base: HubName | None) -> Any:
    """Return JSON that names neither what it was loaded from nor code that is not uploaded with it."""
    if isinstance(value, list):
        return [_without_origin(item, base) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_origin(item, base) for key, item in value.items() if key not in _WHERE_IT_LAY}
    if base and isinstance(kept.get("auto_map"), dict):
        kept["auto_map"] = {key: _code_of(item, base) for key, item in kept["auto_map"].items()}
    return kept


def _code_of(named: Any, base: HubName) -> Any:
    """Return the name of a class in the base's repository; transformers writes `owner/name--module.Class` for it."""
    if isinstance(named, list):
        return [_code_of(item, base) for item in named]
    return f"{base.id}--{named}" if isinstance(named, str) and "--" not in named else named


def _refuse_paths(path: Path, value: Any) -> None:
    if found := find_local_path(value):
        raise UserError(f"{path}: has a path of this machine in it ({found}), which others would read; remove it there")
