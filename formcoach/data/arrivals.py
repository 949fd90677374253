"""What any way of getting clips does to a dataset folder: the check of the disk and `manifest.json`."""

import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from formcoach.data.annotations import FEEDBACK, LONG_RANGE, QUESTIONS, read_manifest
from formcoach.data.qevd import LABEL_FILES, MANIFEST
from formcoach.errors import UserError
from formcoach.files import read_json, write_json

LOADING = "loading clips into it"  # for `only_one`
COPIED = (*LABEL_FILES, FEEDBACK, QUESTIONS)  # label files that come along
SESSIONS_NOTICE = f"{LONG_RANGE}: feedback on sessions of minutes, which are not trained on yet; left where it is"


def free_space(folder: Path) -> int:
    """Return how many bytes are free where a folder is or will be."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_space(folder: Path, needed: int) -> None:
    """Raise a `UserError` if `needed` bytes do not fit where `folder` is or will be."""
    free = free_space(folder)
    if needed > free:
        raise UserError(
            f"{folder}: {gigabytes(needed)} are needed and {gigabytes(free)} are free; free some, choose fewer clips "
            "with --videos-per-class, or another --dataset-dir"
        )


def blocked_folders(dataset_dir: Path, files: Iterable[str]) -> list[str]:
    """Return the folders that files need and that cannot be made because there is a file of that name."""
    folders = {path.rpartition("/")[0] for path in files}
    folders |= {str(above) for folder in folders for above in PurePosixPath(folder).parents}
    found = (folder for folder in folders if (dataset_dir / folder).exists() and not (dataset_dir / folder).is_dir())
    return sorted(found)


def in_the_way(dataset_dir: Path, paths: Sequence[str]) -> UserError:
    """Return the error for files that must not be replaced."""
    more = f", and so it is with {len(paths) - 1} more" if len(paths) > 1 else ""
    return UserError(
        f"{dataset_dir / paths[0]}: something else is there already{more}; move it away, choose another --dataset-dir, "
        "or replace files with --overwrite"
    )


def gigabytes(size: int) -> str:
    """Return a size as people read it."""
    if size < 10**6:
        return f"{size / 1e3:.1f} kB"
    return f"{size / 1e6:.1f} MB" if size < 10**9 else f"{size / 1e9:.1f} GB"


def check_target(dataset_dir: Path) -> None:
    """Raise a `UserError` if the dataset folder is none, or has a `manifest.json` that cannot be added to."""
    if dataset_dir.exists() and not dataset_dir.is_dir():
        raise UserError(f"{dataset_dir}: is a file; name a folder with --dataset-dir")
    path = dataset_dir / MANIFEST
    if path.exists():
        try:
            read_manifest(path)
        except UserError as error:
            raise UserError(f"{error} Repair it: python utils/fix_manifest_format.py {path} --write") from None


def add_to_manifest(
    dataset_dir: Path, classes: Mapping[str, str], there: Collection[str], new: Collection[str]
) -> None:
    """Write into `manifest.json` the class of each clip that is there.

    Entries of other clips stay, and so do those of clips that were there before: they may have been corrected.

    Args:
        dataset_dir: the dataset folder.
        classes: path -> class of all clips that were asked for.
        there: those of them that are in the folder.
        new: those of them that have come just now.
    """
    path = dataset_dir / MANIFEST
    old = read_json(path, "") if path.exists() else {}
    manifest = {}
    for written, entry in old.items():
        clip = written if written in classes else _plain(dataset_dir, written)
        if clip not in classes:
            manifest[written] = entry
        elif clip in there and clip not in new:
            manifest[clip] = entry
    manifest = {clip: name for clip, name in classes.items() if clip in there} | manifest
    if manifest != old:
        write_json(path, dict(sorted(manifest.items())))


def _plain(dataset_dir: Path, written: str) -> str:
    parts = PurePosixPath(written.replace("\\", "/")).parts
    return "/".join(parts[1:] if len(parts) > 1 and parts[0] in ("dataset", dataset_dir.name) else parts)
