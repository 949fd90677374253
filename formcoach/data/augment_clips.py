"""Derived clips on disk: written whole, recorded in `manifest.json` before they appear, and removed again.

At any moment every clip below `augmented/` is recorded with its source, so that an interrupted run leaves no clip that
looks like an original. A clip that is recorded and not there is made by the next run.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path

import msgspec
import numpy as np

from formcoach.data.annotations import ManifestEntry, read_manifest
from formcoach.data.augment import Changes, timeline
from formcoach.data.augment_picture import PictureChange
from formcoach.data.augment_plan import FOLDER, DerivedClip
from formcoach.data.qevd import MANIFEST
from formcoach.data.video import DECODE_SECONDS, iterate_frames, probe
from formcoach.errors import ClipError, UserError
from formcoach.files import inside, only_one, read_json, write_json

UNFINISHED = ".unfinished.mp4"  # ends the name of a clip that is not recorded yet; the name starts with a dot
SAVE_SECONDS = 10.0  # between two versions of the manifest, at least
SAVE_SHARE = 20  # and this many times what writing one takes
GROWTH, NOISE_GROWTH = 3.0, 25.0  # about how many times the bytes of its source a clip has, without and with noise
FRAME_SECONDS = 1.0  # that changing and encoding a frame may take; decoding waits meanwhile
# x264's macroblock tree reads memory that nobody wrote: with it, equal frames do not always give equal bytes.
RECIPE = {"preset": "veryfast", "crf": "20", "x264-params": "mbtree=0"}


@dataclass(frozen=True)
class Made:
    """What came of a clip.

    Args:
        clip: the derived clip.
        error: why its source cannot be read, else None.
    """

    clip: DerivedClip
    error: ClipError | None


def still_to_make(dataset_dir: Path, derived: Sequence[DerivedClip]) -> list[DerivedClip]:
    """Return the clips that are not there yet.

    Raises:
        UserError: one is there, but made in another way or recorded nowhere; nothing is replaced.
    """
    manifest = _manifest(dataset_dir)
    missing = []
    for clip in derived:
        if not inside(dataset_dir, clip.path).exists():
            missing.append(clip)
            continue
        recorded = manifest.get(clip.path)
        if recorded is None:
            raise UserError(f"{dataset_dir / clip.path}: is in the way, and {MANIFEST} does not know it; move it away")
        if (recorded.source, recorded.augmentations) != (clip.entry.source, clip.entry.augmentations):
            raise UserError(
                f"{dataset_dir / clip.path}: was made with another seed or other --augmentations; use those again, "
                "or delete all derived clips first: python utils/augment_videos.py --remove"
            )
    return missing


def check_disk(dataset_dir: Path, missing: Sequence[DerivedClip]) -> float:
    """Return about how many bytes the clips will take.

    Raises:
        UserError: there is less space than that.
    """
    sizes: dict[str | None, int] = {}
    for source in {clip.entry.source for clip in missing}:
        path = dataset_dir / str(source)
        sizes[source] = path.stat().st_size if path.exists() else 0
    needed = sum(sizes[clip.entry.source] * _growth(clip) for clip in missing)
    free = shutil.disk_usage(dataset_dir).free
    if needed > free:
        raise UserError(
            f"{len(missing)} derived clips take about {needed / 1e9:.1f} GB, and {dataset_dir} has {free / 1e9:.1f} GB "
            "free; free some or ask for fewer"
        )
    return needed


def _growth(clip: DerivedClip) -> float:
    return NOISE_GROWTH if "salt_and_pepper" in clip.entry.augmentations else GROWTH


def make_clips(dataset_dir: Path, missing: Sequence[DerivedClip], workers: int) -> Iterator[Made]:
    """Make the clips, and yield each when it is done.

    Args:
        dataset_dir: the dataset folder.
        missing: from `still_to_make`.
        workers: clips made side by side.

    Raises:
        UserError: another process is at it.
    """
    with only_one(dataset_dir, "making derived clips in it"):
        _remove_unfinished(dataset_dir)
        ready: list[DerivedClip] = []
        due = time.monotonic() + SAVE_SECONDS
        try:
            with closing(_in_threads(lambda clip: _make(dataset_dir, clip), missing, workers)) as results:
                for made in results:
                    if made.error is None:
                        ready.append(made.clip)
                    began = time.monotonic()
                    if began > due:
                        _record(dataset_dir, ready)
                        ready, ended = [], time.monotonic()
                        due = ended + max(SAVE_SECONDS, SAVE_SHARE * (ended - began))
                    yield made
        finally:
            try:
                _record(dataset_dir, ready)
            finally:
                _remove_unfinished(dataset_dir)


def derived_clips(dataset_dir: Path) -> list[str]:
    """Return the clips below `augmented/` that the manifest records as derived.

    Raises:
        UserError: the folder is missing, or the manifest is malformed.
    """
    if not dataset_dir.is_dir():
        raise UserError(f"--dataset-dir {dataset_dir}: no such folder")
    manifest = _manifest(dataset_dir)
    return [path for path, entry in manifest.items() if path.startswith(f"{FOLDER}/") and entry.source is not None]


def remove_derived(dataset_dir: Path) -> int:
    """Delete `derived_clips` and their records; return how many.

    Raises:
        UserError: as `derived_clips`, or another process makes clips.
    """
    derived = derived_clips(dataset_dir)
    with only_one(dataset_dir, "making derived clips in it"):
        for path in derived:  # the files first: a record without a file is harmless
            inside(dataset_dir, path).unlink(missing_ok=True)
        _remove_unfinished(dataset_dir)
        if derived:
            raw = _raw_manifest(dataset_dir)
            for path in derived:
                raw.pop(path, None)
            write_json(dataset_dir / MANIFEST, raw)
        _remove_empty(dataset_dir / FOLDER)
    return len(derived)


def _make(dataset_dir: Path, clip: DerivedClip) -> Made:
    """Write a clip under its unfinished name."""
    target = _unfinished(inside(dataset_dir, clip.path))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_changed(dataset_dir / str(clip.entry.source), target, clip.entry.augmentations, clip.seed)
    except ClipError as error:
        target.unlink(missing_ok=True)
        return Made(clip, error)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return Made(clip, None)


def write_changed(source: Path, target: Path, changes: Changes, seed: Sequence[int]) -> None:
    """Write a changed clip: H.264, the source's frame rate and size (even numbers of pixels), without sound.

    Frame by frame: memory does not grow with the clip.

    Args:
        source: the clip to change.
        target: an mp4 file.
        changes: the record.
        seed: decides the noise.

    Raises:
        ClipError: the source cannot be read.
    """
    import av

    info = probe(source)
    rate = Fraction(info.fps).limit_denominator(1001)
    frames = changed_frames(source, changes, seed)
    first = next(frames)
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options=RECIPE)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        for picture in chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def changed_frames(source: Path, changes: Changes, seed: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield the frames of a clip as a record changes them: (height, width, 3) uint8 RGB, both sides even.

    Raises:
        ClipError: the source cannot be read.
    """
    shown = timeline(changes, probe(source).frames)
    generator = np.random.default_rng((*seed, 1))
    change, position = None, 0
    patience = DECODE_SECONDS + FRAME_SECONDS * len(shown)
    for number, frame in iterate_frames(source, lambda frames, fps: shown, patience):
        picture = frame.to_ndarray(format="rgb24")
        picture = np.rot90(picture, frame.rotation // 90 % 4)
        height, width = (side - side % 2 for side in picture.shape[:2])  # 4:2:0 has no odd sides
        change = change or PictureChange(changes, width, height)
        while position < len(shown) and shown[position] == number:
            yield np.ascontiguousarray(change(np.ascontiguousarray(picture[:height, :width]), generator))
            position += 1
    if position < len(shown):
        raise ClipError(source, f"is damaged: frame {shown[position]} does not come in its order")


def _in_threads(work: Callable[[DerivedClip], Made], clips: Sequence[DerivedClip], workers: int) -> Iterator[Made]:
    """Yield the results as they come; a few clips are under way at a time, and none begins after an error."""
    waiting = iter(clips)
    pool = ThreadPoolExecutor(workers)  # decoder, OpenCV and encoder work without holding the interpreter
    try:
        running: set[Future[Made]] = {pool.submit(work, clip) for clip in islice(waiting, 2 * workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
                running |= {pool.submit(work, clip) for clip in islice(waiting, 1)}
    finally:
        pool.shutdown(cancel_futures=True)


def _record(dataset_dir: Path, ready: Sequence[DerivedClip]) -> None:
    """Write the clips into the manifest, then give them their names."""
    if not ready:
        return
    raw = _raw_manifest(dataset_dir)
    raw |= {clip.path: msgspec.to_builtins(clip.entry) for clip in ready}
    write_json(dataset_dir / MANIFEST, raw)
    for clip in ready:
        target = inside(dataset_dir, clip.path)
        _unfinished(target).replace(target)


def _unfinished(target: Path) -> Path:
    return target.with_name(f".{target.name}{UNFINISHED}")


def _remove_unfinished(dataset_dir: Path) -> None:
    for path in (dataset_dir / FOLDER).rglob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def _remove_empty(folder: Path) -> None:
    """Remove a folder and those in it, as far as they are empty."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for child in folder.iterdir():
        _remove_empty(child)
    if not any(folder.iterdir()):
        folder.rmdir()


def _manifest(dataset_dir: Path) -> dict[str, ManifestEntry]:
    file = dataset_dir / MANIFEST
    return read_manifest(file) if file.exists() else {}


def _raw_manifest(dataset_dir: Path) -> dict[str, object]:
    """Return the manifest as it is written now, so that nothing that others write there is lost."""
    file = dataset_dir / MANIFEST
    return read_json(file, "It maps clips to classes.") if file.exists() else {}
