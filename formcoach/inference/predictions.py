"""The predictions file: one answer a line, appended as answers come, reused where it answers the same question."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from formcoach.data.annotations import Conversation
from formcoach.errors import UserError
from formcoach.files import inside, read_bytes, replacing, write_json

OK = "ok"
FAILED = "failed"


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """A model's answer to one clip of a test file.

    `status` is ``"ok"``, or ``"failed"`` with the reason in `error`; a failed clip's `prediction` is empty.
    `seconds` is the clip's share of the work: decoding, and its part of its batch's generation. `person` tells which
    clips are of one person, where that is known.
    """

    id: str
    video: str
    prompt: str
    truth: str
    labels: list[str] = []
    person: str | None = None
    prediction: str = ""
    status: str = OK
    error: str | None = None
    seconds: float = 0.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All that an answer depends on, so that answers are never mixed: written beside each predictions file.

    Args:
        model: the checkpoint as the user named it.
        fingerprint: what identifies its weights (`checkpoint_fingerprint`).
        test_file: the test file's name.
        test_sha256: what identifies its records and their clips (`records_fingerprint`).
        max_new_tokens: the limit on an answer's length.
        frames: ``"real"``, or a control: ``"blank"``, ``"swapped"``.
        precision: the weights' number format, e.g. ``"float32"`` or ``"nf4"``.
    """

    model: str
    fingerprint: str
    test_file: str
    test_sha256: str
    max_new_tokens: int
    frames: str
    precision: str

    def same_answers(self, other: "Settings") -> bool:
        """Tell whether both give the same answers, whatever the names of folders and files."""
        return msgspec.structs.replace(self, model="", test_file="") == msgspec.structs.replace(
            other, model="", test_file=""
        )


class _Sidecar(msgspec.Struct, frozen=True):
    settings: Settings
    predictions_sha256: str


def read_predictions(path: Path) -> list[Prediction]:
    """Return the predictions of a JSON Lines file, or of a `.json` file that holds them in one list.

    Raises:
        UserError: no such file, a line that is not a prediction (named by number), or an id that comes twice.
    """
    data = read_bytes(path, "scripts/run_inference.sh writes one")
    if path.suffix == ".json":
        try:
            predictions = msgspec.json.decode(data, type=list[Prediction])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: is not a list of predictions: {error}. scripts/run_inference.sh writes one"
            ) from None
    else:
        predictions = [_decode_line(path, number, line) for number, line in _lines(data)]
    seen: set[str] = set()
    for prediction in predictions:
        if prediction.id in seen:
            raise UserError(f"{path}: the id {prediction.id!r} comes twice; keep one line for each clip")
        seen.add(prediction.id)
    return predictions


def settings_path(path: Path) -> Path:
    """Return where the settings of the predictions file `path` are written."""
    return path.with_name(path.stem + ".settings.json")


def complete_predictions(
    path: Path,
    settings: Settings,
    records: Sequence[Conversation],
    wanted: Sequence[Conversation],
    answer: Callable[[list[Conversation]], Iterable[Prediction]],
) -> list[Prediction]:
    """Answer the wanted clips that `path` has no answer for yet, and return everything that it then holds.

    Answers given earlier under the same `settings` are kept, also those of an interrupted run (they lie in
    ``<path>.partial``); answers of another checkpoint, test file or setting are not. Failed clips are tried again.

    Args:
        path: the predictions file (`.jsonl`); replaced as a whole at the end.
        settings: what the answers depend on.
        records: the whole test file, which gives the order.
        wanted: the clips to answer, part of `records`.
        answer: gives the predictions of some clips, in any order.
    """
    kept = _kept(path, settings)
    todo = [record for record in wanted if record.id not in kept]
    if not todo and path.exists() and not _partial(path).exists():
        return _in_order(kept, records)
    done = {prediction.id: prediction for prediction in _answered(path, settings, kept, answer(todo) if todo else [])}
    predictions = _in_order(done, records)
    encoded = b"".join(msgspec.json.encode(prediction) + b"\n" for prediction in predictions)
    with replacing(path) as temporary:
        temporary.write_bytes(encoded)
    write_json(
        settings_path(path),
        msgspec.to_builtins(_Sidecar(settings=settings, predictions_sha256=hashlib.sha256(encoded).hexdigest())),
    )
    _partial(path).unlink(missing_ok=True)
    return predictions


