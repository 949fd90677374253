"""Whether training can start here: packages, GPU, data, every clip, scripts and disk. Loads no torch."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formcoach.errors import UserError
from formcoach.files import inside

if TYPE_CHECKING:
    from formcoach.models.family import Family

PASS, NOTICE, FAIL = "✓", "!", "✗"
LABEL_FILES = ("ground_truth.json", "fine_grained_labels_with_worker_ids.json", "fine_grained_labels.json")
SPLITS = ("train", "val", "test")
SCRIPTS = (
    "setup_env.sh",
    "initialize_dataset.sh",
    "verify_qved_setup.sh",
    "finetune_qved.sh",
    "finetune_mobilevideogpt.sh",
    "run_inference.sh",
    "quickstart_finetune.sh",
    "zero2.json",
)
PREPARE = "run: bash scripts/initialize_dataset.sh"
SET_UP = "run: bash scripts/setup_env.sh"
MIN_PYTHON = (3, 11)
_TINY_DISK_GB = 1
_REPORTED = 0.95  # cards report some GiB less than the GB of their name
_NAMED = 3  # bad clips named in full; of the others the number


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: a mark (`PASS`, `NOTICE`, `FAIL`), what it is, what was found, and a remedy."""

    mark: str
    what: str
    found: str

    def __str__(self) -> str:
        return f"{self.mark} {self.what}: {self.found}"


@dataclass(frozen=True)
class Gpu:
    """A CUDA GPU as its driver names it; memory in GiB."""

    name: str
    memory: float


@dataclass(frozen=True)
class Setup:
    """What is to be checked.

    Args:
        project: the repository's folder.
        dataset: the folder of labels and clips.
        splits: the folder of `qevd_fit_300k_*.jsonl`.
        family: of the model.
        model: what shall be trained; None: the default.
        work_dir: where runs are written.
    """

    project: Path
    dataset: Path
    splits: Path
    family: "Family"
    model: str | None
    work_dir: Path


def checks(setup: Setup) -> Iterator[Check]:
    """Look at everything in turn."""
    gpus = find_gpus()
    yield check_python()
    yield check_packages()
    yield check_gpu(setup.family, gpus)
    yield check_compiler(gpus)
    yield check_model(setup.family, setup.model, gpus)
    yield from check_data(setup)
    yield check_scripts(setup.project / "scripts")
    yield check_disk(setup.work_dir, setup.family, gpus)


def check_python() -> Check:
    """Check the interpreter's version."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < MIN_PYTHON:
        return Check(FAIL, "Python", f"{version} is too old; install 3.11 or newer, then {SET_UP}")
    return Check(PASS, "Python", version)


def check_packages(package: str = "formcoach") -> Check:
    """Compare the installed versions with what the package asks for."""
    try:
        from packaging.requirements import Requirement

        wanted = [Requirement(line) for line in importlib.metadata.requires(package) or []]
    except (ModuleNotFoundError, importlib.metadata.PackageNotFoundError):
        return Check(FAIL, "packages", f"{package} is not installed in {sys.prefix}; {SET_UP}")
    needed = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = [problem for one in needed for problem in _package_problem(one.name, one.specifier)]
    if wrong:
        return Check(FAIL, "packages", f"{', '.join(wrong)}; {SET_UP}")
    return Check(PASS, "packages", f"{len(needed)} as needed, torch {_version('torch')}")


def _package_problem(name: str, specifier: Any) -> list[str]:
    version = _version(name)
    if version is None:
        return [f"{name} is missing"]
    return [] if specifier.contains(version, prereleases=True) else [f"{name} {version} is not {specifier}"]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_gpus() -> list[Gpu]:
    """Ask the NVIDIA driver; no driver, no GPU."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.rsplit(",", 1) for line in answer.splitlines() if "," in line]
    return [Gpu(name.strip(), float(memory) / 1024) for name, memory in rows if memory.strip().isdigit()]


