"""A trained model for others: its adapter alone, or a whole checkpoint with the adapter merged in.

A checkpoint is written shard by shard, in its authors' layout or in this project's; of its weights, one shard is in
memory at a time.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from formcoach.command import progress
from formcoach.errors import UserError
from formcoach.files import replacing_folder, write_json
from formcoach.models.adapters import check_base, load_adapter
from formcoach.models.family import Family
from formcoach.models.layout import Layout
from formcoach.models.location import (
    ADAPTER_WEIGHTS,
    RECIPE_FILE,
    WEIGHT_SUFFIXES,
    Location,
    check_link,
    fetch_other_files,
)
from formcoach.models.merging import Merger
from formcoach.models.weights import INDEX


class Exported(msgspec.Struct, frozen=True):
    """What `export` wrote.

    Args:
        files: how many files.
        bytes: their size together.
        merged: tensors of the base that the adapter changed.
        notes: what the user should know about it.
    """

    files: int
    bytes: int
    merged: int = 0
    notes: tuple[str, ...] = ()


def export(family: Family, location: Location, kind: str, output: Path) -> Exported:
    """Write a model to a new folder.

    Args:
        family: the model's.
        location: of the model, with or without an adapter.
        kind: one of `formcoach.models.EXPORTS`. ``adapter``: the PEFT adapter, the connector and the processor.
            ``original``: the base's own files, tensor names and configuration, with the adapter merged in; tensors
            that the model does not use are kept. ``native``: this project's names and configuration, which load
            without conversion.
        output: must not exist, or be empty.

    Raises:
        UserError: if the adapter belongs to another base, the base has no such layout, something is damaged, or
            `output` cannot be written or has too little space.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: exists already; name another folder or remove it")
    check_base(location)
    layout = family.checkpoints().open(location.base)
    if kind == "adapter":
        return _export_adapter(location, layout, output)
    if kind == "original" and not layout.original:
        raise UserError(
            f"{location.name}: is in this project's layout, so the files of its original are not there; "
            "use --format native, or name the original with --base_model"
        )
    merger, processor, notes = None, layout.processor, []
    if location.adapter is not None:
        merger = Merger(family.checkpoints().open(location.base).model, location.adapter)
        processor = processor.of_adapter(location.adapter)
        notes = _frames_note(layout.processor, processor) if kind == "original" else []
    _check_space(output, layout)
    if kind == "original" and (base := location.on_hub):
        fetch_other_files(base, location.base)
    with replacing_folder(output) as folder:
        if kind == "original":
            for path in _other_files(layout.folder):
                target = folder / path.relative_to(layout.folder)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        else:
            _write_native_files(layout, processor, folder)
        index, left_out = _write_shards(layout, merger, kind == "native", folder)
        if layout.borrowed or (kind == "native" and len(layout.shards) > 1):
            total = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
            write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": index})
        written = _written(folder)
    notes += [f"included the {part.what} of {part.source}" for part in layout.borrowed]
    if left_out:
        notes.append(f"left out {left_out} tensors that the model does not use")
    return msgspec.structs.replace(written, merged=len(merger.names) if merger else 0, notes=tuple(notes))


def _export_adapter(location: Location, layout: Layout, output: Path) -> Exported:
    """Copy an adapter, once it is seen to fit its base."""
    if location.adapter is None:
        raise UserError(f"{location.name}: is a base model without an adapter; use --format original or native")
    load_adapter(layout.model, location.adapter)
    layout.processor.of_adapter(location.adapter)
    with replacing_folder(output) as folder:
        for path in _adapter_files(location.adapter):
            shutil.copyfile(path, folder / path.name)
        return _written(folder)


def _frames_note(base: Any, trained: Any) -> list[str]:
    """Tell of the frames that the adapter's processor takes, if the base's takes others."""
    if (trained.min_frames, trained.max_frames) == (base.min_frames, base.max_frames):
        return []
    return [
        f"trained with {trained.min_frames} to {trained.max_frames} frames a clip, which the original layout has no "
        "place for: give the model as many"
    ]


