"""What the frozen part of a model makes of each clip, computed once and kept on disk.

Training then reads memory-mapped tensors: it neither decodes clips nor runs the vision tower. A file holds the features
of one clip seen in one way. Its name is a hash of the clip's content, of the frames that are shown and of how they are
changed; its folder's name one of the vision tower's weights and settings, of the preprocessing and of the format of
numbers. So nothing is ever found for something else, runs can share a folder, and what is no longer used can simply be
deleted.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from formcoach.command import progress
from formcoach.data.augment import timeline
from formcoach.data.dataset import ClipDataset, Pick, Sample, View, VisualInputs
from formcoach.data.file_cache import FileCache
from formcoach.data.video import VideoInfo
from formcoach.errors import UserError
from formcoach.files import replacing, why_unwritable
from formcoach.models.family import Family

VERSION = 1  # of the files
_PAUSE = 0.2  # seconds
_UNRELATED = {  # parts of a model's configuration that do not concern features
    "_name_or_path",
    "architectures",
    "dtype",
    "quantization_config",
    "text_config",
    "transformers_version",
}
_PATTERN = (5, 7, 3)  # height, width and colours of the frames on which the preprocessing is tried


@dataclass(frozen=True)
class Wanted:
    """A clip seen in one way.

    Args:
        clips: the data set.
        index: of a sample that shows it.
        view: how.
        path: the file for its features.
    """

    clips: ClipDataset
    index: int
    view: View
    path: Path


@dataclass(frozen=True)
class Filled:
    """What `fill` found and did.

    Args:
        found: clips whose features were there before, each counted once for each way in which it is seen.
        added: clips whose features were computed, by all processes.
        size: bytes of all of them.
    """

    found: int
    added: int
    size: int

    def __str__(self) -> str:
        total = self.found + self.added
        return f"{total} clips, {self.found / total:.0%} found, {self.added} computed; {self.size / 1e6:.1f} MB"


class FeatureCache:
    """The features of the clips of a run.

    Args:
        folder: of the files of this model and preprocessing.
        infos: what each clip's file says about its frames.
        contents: a hash of each clip's file.
        processor: chooses the frames.
    """

    def __init__(
        self, folder: Path, infos: Mapping[Path, VideoInfo], contents: Mapping[Path, str], processor: Any
    ) -> None:
        self.folder = folder
        self._infos = infos
        self._contents = contents
        self._processor = processor

    def path(self, sample: Sample, view: View) -> Path:
        """Return the file for a clip's features."""
        info = self._infos[sample.clip]
        shown = timeline(view.changes, info.frames)
        frames = [shown[index] for index in self._processor.select_frames(len(shown), info.fps)]
        parts = [self._contents[sample.clip], frames, sorted(view.changes.items()), view.seeds]
        name = hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def read(self, sample: Sample, view: View) -> VisualInputs:
        """Return a clip's features, mapped into memory.

        Raises:
            UserError: they are gone or damaged.
        """
        path = self.path(sample, view)
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            return VisualInputs(tensors, int(about["frames"]), float(about["duration"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: the features of {sample.clip} cannot be read ({error}). Remove the file and start again"
            ) from None

    def write(self, path: Path, visual: VisualInputs) -> None:
        """Keep a clip's features; the file appears when it is complete."""
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"frames": str(visual.frames), "duration": repr(visual.duration)}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in visual.tensors.items()}
        with replacing(path) as temporary:
            save_file(tensors, temporary, about)

    def is_there(self, path: Path) -> bool:
        """Tell whether a file is complete; one that is damaged is computed again."""
        try:
            with safe_open(path, framework="pt") as file:
                return {"frames", "duration"} <= set(file.metadata() or ())
        except (OSError, SafetensorError):
            return False


def open_cache(
    folder: Path,
    model: Any,
    family: Family,
    processor: Any,
    infos: Mapping[Path, VideoInfo],
    *,
    autocast: str | None,
    threads: int,
) -> FeatureCache:
    """Return the cache for a model.

    Args:
        folder: as the user names it.
        model: the base model.
        family: its family.
        processor: the model's.
        infos: what the files of the clips say.
        autocast: torch's name for the format that training computes in beside the weights' own; None: theirs.
        threads: clips read side by side.

    Raises:
        UserError: the folder cannot be written.
    """
    if why := why_unwritable(folder):
        raise UserError(f"--feature-cache {folder}: cannot be written ({why}); name another folder")
    key = _model_key(model, family, processor, autocast)
    return FeatureCache(folder / key, infos, _contents(folder, list(infos), threads), processor)


def fill(
    cache: FeatureCache,
    datasets: Iterable[tuple[ClipDataset, int]],
    model: Any,
    *,
    autocast: str | None,
    workers: int,
    rank: int = 0,
    processes: int = 1,
) -> Filled:
    """Compute this process's share of the features that are missing.

    Args:
        cache: where they go.
        datasets: each with the number of epochs in which its samples are seen in different ways.
        model: the base model; its `frozen_features` makes the features.
        autocast: see `open_cache`.
        workers: processes that read clips ahead.
        rank: this process's number.
        processes: how many share the work.

    Raises:
        UserError: a clip cannot be read.
    """
    wanted = _wanted(cache, datasets)
    missing = [one for one in wanted if not cache.is_there(one.path)]
    mine = [one for one in missing if int(one.path.stem, 16) % processes == rank]
    _compute(cache, mine, model, autocast, workers)
    _wait_for([one.path for one in missing])
    size = sum(one.path.stat().st_size for one in wanted)
    return Filled(len(wanted) - len(missing), len(missing), size)


