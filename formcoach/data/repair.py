"""Label files and `manifest.json` as people have them, brought into the form that is read; nothing is guessed.

What can be understood in one way only is repaired. What cannot is named and left as it is.
"""

import json
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from formcoach.data.annotations import (
    FEEDBACK,
    LONG_RANGE,
    LONG_RANGE_MESSAGE,
    QUESTIONS,
    FeedbackRecord,
    LabelRecord,
    ManifestEntry,
    QuestionRecord,
)
from formcoach.data.clip_index import NOT_A_CLASS, VIDEO_SUFFIXES, ClipIndex, find_clips
from formcoach.data.label_filter import keep_backup
from formcoach.data.tolerant_json import BeyondRepair, parse_loosely
from formcoach.errors import UserError
from formcoach.files import inside, read_json_bytes, write_text

PATH_KEYS = ("video_path", "video", "path", "file", "video_file", "filename", "clip")
LABEL_KEYS = ("labels", "label")
CLASS_KEYS = ("class", "label", "exercise", "category")
WRAPPERS = ("data", "annotations", "records", "clips", "videos", "items")
SUSPECT = re.compile(r"^/|\.\.|:|\0")  # only such a path can lead outside a folder
EXAMPLES = 3  # of each kind of change or problem


@dataclass
class Findings:
    """What was found in a file.

    Args:
        changes: kind of repair -> how often, in the order they were found.
        examples: kind of repair -> the first of them.
        problems: what cannot be repaired, each with its place.
        missing: clips that are not on disk; no fault of the format.
    """

    changes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    problems: list[str] = field(default_factory=list)
    missing: int = 0

    def change(self, kind: str, example: str = "") -> None:
        """Count a repair."""
        self.changes[kind] += 1
        if example and len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(example)


@dataclass(frozen=True)
class Repair:
    """A file and what can be done about it.

    Args:
        path: the file.
        findings: what is wrong.
        text: the repaired content; None if nothing changes.
        backup: of the file, where it was written.
    """

    path: Path
    findings: Findings
    text: str | None
    backup: Path | None = None


def repair_file(path: Path, dataset_dir: Path | None, write: bool) -> Repair:
    """Look at a file, and write it anew where something can be repaired.

    Args:
        path: `manifest.json` (any name with "manifest"), or a label file, QEVD's feedback and questions included.
        dataset_dir: holds the clips; None: the folder that the file is in.
        write: whether to write; the file is kept as `.bak` then.

    Raises:
        UserError: the file is missing, far too big, or not for this.
    """
    if path.name == LONG_RANGE:
        raise UserError(LONG_RANGE_MESSAGE.format(path=path))
    read_json_bytes(path, "Name a manifest or a label file.")
    findings = Findings()
    try:
        loose = parse_loosely(path.read_bytes())  # with the byte order mark
    except BeyondRepair as error:
        findings.problems.append(str(error))
        return Repair(path, findings, None)
    for change in loose.changes:
        findings.change(change)
    findings.problems += [f"{key!r} stands twice in one object, with different values" for key in loose.doubled]
    folder = path.absolute().parent if dataset_dir is None else dataset_dir
    paths = Paths(folder, findings)
    is_manifest = "manifest" in path.name.lower()
    value = _manifest(loose.value, paths, findings) if is_manifest else _labels(path.name, loose.value, paths, findings)
    if not findings.changes or value is None or loose.doubled:  # of two values, writing would lose one
        return Repair(path, findings, None)
    text = _text(value)
    if not write:
        return Repair(path, findings, text)
    backup = keep_backup(path)
    write_text(Path(os.path.realpath(path)), text)
    return Repair(path, findings, text, backup)


def _text(value: Any) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if re.search("[\ud800-\udfff]", text):
        text = json.dumps(value, indent=2)  # half a character can only be escaped
    return text + "\n"