def check_gpu(family: "Family", gpus: Sequence[Gpu]) -> Check:
    """Say which GPU there is and what its memory is enough for; none is a notice."""
    if not gpus:
        return Check(
            NOTICE,
            "GPU",
            f"none: without --model, `{family.tiny}` is trained on the CPU, which takes minutes; {family.large} needs "
            f"a GPU of {family.gpu_gb} GB",
        )
    gpu = gpus[0]
    found = f"{gpu.name}, {gpu.memory:.0f} GiB" + (f" (and {len(gpus) - 1} more)" if len(gpus) > 1 else "")
    if (_version("torch") or "").endswith("+cpu"):
        return Check(NOTICE, "GPU", f"{found}, but torch is built for the CPU and will not use it; {SET_UP}")
    if gpu.memory < _REPORTED * family.gpu_gb:
        needs = f"{family.large} needs {family.gpu_gb} GB"
        return Check(NOTICE, "GPU", f"{found}: {needs}; train it with --quantization nf4")
    return Check(PASS, "GPU", found)


def check_compiler(gpus: Sequence[Gpu]) -> Check:
    """Look for the C++ compiler that DeepSpeed builds its CPU communication with."""
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if compiler:
        return Check(PASS, "C++ compiler", shutil.which(compiler) or compiler)
    remedy = "install g++, or train with --deepspeed none"
    return Check(NOTICE if gpus else FAIL, "C++ compiler", f"none, and DeepSpeed on the CPU needs one; {remedy}")


def check_model(family: "Family", model: str | None, gpus: Sequence[Gpu]) -> Check:
    """Say which model would be trained, and whether a local one is there."""
    from formcoach.models.location import PACKAGED

    if model is None:
        model = family.large if gpus else family.tiny
    if model in PACKAGED:
        return Check(PASS, "model", f"{model}, which comes with the package")
    path = Path(model).expanduser()
    if path.is_dir():
        complete = (path / "config.json").is_file() or (path / "adapter_config.json").is_file()
        return Check(PASS, "model", model) if complete else Check(FAIL, "model", f"{model} has no config.json")
    if path.is_absolute() or model.startswith(".") or model.partition("@")[0].count("/") != 1:
        return Check(
            FAIL, "model", f"{model}: no such folder; give a folder, a hub id (owner/name) or {' or '.join(PACKAGED)}"
        )
    return Check(PASS, "model", f"{model}, from the hub (downloaded at its first use)")


def check_data(setup: Setup) -> Iterator[Check]:
    """Check label file, splits and clips; what needs a broken part is left out."""
    missing = [module for module in ("msgspec", "av", "numpy") if importlib.util.find_spec(module) is None]
    if missing:
        yield Check(FAIL, "data", f"cannot be looked at without {', '.join(missing)}; {SET_UP}")
        return
    from formcoach.data.annotations import read_conversations

    yield check_labels(setup)
    splits = {}
    try:
        for name in SPLITS:
            path = split_file(setup, name)
            if path.exists() or name == "train":
                splits[name] = read_conversations(path)
    except UserError as error:
        yield Check(FAIL, "splits", str(error))
        return
    yield check_splits(splits, split_file(setup, "train"))
    if setup.family.runs.conversations is None:
        yield check_registry(setup.splits.parent / "diy_ft_data.json")
    yield check_clips(setup.dataset, sorted({record.video for records in splits.values() for record in records}))


def split_file(setup: Setup, name: str) -> Path:
    """Return the file of a split, in the form that the family trains on."""
    conversations = setup.family.runs.conversations
    if conversations is not None:
        return setup.dataset / conversations.format(split=name)
    return setup.splits / f"qevd_fit_300k_{name}.jsonl"


def check_labels(setup: Setup) -> Check:
    """Check the label file that the splits are made from; once they are made, its absence is a notice."""
    from formcoach.data.annotations import read_labels

    dataset = setup.dataset
    path = next((dataset / name for name in LABEL_FILES if (dataset / name).is_file()), None)
    if path is None:
        mark = NOTICE if split_file(setup, "train").is_file() else FAIL
        names = f"{LABEL_FILES[0]} and no {LABEL_FILES[2]}"
        return Check(mark, "labels", f"{dataset} has no {names}; put one there (dataset/README.md shows the form)")
    try:
        return Check(PASS, "labels", f"{len(read_labels(path))} clips in {path}")
    except UserError as error:
        return Check(FAIL, "labels", str(error))


