"""The predictions file: a test file's questions and a model's answers to them, one a line."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from formcoach.errors import UserError
from formcoach.files import read_bytes

OK = "ok"
FAILED = "failed"


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """A model's answer to one clip of a test file.

    `status` is ``"ok"``, or ``"failed"`` with the reason in `error`; a failed clip's `prediction` is empty.
    `seconds` is the clip's share of the work: decoding, and its part of its batch's generation. `person` tells which
    clips are of one person, where that is known. `source` is what identifies record and clip
    (`formcoach.inference.fingerprints.clip_sources`).
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
    source: str | None = None


def read_predictions(path: Path) -> list[Prediction]:
    """Return the predictions of a JSON Lines file, or of a `.json` file that holds them in one list.

    Raises:
        UserError: no such file, a line that is not a prediction (named by number), or an id that comes twice.
    """
    data = read_bytes(path, "scripts/run_inference.sh writes one")
    predictions = _decode_list(path, data) if path.suffix == ".json" else decode_lines(path, data)
    seen: set[str] = set()
    for prediction in predictions:
        if prediction.id in seen:
            raise UserError(f"{path}: the id {prediction.id!r} comes twice; keep one line for each clip")
        seen.add(prediction.id)
    return predictions


def decode_lines(path: Path, data: bytes) -> list[Prediction]:
    """Return the predictions that `data`, read from the JSON Lines file `path`, holds.

    Raises:
        UserError: a line is not a prediction.
    """
    return [_decode_line(path, number, line) for number, line in _lines(data)]


def encode_lines(predictions: list[Prediction]) -> bytes:
    """Return predictions as JSON Lines."""
    return b"".join(msgspec.json.encode(prediction) + b"\n" for prediction in predictions)


def _decode_list(path: Path, data: bytes) -> list[Prediction]:
    try:
        return msgspec.json.decode(data, type=list[Prediction])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not a list of predictions: {error}. scripts/run_inference.sh writes one") from None


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip())


def _decode_line(path: Path, number: int, line: bytes) -> Prediction:
    try:
        return msgspec.json.decode(line, type=Prediction)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: line {number} is not a prediction: {error}. scripts/run_inference.sh writes one"
        ) from None