def _wait_for(paths: Sequence[Path]) -> None:
    """Wait for what other processes compute; if one of them stops, all are ended."""
    for path in paths:
        while not path.exists():
            time.sleep(_PAUSE)


def _wanted(cache: FeatureCache, datasets: Iterable[tuple[ClipDataset, int]]) -> list[Wanted]:
    """Return each clip once in each way in which it is seen."""
    seen: dict[Path, Wanted] = {}
    for clips, epochs in datasets:
        for index, sample in enumerate(clips.samples):
            for epoch in range(epochs):
                view = clips.view(Pick(index, epoch))
                path = cache.path(sample, view)
                seen.setdefault(path, Wanted(clips, index, view, path))
    return list(seen.values())


def _compute(cache: FeatureCache, missing: Sequence[Wanted], model: Any, autocast: str | None, workers: int) -> None:
    weight = next(model.parameters())
    loader = DataLoader(_Pixels(missing), batch_size=None, num_workers=workers, pin_memory=weight.is_cuda)
    was_training = model.training
    model.eval()
    clips_read = progress(loader, len(missing), "clips seen by the vision tower")
    with torch.no_grad(), _context(weight.device.type, autocast), _cores_left(workers):
        for number, tensors, frames, duration in clips_read:
            there = {name: tensor.to(weight.device, non_blocking=True) for name, tensor in tensors.items()}
            features = model.frozen_features(**there)
            if number == 0:
                _check_space(cache.folder, features, len(missing))
            cache.write(missing[number].path, VisualInputs(features, frames, duration))
    model.train(was_training)


@contextmanager
def _cores_left(workers: int) -> Iterator[None]:
    """Within the context, let torch compute on the cores that the reading processes leave.

    Threads that compute together wait for each other whenever a process that reads takes the core of one: a small
    tower took five times as long on a CPU.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(threads - workers, 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_space(folder: Path, features: Mapping[str, Tensor], count: int) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        UserError: says how much is needed.
    """
    needed = count * sum(tensor.nbytes for tensor in features.values())
    parent = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(parent).free
    if needed > free:
        raise UserError(
            f"--feature-cache {parent}: the features of {count} clips take about {needed / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free; name a folder on another disk, or leave it out"
        )


class _Pixels(Dataset):
    """The visual inputs of the clips whose features are missing, for reading ahead."""

    def __init__(self, missing: Sequence[Wanted]) -> None:
        self._missing = missing

    def __len__(self) -> int:
        return len(self._missing)

    def __getitem__(self, number: int) -> tuple[int, dict[str, Tensor], int, float]:
        one = self._missing[number]
        visual = one.clips.read(one.clips.samples[one.index], one.view)
        return number, dict(visual.tensors), visual.frames, visual.duration


def _context(device: str, autocast: str | None) -> AbstractContextManager[object]:
    return nullcontext() if autocast is None else torch.autocast(device, getattr(torch, autocast))


def _model_key(model: Any, family: Family, processor: Any, autocast: str | None) -> str:
    """Return a hash of all that decides what the vision tower makes of frames."""
    settings = json.dumps(_settings(model.config.to_dict()), sort_keys=True, default=str)
    digest = hashlib.sha256(f"{VERSION} {family.name} {autocast} {settings}".encode())
    shape = (family.frame_group if family.free_frames else processor.max_frames, *_PATTERN)
    frames = (np.arange(math.prod(shape)) * 37 % 256).astype(np.uint8).reshape(shape)
    for name, tensor in processor.visual_inputs(frames).items():
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    for name, tensor in model.state_dict(keep_vars=True).items():
        if f".{family.vision}." in f".{name}":
            digest.update(f"{name} {tensor.dtype}".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()[:20]


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration says beside the weights, such as which of the vision tower's layers is used."""
    return {
        name: _settings(value) if isinstance(value, Mapping) else value
        for name, value in config.items()
        if name not in _UNRELATED
    }


def _bytes(tensor: Tensor) -> memoryview:
    return memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


def _contents(folder: Path, clips: Sequence[Path], threads: int) -> dict[Path, str]:
    """Return a hash of each clip's file; kept until the file changes."""
    known: FileCache[str] = FileCache(None, "contents", str, VERSION, folder)
    keys = {clip: str(clip.absolute()) for clip in clips}
    found = {clip: content for clip in clips if (content := known.get(keys[clip])) is not None}
    new = [clip for clip in clips if clip not in found]
    with ThreadPoolExecutor(threads) as pool:
        for clip, content in zip(new, progress(pool.map(_content, new), len(new), "clips hashed"), strict=True):
            found[clip] = content
            known.put(keys[clip], content)
    known.save()
    return found


def _content(clip: Path) -> str:
    try:
        with clip.open("rb") as file:
            return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).hexdigest()
    except OSError as error:
        raise UserError(f"{clip}: cannot be read ({error.strerror})") from None
