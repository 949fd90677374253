"""The data sets that a training reads, as `data/diy_ft_data.json` lists them, or one file of conversations."""

import math
import random
from dataclasses import dataclass
from pathlib import Path

import msgspec

from formcoach.data.annotations import PREPARE, Conversation, read_conversations
from formcoach.data.augment import DEFAULT, check_names
from formcoach.data.video import AUTO, READERS
from formcoach.errors import UserError
from formcoach.files import inside, read_json


class _Entry(msgspec.Struct):
    """One entry of the file, in the form of the InternVideo2.5 recipe; what it does not know is ignored."""

    root: str
    annotation: str
    data_augment: bool | list[str] = False
    repeat_time: float = 1.0
    video_read_type: str = "auto"
    sampling_strategy: str = "all"


@dataclass(frozen=True)
class Source:
    """A data set to train on.

    Args:
        name: its key in the file.
        root: the folder that the clips' paths are relative to.
        annotation: the file of conversations.
        augmentations: what may be done to its clips while training, see `formcoach.data.augment`.
        repeat_time: how often an epoch sees each conversation; a fraction takes that share of them.
        reader: which library decodes the clips.
        sampling: which of the conversations to use: `all`, `first:N`, `end:N` or `random:N`; N may be a share, `30%`.
    """

    name: str
    root: Path
    annotation: Path
    augmentations: tuple[str, ...]
    repeat_time: float
    reader: str
    sampling: str

    def clip(self, record: Conversation) -> Path:
        """Return the file of a conversation's clip."""
        try:
            return inside(self.root, record.video)
        except UserError as error:
            raise UserError(f"{self.annotation}: {record.id}: {error}") from None


def read_sources(path: Path) -> list[Source]:
    """Return the data sets that a file like `data/diy_ft_data.json` lists.

    Relative paths in it start at the project: the parent of the folder that holds the file. A file that is a list of
    conversations itself, such as `dataset/qved_train.json`, is one data set; it lies in the folder of the clips.

    Raises:
        UserError: names the file, the data set and the field.
    """
    path = Path(path)
    entries = read_json(path, PREPARE)
    if isinstance(entries, list) and entries:
        return [Source(path.stem, path.parent, path, (), 1.0, AUTO, "all")]
    if not isinstance(entries, dict) or not entries:
        raise UserError(f"{path}: names no data set. {PREPARE}")
    return [_source(path, name, entry) for name, entry in entries.items()]


def _source(path: Path, name: str, raw: object) -> Source:
    try:
        entry = msgspec.convert(raw, _Entry)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {name}: {error}. {PREPARE}") from None
    where = f"{path}: {name}:"
    if entry.video_read_type not in READERS:
        raise UserError(f"{where} video_read_type {entry.video_read_type!r} is unknown; use {', '.join(READERS)}")
    if not (entry.repeat_time > 0 and math.isfinite(entry.repeat_time)):
        raise UserError(f"{where} repeat_time {entry.repeat_time} must be above 0; remove the data set to leave it out")
    _parse_sampling(where, entry.sampling_strategy)
    project = _as_typed(path.absolute().parent.parent)
    return Source(
        name,
        project / entry.root,
        project / entry.annotation,
        _augmentations(where, entry.data_augment),
        entry.repeat_time,
        entry.video_read_type,
        entry.sampling_strategy,
    )


def _augmentations(where: str, wanted: bool | list[str]) -> tuple[str, ...]:
    if isinstance(wanted, bool):
        return DEFAULT if wanted else ()
    return check_names(wanted, f"{where} data_augment") if wanted else ()


def _as_typed(path: Path) -> Path:
    """Return the path relative to the working directory where it lies in it: messages read better."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def load_source(source: Source, seed: int = 42) -> list[Conversation]:
    """Return a data set's conversations, sampled and repeated as it asks.

    Args:
        source: the data set.
        seed: decides what `random:N` and a fractional `repeat_time` take.

    Raises:
        UserError: the file of conversations is missing or damaged, or nothing is left of it.
    """
    records = _sample(source, read_conversations(source.annotation), seed)
    times, share = divmod(source.repeat_time, 1)
    repeated = records * int(times) + _pick(records, round(share * len(records)), seed + 1)
    if not repeated:
        raise UserError(f"{source.annotation}: no conversations are left for {source.name}. {PREPARE}")
    return repeated


def _sample(source: Source, records: list[Conversation], seed: int) -> list[Conversation]:
    how, number, is_share = _parse_sampling(f"{source.name}:", source.sampling)
    if how == "all":
        return records
    count = math.ceil(number / 100 * len(records)) if is_share else min(int(number), len(records))
    if how == "random":
        return _pick(records, count, seed)
    return records[:count] if how == "first" else records[len(records) - count :]


def _pick(records: list[Conversation], count: int, seed: int) -> list[Conversation]:
    """Return `count` of the records, chosen by `seed`, in their order."""
    chosen = sorted(random.Random(seed).sample(range(len(records)), count))
    return [records[index] for index in chosen]


def _parse_sampling(where: str, text: str) -> tuple[str, float, bool]:
    """Return (`all` | `first` | `end` | `random`, N, whether N is a percentage)."""
    if text == "all":
        return "all", 100.0, True
    how, _, amount = text.partition(":")
    is_share = amount.endswith("%")
    try:
        number = float(amount.removesuffix("%")) if is_share else int(amount)
    except ValueError:
        number = 0
    if how not in ("first", "end", "random") or number <= 0 or (is_share and number > 100):
        raise UserError(
            f"{where} sampling_strategy {text!r} is unknown; use all, first:N, end:N or random:N (N like 50 or 30%)"
        )
    return how, number, is_share