def check_splits(splits: dict[str, list], train: Path) -> Check:
    """Check that there is something to train on, and that no clip and nobody is in two splits."""
    counts = ", ".join(f"{len({record.video for record in records})} {name}" for name, records in splits.items())
    if not splits["train"]:
        return Check(FAIL, "splits", f"{train} holds no clips; {PREPARE}")
    for one, other in combinations(splits, 2):
        clips = {record.video for record in splits[one]} & {record.video for record in splits[other]}
        people = {record.person for record in splits[one]} & {record.person for record in splits[other]} - {None}
        if clips or people:
            shared = f"clip {min(clips)}" if clips else f"person {min(people)}"
            return Check(NOTICE, "splits", f"{counts}; {shared} is in both {one} and {other}: scores will be too good")
    missing = [name for name in SPLITS if not splits.get(name)]
    if missing:
        return Check(NOTICE, "splits", f"{counts}; no {' and no '.join(missing)}: nothing to measure on; {PREPARE}")
    return Check(PASS, "splits", f"{counts} clips in {train.parent}")


def check_registry(path: Path) -> Check:
    """Check the list of data sets that training reads."""
    from formcoach.data.sources import read_sources

    try:
        sources = read_sources(path)
    except UserError as error:
        return Check(FAIL, "data sets", str(error))
    missing = [file for source in sources for file in (source.annotation, source.root) if not file.exists()]
    if missing:
        return Check(FAIL, "data sets", f"{path} names {missing[0]}, which does not exist; {PREPARE}")
    return Check(PASS, "data sets", f"{', '.join(source.name for source in sources)} in {path}")


def check_clips(dataset: Path, videos: Sequence[str]) -> Check:
    """Check that every clip of the splits exists and opens; a bad one is named."""
    from formcoach.data.clip_facts import read_facts

    try:
        for video in videos:
            inside(dataset, video)
    except UserError as error:
        return Check(FAIL, "clips", str(error))
    _, bad = read_facts(dataset, videos)
    if bad:
        named = [f"{dataset / video}: {reason}" for video, reason in sorted(bad.items())]
        shown = "; ".join(named[:_NAMED]) + (" ..." if len(bad) > _NAMED else "")
        remedy = f"Repair them and {PREPARE}, or train with --skip-bad-clips"
        return Check(FAIL, "clips", f"{len(bad)} of {len(videos)} cannot be used: {shown}. {remedy}")
    return Check(PASS, "clips", f"all {len(videos)} exist and open")


def check_scripts(folder: Path) -> Check:
    """Check that the scripts are there and may be executed."""
    missing = [name for name in SCRIPTS if not (folder / name).is_file()]
    if missing:
        return Check(FAIL, "scripts", f"{folder} lacks {', '.join(missing)}; restore them: git checkout -- scripts")
    locked = [name for name in SCRIPTS if name.endswith(".sh") and not os.access(folder / name, os.X_OK)]
    if locked:
        return Check(NOTICE, "scripts", f"not executable: {', '.join(locked)}; chmod +x scripts/*.sh")
    return Check(PASS, "scripts", f"{len(SCRIPTS)} in {folder}")


def check_disk(work_dir: Path, family: "Family", gpus: Sequence[Gpu]) -> Check:
    """Check the room for checkpoints."""
    existing = next(path for path in (work_dir, *work_dir.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    found = f"{free:.1f} GiB free for {work_dir}"
    if free < _TINY_DISK_GB:
        return Check(FAIL, "disk", f"{found}; free at least {_TINY_DISK_GB} GiB")
    if gpus and free < family.disk_gb:
        return Check(NOTICE, "disk", f"{found}; {family.large} and its checkpoints want {family.disk_gb} GiB")
    return Check(PASS, "disk", found)