def _write_shards(layout: Layout, merger: Merger | None, native: bool, folder: Path) -> tuple[dict[str, str], int]:
    """Write the weights; return which tensor went to which file, and how many were left out.

    What the checkpoint took from elsewhere comes last, in files of its own and with the names that its authors' code
    knows, so that the export needs nothing beside it.
    """
    index: dict[str, str] = {}
    left_out = 0
    names = _shard_names(layout)
    for shard, name in progress(zip(layout.shards, names, strict=False), len(layout.shards), "shards"):
        with safe_open(shard, framework="pt") as stored:
            metadata = stored.metadata()
            tensors, changed, unused = _rewritten(layout, merger, native, stored.keys(), stored.get_tensor)
            left_out += unused
            if changed or native:
                save_file(tensors, folder / name, metadata)
            else:
                shutil.copyfile(shard, folder / name)
        index |= dict.fromkeys(tensors, name)
    for part, name in zip(layout.borrowed, names[len(layout.shards) :], strict=True):
        tensors, _, _ = _rewritten(layout, merger, native, part.tensors, part.tensors.__getitem__)
        save_file({one: tensor.contiguous() for one, tensor in tensors.items()}, folder / name, {"format": "pt"})
        index |= dict.fromkeys(tensors, name)
    return index, left_out


def _shard_names(layout: Layout) -> list[str]:
    """Return the names of the files to write: the checkpoint's own, or numbered ones where others are added."""
    count = len(layout.shards) + len(layout.borrowed)
    if not layout.borrowed:
        return [shard.name for shard in layout.shards]
    return [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]


def _rewritten(
    layout: Layout, merger: Merger | None, native: bool, names: Iterable[str], read: Callable[[str], Tensor]
) -> tuple[dict[str, Tensor], bool, int]:
    """Return the tensors to write in place of a file's, whether any of them is another, and how many are left out.

    Args:
        layout: of the checkpoint.
        merger: None: there is no adapter.
        native: whether they get our names.
        names: of the file's tensors.
        read: returns one of them.
    """
    tensors: dict[str, Tensor] = {}
    changed, left_out = False, 0
    for name in names:
        tensor, counterpart = read(name), layout.counterparts.get(name)
        if counterpart is None:
            left_out += native
            tensors |= {} if native else {name: tensor}
            continue
        merges = merger is not None and not merger.names.isdisjoint(counterpart.parts)
        if not (native or merges):
            tensors[name] = tensor
            continue
        ours = counterpart.to_ours(tensor, layout.model.config)
        if merges:
            ours = {part: merger.merged(part, value) for part, value in ours.items()}
            changed = True
        tensors |= ours if native else {name: counterpart.to_original(ours, layout.model.config)}
    return tensors, changed, left_out


def _write_native_files(layout: Layout, processor: Any, folder: Path) -> None:
    """Write configuration and processor, and the recipe if there is one."""
    layout.model.config.architectures = [type(layout.model).__name__]
    layout.model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
    if (layout.folder / RECIPE_FILE).is_file():
        shutil.copyfile(layout.folder / RECIPE_FILE, folder / RECIPE_FILE)


def _adapter_files(adapter: Path) -> Iterator[Path]:
    """Yield the files of an adapter that are needed to use it; what resuming needs is not."""
    for path in sorted(adapter.iterdir()):
        if path.is_file() and (path.suffix in {".json", ".jinja", ".model"} or path.name == ADAPTER_WEIGHTS):
            yield path


def _other_files(folder: Path) -> Iterator[Path]:
    """Yield all files of a checkpoint but its weights.

    Raises:
        UserError: see `formcoach.models.location.check_link`.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in WEIGHT_SUFFIXES:
            check_link(path, folder)
            yield path


def _check_space(output: Path, layout: Layout) -> None:
    """Refuse to start what does not fit on the disk."""
    needed = sum(shard.stat().st_size for shard in layout.shards) + sum(part.bytes for part in layout.borrowed)
    parent = next(folder for folder in output.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(parent).free
    if free < needed * 1.01:
        raise UserError(
            f"{output}: needs {needed / 1e9:.1f} GB, but {parent} has {free / 1e9:.1f} GB free; free some or "
            "name a folder on another disk"
        )


def _written(folder: Path) -> Exported:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Exported(len(sizes), sum(sizes))