def kept_ids(path: Path, settings: Settings) -> set[str]:
    """Return the ids of the clips that `path` already answers under these settings."""
    return set(_kept(path, settings))


def checkpoint_fingerprint(folders: Iterable[Path]) -> str:
    """Return a short hash of a checkpoint's configuration and weights: adapter folder first, then its base.

    Files up to 64 MB are hashed whole, larger ones (the shards of a published model) by name, size and time.
    """
    digest = hashlib.sha256()
    for folder in folders:
        files = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors", ".model")]
        for file in files:
            stat = file.stat()
            digest.update(f"{file.name} {stat.st_size}\n".encode())
            digest.update(file.read_bytes() if stat.st_size <= 64 * 2**20 else str(stat.st_mtime_ns).encode())
    return digest.hexdigest()[:16]


def records_fingerprint(records: Sequence[Conversation], root: Path) -> str:
    """Return a short hash of a test file's records and of the size and time of each clip."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(msgspec.json.encode(record))
        clip = inside(root, record.video)
        if clip.exists():
            stat = clip.stat()
            digest.update(f" {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _answered(
    path: Path, settings: Settings, kept: dict[str, Prediction], answers: Iterable[Prediction]
) -> Iterator[Prediction]:
    """Yield kept and new predictions; each is on disk, below the settings, before the next is asked for."""
    partial = _partial(path)
    with replacing(partial) as temporary:
        lines = [settings, *kept.values()]
        temporary.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    yield from kept.values()
    with closing(partial.open("ab", buffering=0)) as file:
        for prediction in answers:
            file.write(msgspec.json.encode(prediction) + b"\n")
            yield prediction
        os.fsync(file.fileno())


def _kept(path: Path, settings: Settings) -> dict[str, Prediction]:
    predictions = [*_finished(path, settings), *_interrupted(path, settings)]
    return {prediction.id: prediction for prediction in predictions if prediction.status == OK}


def _finished(path: Path, settings: Settings) -> list[Prediction]:
    sidecar_path = settings_path(path)
    if not (path.exists() and sidecar_path.exists()):
        return []
    try:
        sidecar = msgspec.json.decode(sidecar_path.read_bytes(), type=_Sidecar)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []  # written by another version, or by hand: answer again
    data = path.read_bytes()
    if not settings.same_answers(sidecar.settings) or hashlib.sha256(data).hexdigest() != sidecar.predictions_sha256:
        return []
    return [_decode_line(path, number, line) for number, line in _lines(data)]


def _interrupted(path: Path, settings: Settings) -> list[Prediction]:
    partial = _partial(path)
    if not partial.exists():
        return []
    header, *lines = [line for line in partial.read_bytes().split(b"\n") if line] or [b""]
    try:
        if not settings.same_answers(msgspec.json.decode(header, type=Settings)):
            return []
        return [msgspec.json.decode(line, type=Prediction) for line in lines[:-1]] + _torn(lines[-1:])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []


def _torn(last: list[bytes]) -> list[Prediction]:
    """Decode the last line of an interrupted file, if it is whole."""
    try:
        return [msgspec.json.decode(line, type=Prediction) for line in last]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []


def _in_order(predictions: dict[str, Prediction], records: Sequence[Conversation]) -> list[Prediction]:
    return [predictions[record.id] for record in records if record.id in predictions]


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip())


def _decode_line(path: Path, number: int, line: bytes) -> Prediction:
    try:
        return msgspec.json.decode(line, type=Prediction)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: line {number} is not a prediction: {error}. scripts/run_inference.sh writes one"
        ) from None
