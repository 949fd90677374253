"""A visitor's clip: whether it may be looked at, the frames that the model gets, and how they are shown."""

import base64
from dataclasses import dataclass, replace
from pathlib import Path

from formcoach.data.clip_file import VideoInfo, open_clip
from formcoach.data.overview_strips import jpeg, small
from formcoach.data.video import Clip
from formcoach.errors import ClipError, UserError
from formcoach.inference.predict import Predictor

BOX = (320, 240)  # pixels of a shown frame at most
QUALITY = 80  # of its JPEG
MOST_PIXELS = 4096 * 2304  # of a frame: 4K; what is decoded of a clip then takes some 230 MB


@dataclass(frozen=True)
class Looked:
    """What was taken from a clip.

    Args:
        clip: its frames, no larger than the model needs them.
        pictures: the same ones as small JPEGs.
        times: seconds at which each is shown.
    """

    clip: Clip
    pictures: list[bytes]
    times: list[float]


def look(path: Path, predictor: Predictor, most_seconds: int) -> Looked:
    """Return what the model gets to see of a clip.

    Raises:
        UserError: it is damaged, not a video, too long or too large; the text does not name the file.
    """
    try:
        with open_clip(path) as file:
            _check(file.info, most_seconds)
            times = file.times
        clip = predictor.read(path)
    except ClipError as problem:
        raise UserError(f"The clip {problem.reason}. Try another one.") from None
    pictures = [jpeg(small(frame, BOX)[None], QUALITY) for frame in clip.frames]
    frames = predictor.processor.resize(clip.frames)
    return Looked(replace(clip, frames=frames), pictures, [times[index] for index in clip.indices])


def frames_html(looked: Looked) -> str:
    """Return the shown frames as HTML that holds the pictures themselves and nothing of the visitor's text."""
    figures = [
        f'<figure><img src="data:image/jpeg;base64,{base64.b64encode(picture).decode()}" alt="frame at {time:.1f} s">'
        f"<figcaption>{time:.1f} s</figcaption></figure>"
        for picture, time in zip(looked.pictures, looked.times, strict=True)
    ]
    return f'<div class="frames">{"".join(figures)}</div>'


def _check(info: VideoInfo, most_seconds: int) -> None:
    if info.duration > most_seconds:
        raise UserError(f"The clip lasts {info.duration:.1f} s, and at most {most_seconds} s are taken. Cut it.")
    if info.width * info.height > MOST_PIXELS:
        raise UserError(f"The clip has {info.width} x {info.height} pixels, more than 4K. Scale it down.")