class Paths:
    """Clips' paths as they are written, and what they are on disk.

    Args:
        dataset_dir: holds the clips; there need not be any.
        findings: where changes and problems are noted.
    """

    def __init__(self, dataset_dir: Path, findings: Findings) -> None:
        self._root = Path(os.path.abspath(dataset_dir))  # noqa: PTH100  # as it is written, not where links lead
        self._index = ClipIndex(self._root, find_clips(self._root) if self._root.is_dir() else [])
        self._findings = findings
        self._folded: dict[str, list[str]] = defaultdict(list)
        self._folded_names: dict[str, list[str]] = defaultdict(list)
        for path in self._index.paths:
            self._folded[path.casefold()].append(path)
            self._folded_names[path.rpartition("/")[2].casefold()].append(path)

    def repair(self, written: Any, place: str) -> Any:
        """Return the path to write instead of `written`, which may be the same.

        Args:
            written: what the file says.
            place: for messages.
        """
        if not isinstance(written, str) or not written.strip():
            self._findings.problems.append(f"{place}: {_shown(written)} is no path of a clip")
            return written
        path = written
        if path != path.strip():
            path = self._changed("blanks around a path", path, path.strip())
        if "\\" in path:
            path = self._changed("backslashes in a path", path, path.replace("\\", "/"))
        path = self._brought_inside(path, place)
        return written if path is None else self._as_on_disk(path, place)

    def _as_on_disk(self, path: str, place: str) -> str:
        try:
            found = self._index.find(path)
        except UserError as error:
            self._findings.problems.append(f"{place}: {error}")
            return path
        if found is not None:
            first, _, rest = path.partition("/")
            if first in ("dataset", self._root.name) and found == rest:
                return self._changed("the dataset folder in front of a path", path, found)
            return path
        found = self._other_capitals(path)
        if found is not None:
            return self._changed("capitals other than on disk", path, found)
        self._findings.missing += bool(self._index.paths)
        return path

    def _changed(self, kind: str, before: str, after: str) -> str:
        self._findings.change(kind, f"{before} -> {after}")
        return after

    def _is_there(self, path: str) -> bool:
        try:
            return self._index.find(path) is not None
        except UserError:
            return True  # several: there all the same

    def _brought_inside(self, path: str, place: str) -> str | None:
        """Return a path that does not leave the dataset folder; None, and a problem, if it does."""
        if not SUSPECT.search(path):
            return path
        try:
            inside(self._root, path)
        except UserError:
            pass
        else:
            return path
        for root in (str(self._root), os.path.realpath(self._root)):
            whole = posixpath.normpath(posixpath.join(root, path))
            if whole.startswith(root + "/") and not re.match(r"[A-Za-z]:", path) and "\0" not in path:
                return self._changed("a path that is absolute or has '..'", path, whole[len(root) + 1 :])
        parts = [part for part in path.split("/") if part]
        for start, part in enumerate(parts[:-1]):  # of another machine, where the folder has the same name
            rest = "/".join(parts[start + 1 :])
            if part in ("dataset", self._root.name) and ".." not in rest.split("/") and self._is_there(rest):
                return self._changed("a path that is absolute or has '..'", path, rest)
        self._findings.problems.append(f"{place}: {path!r} leads outside the dataset folder; use a path relative to it")
        return None

    def _other_capitals(self, path: str) -> str | None:
        """Return the one clip whose path differs in capitals only."""
        plain = posixpath.normpath(path).casefold()
        for wanted in (plain, plain.removeprefix("dataset/")):
            if len(found := self._folded.get(wanted, [])) == 1:
                return found[0]
        if "/" not in plain and len(found := self._folded_names.get(plain, [])) == 1:
            return found[0]
        return None


def _labels(name: str, value: Any, paths: Paths, findings: Findings) -> Any:
    """Return the records of a label file, repaired."""
    kind = {FEEDBACK: FeedbackRecord, QUESTIONS: QuestionRecord}.get(name, LabelRecord)
    records = _record_list(value, findings)
    if records is None:
        findings.problems.append("holds no records: a list of objects with video_path and labels is read")
        return value
    if not records:
        findings.problems.append("lists no clips")
    return [
        _record(record, f"record {number}", kind, paths, findings) for number, record in enumerate(records, start=1)
    ]


