"""The frames that a model gets to see: a clip's own, or a control's, to show that its answers come from looking."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from formcoach.data.annotations import Conversation
from formcoach.data.sampling import frame_indices
from formcoach.data.video import Clip, probe, read_clip
from formcoach.errors import UserError
from formcoach.files import inside

REAL, BLANK, SWAPPED = "real", "blank", "swapped"
KINDS = (REAL, BLANK, SWAPPED)
_MID_GREY = 128
_SEED = 42

ReadFrames = Callable[[Conversation], Clip]


def frames_of(kind: str, root: Path, records: Sequence[Conversation], processor: Any, reader: str) -> ReadFrames:
    """Return the function that gives a record its frames.

    The prompt, duration and number of frames included, is the record's own in each case.

    Args:
        kind: ``real``: the clip's frames; ``blank``: as many mid-grey ones; ``swapped``: as many of another clip.
        root: the folder that the records' paths are relative to.
        records: the whole test file, whose clips are swapped among each other.
        processor: chooses which frames to take.
        reader: which library decodes the clips.

    Raises:
        UserError: one clip alone cannot be swapped.
    """

    def real(record: Conversation) -> Clip:
        return read_clip(inside(root, record.video), processor.select_frames, reader)

    def blank(record: Conversation) -> Clip:
        info = probe(inside(root, record.video))
        chosen = processor.select_frames(info.frames, info.fps)
        grey = np.full((len(chosen), 32, 32, 3), _MID_GREY, np.uint8)
        return Clip(grey, chosen, info.duration, record.video)

    def swapped(record: Conversation) -> Clip:
        own = blank(record)
        other = inside(root, others[record.video])
        clip = read_clip(other, lambda total, _fps: frame_indices(total, len(own.indices)), reader)
        return replace(clip, duration=own.duration)

    others = swap(records) if kind == SWAPPED else {}
    return {REAL: real, BLANK: blank, SWAPPED: swapped}[kind]


def swap(records: Sequence[Conversation]) -> dict[str, str]:
    """Return for each clip another one: all clips in one seeded ring, so that none gets itself.

    Raises:
        UserError: there are not two clips.
    """
    ring = sorted({record.video for record in records})
    if len(ring) < 2:
        raise UserError("--frames swapped needs at least two clips in the test file")
    random.Random(_SEED).shuffle(ring)
    return {video: ring[place - 1] for place, video in enumerate(ring)}
