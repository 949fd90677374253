"""The demo dataset: short clips of drawn people exercising, with labels in the formats of QEVD and of the seeds.

Every number in it comes from the seed, so the same seed gives the same files.
"""

import multiprocessing
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from formcoach.command import progress
from formcoach.data.demo_motion import EXERCISES, Exercise, Fault
from formcoach.data.demo_picture import Person, Take, draw, sample_person, sample_take
from formcoach.errors import UserError
from formcoach.files import write_json

FPS = 15
WIDTH, HEIGHT = 640, 480
CLIP_STREAM, PERSON_STREAM = 1, 2  # apart from the stream that the tiny model was pretrained on

FORMS: tuple[tuple[Exercise, Fault], ...] = tuple(
    (exercise, EXERCISES[column].forms[row])
    for row in range(max(len(exercise.forms) for exercise in EXERCISES))
    for column, exercise in enumerate(EXERCISES)
    if row < len(exercise.forms)
)  # correct form of every exercise first, then each one's first fault, ...


@dataclass(frozen=True)
class DemoClip:
    """One clip of the demo before it is filmed.

    Attributes:
        path: relative to the dataset folder.
        worker: the person's number.
        form: what is shown.
        take: how it is filmed.
    """

    path: str
    worker: int
    form: Fault
    take: Take

    @property
    def label(self) -> str:
        """`exercise - what was seen`."""
        return f"{self.take.exercise.name} - {self.form.seen}"

    @property
    def answer(self) -> str:
        """The label with what a coach would add."""
        return f"{self.label}, {self.form.advice}"


def demo_person(seed: int, number: int) -> Person:
    """Return person `number` of the demo dataset `seed`."""
    return sample_person(np.random.default_rng((PERSON_STREAM, seed, number)))


def plan_clips(clips: int, people: int, seed: int) -> list[DemoClip]:
    """Plan a dataset: forms and people take turns, so that each person shows every form equally often.

    Raises:
        UserError: if there are fewer clips than people, or fewer than 3 people to split.
    """
    if people < 3:
        raise UserError(f"--people {people}: three splits need at least 3 people")
    if clips < people:
        raise UserError(f"--clips {clips}: with --people {people}, at least one clip each is needed")
    cast = [demo_person(seed, number) for number in range(people)]
    planned = []
    for number in range(clips):
        worker = number % people
        exercise, form = FORMS[(number + number // _cycle(people)) % len(FORMS)]
        rng = np.random.default_rng((CLIP_STREAM, seed, number))
        take = sample_take(rng, cast[worker], exercise, form.style)
        planned.append(DemoClip(f"{exercise.slug}/{number:05d}.mp4", worker, form, take))
    return planned


def _cycle(people: int) -> int:
    """Return after how many clips the same person would meet the same form again."""
    return int(np.lcm(people, len(FORMS)))


def make_demo_dataset(folder: Path, clips: int = 360, people: int = 24, seed: int = 7) -> list[DemoClip]:
    """Film the demo clips and write them with their labels to `folder`.

    Clips are filmed into a folder beside it and moved in at the end, labels last, so that an interrupted call leaves
    nothing that looks like a dataset.

    Args:
        folder: the dataset folder; what it holds already must not be in the way.
        clips: how many clips.
        people: how many people, each with their own looks, room, camera and tempo.
        seed: of everything.

    Raises:
        UserError: if `folder` holds a file that the demo would replace.
    """
    planned = plan_clips(clips, people, seed)
    ours = [*sorted({clip.take.exercise.slug for clip in planned}), *_label_files(planned), "contact_sheet.png"]
    there = [name for name in ours if (folder / name).exists()]
    if there:
        raise UserError(f"{folder / there[0]}: exists; the demo dataset is only written where it replaces nothing")
    folder.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.resolve().parent))
    try:
        for slug in {clip.take.exercise.slug for clip in planned}:
            (scratch / slug).mkdir()
        jobs = [(str(scratch / clip.path), clip.take) for clip in planned]
        with multiprocessing.get_context("spawn").Pool(min(len(jobs), multiprocessing.cpu_count())) as pool:
            for _ in progress(pool.imap_unordered(_film, jobs, chunksize=4), len(jobs), "clips"):
                pass
        cv2.imwrite(str(scratch / "contact_sheet.png"), contact_sheet(planned)[:, :, ::-1])
        for name, content in _label_files(planned).items():
            write_json(scratch / name, content)
        for name in ours:
            (scratch / name).rename(folder / name)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return planned


def _label_files(planned: Sequence[DemoClip]) -> dict[str, object]:
    """Return file name -> content of the label files."""
    records = [
        {"video_path": f"./{clip.path}", "labels": [clip.label], "labels_descriptive": clip.answer} for clip in planned
    ]
    workers = [{"worker_id": f"demo-{clip.worker:02d}"} for clip in planned]
    return {
        "manifest.json": {clip.path: clip.take.exercise.name for clip in planned},
        "fine_grained_labels_with_worker_ids.json": [r | w for r, w in zip(records, workers, strict=True)],
        "ground_truth.json": records,
    }


def _film(job: tuple[str, Take]) -> None:
    """Draw and encode one clip: H.264, 4:2:0, one key frame at the start, as QEVD's clips."""
    path, take = job
    cv2.setNumThreads(1)
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        stream.options = {"preset": "ultrafast", "crf": "30", "g": "250"}  # encoding is most of the work
        for number in range(frame_total(take)):
            planes = cv2.cvtColor(draw(take, number / FPS, WIDTH, HEIGHT), cv2.COLOR_RGB2YUV_I420)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def frame_total(take: Take) -> int:
    """Return how many frames a take has on file."""
    return round(take.duration * FPS)


def contact_sheet(planned: Sequence[DemoClip]) -> np.ndarray:
    """Return one row of six moments for each form, over one repetition or, if it stops, the clip: (H, W, 3) uint8."""
    first = {}
    for clip in planned:
        first.setdefault(clip.label, clip)
    rows = [_strip(clip) for _, clip in sorted(first.items())]
    half = (len(rows) + 1) // 2
    columns = [np.vstack(rows[:half]), np.vstack(rows[half:])] if len(rows) > 1 else rows
    height = max(len(column) for column in columns)
    padded = [np.pad(c, ((0, height - len(c)), (0, 0), (0, 0)), constant_values=255) for c in columns]
    return np.hstack(padded)


def _strip(clip: DemoClip, width: int = 160, height: int = 120, moments: int = 6) -> np.ndarray:
    take = clip.take
    span = take.duration if take.style.stops else min(take.period, take.duration)
    offset = 0.0 if take.style.stops else (-take.start % 1.0) * take.period
    offset = offset if offset + span <= take.duration else 0.0
    times = offset + np.linspace(0, span, moments, endpoint=take.style.stops) * 0.999
    frames = [cv2.resize(draw(take, t, WIDTH, HEIGHT), (width, height), interpolation=cv2.INTER_AREA) for t in times]
    title = np.full((24, width * moments, 3), 255, dtype=np.uint8)
    text = f"{clip.label}   (one repetition: {take.period:.1f} s)"
    cv2.putText(title, text, (8, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20), 1, cv2.LINE_AA)
    return np.vstack((title, np.hstack(frames)))