def _record_list(value: Any, findings: Findings) -> list[Any] | None:
    """Return the list of records that a file means; None if it means none."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return None
    if any(key in value for key in PATH_KEYS) and not any(
        isinstance(value[key], list) for key in value if key in WRAPPERS
    ):
        findings.change("a single record instead of a list")
        return [value]
    if len(value) == 1 and (key := next(iter(value))) in WRAPPERS and isinstance(value[key], list):
        findings.change(f"a list inside {key!r} instead of a list")
        return value[key]
    if value and all(_is_clip(key) for key in value):
        findings.change("records by path instead of a list", next(iter(value)))
        return [_by_path(path, record) for path, record in value.items()]
    return None


def _by_path(path: str, record: Any) -> dict[str, Any]:
    return {"video_path": path} | (record if isinstance(record, dict) else {"labels": record})


def _record(record: Any, place: str, kind: type[msgspec.Struct], paths: Paths, findings: Findings) -> Any:
    if not isinstance(record, dict):
        findings.problems.append(f"{place} is no object but {_shown(record)}")
        return record
    record = _renamed(record, PATH_KEYS, place, findings)
    if kind is LabelRecord:
        record = _renamed(record, LABEL_KEYS, place, findings)
        record = _label_fields(record, findings)
    if "video_path" not in record:
        findings.problems.append(f"{place} has no video_path")
        return record
    record = record | {"video_path": paths.repair(record["video_path"], place)}
    try:
        typed = msgspec.convert(record, kind)
        msgspec.json.encode(typed)
    except msgspec.ValidationError as error:
        findings.problems.append(f"{place}: {error}")
    except UnicodeEncodeError:
        findings.problems.append(f"{place} has half a character (an escape like \\ud83d alone)")
    return record


def _renamed(record: dict[str, Any], keys: Iterable[str], place: str, findings: Findings) -> dict[str, Any]:
    """Return the record with the first of `keys`, in the place of the one that it has instead."""
    wanted, *others = keys
    there = [key for key in others if key in record]
    if wanted in record or not there:
        return record
    if len({json.dumps(record[key]) for key in there}) > 1:
        findings.problems.append(f"{place} has {' and '.join(there)}, which differ; name one of them {wanted}")
        return record
    findings.change(f"{there[0]} instead of {wanted}")
    return {wanted if key == there[0] else key: value for key, value in record.items() if key not in there[1:]}


def _label_fields(record: dict[str, Any], findings: Findings) -> dict[str, Any]:
    record = dict(record)
    labels = record.get("labels", [])
    if isinstance(labels, str):
        record["labels"] = [labels]
        findings.change("labels as a text instead of a list", labels)
    elif labels is None:
        record["labels"] = []
        findings.change("labels that are null")
    elif isinstance(labels, list) and None in labels:
        record["labels"] = [label for label in labels if label is not None]
        findings.change("labels that are null")
    split = record.get("split")
    if isinstance(split, str) and split != split.strip().lower():
        record["split"] = split.strip().lower()
        findings.change("split in capitals or with blanks", split)
    person = record.get("worker_id")
    if isinstance(person, float) and person.is_integer():
        record["worker_id"] = int(person)
        findings.change("worker_id as a fraction", str(person))
    return record


def _manifest(value: Any, paths: Paths, findings: Findings) -> Any:
    """Return a manifest as path -> class, or path -> object for derived clips; None if that would lose something."""
    entries = _entries(value, findings)
    if entries is None:
        findings.problems.append('is no manifest: {"class/clip.mp4": "class", ...} is read')
        return value
    manifest: dict[str, Any] = {}
    for place, written, found in entries:
        path = paths.repair(written, place)
        entry = _entry(found, place, paths, findings)
        if not isinstance(path, str):
            continue
        if path not in manifest:
            manifest[path] = entry
        elif manifest[path] == entry:
            findings.change("a clip that stands twice", path)
        else:
            findings.problems.append(f"{place}: {path} is {_shown(manifest[path])} above and {_shown(entry)} here")
            return None  # writing would lose one of them
    return manifest


def _entries(value: Any, findings: Findings) -> list[tuple[str, Any, Any]] | None:
    """Return place, path and class of all entries; None if it is no manifest."""
    if isinstance(value, dict) and len(value) == 1:
        key, inner = next(iter(value.items()))
        if key in WRAPPERS and inner and isinstance(inner, dict | list):
            findings.change(f"a manifest inside {key!r}")
            value = inner
    if isinstance(value, list):
        if value:
            findings.change("a list instead of path -> class", _shown(value[0]))
        return [_listed(f"entry {number}", entry) for number, entry in enumerate(value, start=1)]
    if not isinstance(value, dict):
        return None
    if any(isinstance(value.get(key), str) for key in PATH_KEYS):
        findings.change("a single entry instead of path -> class", _shown(value))
        return [_listed("entry 1", value)]
    if not any(map(_is_clip, value)) and value and all(map(_are_clips, value.values())):
        findings.change("class -> paths instead of path -> class", next(iter(value)))
        both = [
            (path, name) for name, found in value.items() for path in ([found] if isinstance(found, str) else found)
        ]
        return [(f"entry {number}", path, name) for number, (path, name) in enumerate(both, start=1)]
    return [(f"entry {number}", path, entry) for number, (path, entry) in enumerate(value.items(), start=1)]


def _listed(place: str, entry: Any) -> tuple[str, Any, Any]:
    """Return place, path and class of an entry of a list: an object, or a path in its class's folder."""
    if isinstance(entry, str):
        folder = PurePosixPath(entry.replace("\\", "/")).parent.name
        return place, entry, None if folder in NOT_A_CLASS else folder or None
    if not isinstance(entry, dict):
        return place, entry, None
    aside = Findings()  # the whole list is one change
    entry = _renamed(_renamed(entry, PATH_KEYS, place, aside), CLASS_KEYS, place, aside)
    rest = {key: value for key, value in entry.items() if key != "video_path"}
    return place, entry.get("video_path"), rest["class"] if rest.keys() == {"class"} else rest


def _entry(entry: Any, place: str, paths: Paths, findings: Findings) -> Any:
    """Return the class, or the object of a derived clip."""
    if isinstance(entry, str) and entry.strip():
        return entry
    if not isinstance(entry, dict):
        findings.problems.append(f"{place} has no class but {_shown(entry)}")
        return entry
    entry = _renamed(entry, CLASS_KEYS, place, findings)
    if "source" in entry:
        entry = entry | {"source": paths.repair(entry["source"], place)}
    elif not entry.get("class"):
        findings.problems.append(f"{place} has no class but {_shown(entry)}")
    try:
        msgspec.convert(entry, ManifestEntry)
    except msgspec.ValidationError as error:
        findings.problems.append(f"{place}: {error}")
    return entry


def _are_clips(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and _is_clip(value))


def _is_clip(path: str) -> bool:
    return PurePosixPath(path.replace("\\", "/").strip()).suffix.lower() in VIDEO_SUFFIXES


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 80 else text[:77] + "..."
