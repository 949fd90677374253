"""What cleaning found, to look at: a table of every clip (CSV) and one self-contained page (HTML)."""

import base64
import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from formcoach.data.cleaning import Outcome, Verdict
from formcoach.data.exercise_motion import MOVING, ExerciseMotion
from formcoach.data.quality import Quality
from formcoach.data.thresholds import Thresholds
from formcoach.data.video import iterate_frames
from formcoach.errors import ClipError
from formcoach.files import replacing, write_text

CSV_FILE, HTML_FILE = "cleaning_report.csv", "cleaning_report.html"
TEMPLATE = Path(__file__).resolve().parents[1] / "assets" / "reports" / "cleaning.html.jinja"
MEASURES = ("width", "height", "duration", "brightness", "sharpness", "motion", "movement", "black", "frozen")
COLUMNS = ("resolution", "seconds", "brightness", "sharpness", "motion", "black", "frozen")  # of the page's tables
LARGEST_TABLE, LARGEST_GALLERY = 2000, 300  # rejected clips on the page, and those of them with a picture
NEAREST = 4  # kept clips that are shown for each threshold
THUMBNAIL = 128, 96  # pixels at most
BARS = 40
LEFT, RIGHT, TOP, BOTTOM = 10, 290, 16, 110  # of a histogram in its picture
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a cell that starts with one of them


@dataclass(frozen=True)
class Measure:
    """A measure that has thresholds.

    Args:
        title: with its unit.
        value: of a clip.
        low: least that is accepted.
        high: most that is accepted.
        most: that there can be.
        logarithmic: where a few values are much larger than the others.
        moving: only moving exercises must reach it.
    """

    title: str
    value: Callable[[Quality], float]
    low: float | None = None
    high: float | None = None
    most: float = float("inf")
    logarithmic: bool = False
    moving: bool = False

    @property
    def limits(self) -> list[float]:
        """The thresholds that there are."""
        return [limit for limit in (self.low, self.high) if limit is not None]


class Bar(NamedTuple):
    """A bar of a histogram: accepted values below, the others on top of them."""

    x: float
    width: float
    keep_top: float
    keep_height: float
    drop_top: float
    drop_height: float


@dataclass(frozen=True)
class Chart:
    """A histogram with its thresholds, in pixels of its picture."""

    title: str
    note: str
    bars: list[Bar]
    limits: list[tuple[float, str]]
    ticks: list[tuple[float, str]]


@dataclass
class Row:
    """A clip in a table of the page."""

    path: str
    exercise: str
    texts: list[str]
    kinds: str = ""
    numbers: list[tuple[float, str]] = field(default_factory=list)
    picture: str = ""


def measures(thresholds: Thresholds) -> list[Measure]:
    """Return the measures in the order of the page."""
    t = thresholds
    return [
        Measure("longer side in pixels", lambda quality: max(quality.width, quality.height), low=t.min_width),
        Measure("shorter side in pixels", lambda quality: min(quality.width, quality.height), low=t.min_height),
        Measure("duration in seconds", attrgetter("duration"), t.min_duration, t.max_duration, logarithmic=True),
        Measure("brightness", attrgetter("brightness"), t.min_brightness, t.max_brightness, 255),
        Measure("sharpness", attrgetter("sharpness"), low=t.min_sharpness, logarithmic=True),
        Measure(
            "motion in % of the clip",
            lambda quality: 100 * quality.motion,
            low=100 * t.min_motion,
            most=100,
            moving=True,
        ),
        Measure("black stretch in seconds", attrgetter("black"), high=t.max_black),
        Measure("frozen stretch in seconds", attrgetter("frozen"), high=t.max_frozen),
    ]


def write_csv(path: Path, verdicts: Iterable[Verdict]) -> None:
    """Write a line a clip with all that was measured, atomically.

    Text that a spreadsheet would take for a formula gets an apostrophe in front.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "exercise", *MEASURES, "kept", "reasons"))
        for verdict in verdicts:
            reasons = "; ".join(reason.text for reason in verdict.reasons)
            texts = [_harmless(text) for text in (verdict.path, verdict.subject.exercise, reasons)]
            writer.writerow((*texts[:2], *_numbers(verdict.quality), "no" if verdict.reasons else "yes", texts[2]))


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def _numbers(quality: Quality | None) -> Iterator[str]:
    for name in MEASURES:
        value = None if quality is None else getattr(quality, name)
        yield "" if value is None else f"{value:.3f}".removesuffix(".000")


def write_html(
    path: Path,
    dataset_dir: Path,
    outcome: Outcome,
    thresholds: Thresholds,
    motion: ExerciseMotion,
    set_aside: int = 0,
    workers: int = 1,
) -> None:
    """Write the page, atomically.

    Args:
        path: the file.
        dataset_dir: the clips' folder, for pictures.
        outcome: of cleaning.
        thresholds: that were asked for.
        motion: which exercises move.
        set_aside: how many clips are not shown, because they were set aside before.
        workers: threads that decode pictures.
    """
    from jinja2 import Environment

    kept = [verdict for verdict in outcome.verdicts if not verdict.reasons]
    rejected = [verdict for verdict in outcome.verdicts if verdict.reasons]
    moving = {
        exercise
        for exercise, kind in motion.kinds(v.subject.exercise for v in outcome.verdicts).items()
        if kind == MOVING
    }
    shown = _some_for_every_reason(rejected)
    near = _near(kept, measures(thresholds), moving)
    pictured = [verdict for verdict in shown[:LARGEST_GALLERY] if verdict.quality] + [verdict for verdict, _ in near]
    pictures = _pictures(dataset_dir, [verdict.path for verdict in pictured], workers)
    rejects = [_row(verdict, [reason.text for reason in verdict.reasons], pictures) for verdict in shown]
    template = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(
        dataset=str(dataset_dir.resolve()).encode(errors="replace").decode(),
        total=len(outcome.verdicts),
        kept=len(kept),
        kept_share=f"{len(kept) / len(outcome.verdicts):.1%}",
        rejected=len(rejected),
        by_kind=outcome.by_kind(),
        aside=set_aside,
        charts=[chart for measure in measures(thresholds) if (chart := _chart(measure, outcome.verdicts, moving))],
        columns=COLUMNS,
        rejects=sorted(rejects, key=lambda row: row.path),
        near=[_row(verdict, [text], pictures) for verdict, text in near],
    )
    write_text(path, page)


def _some_for_every_reason(rejected: Sequence[Verdict]) -> list[Verdict]:
    """Return as many rejected clips as the page shows, in turns from each kind of reason."""
    turns: dict[str, int] = defaultdict(int)
    ordered = []
    for verdict in rejected:
        kind = verdict.reasons[0].kind
        ordered.append((turns[kind], kind, verdict.path, verdict))
        turns[kind] += 1
    return [verdict for *_, verdict in sorted(ordered, key=lambda item: item[:3])[:LARGEST_TABLE]]


def _near(kept: Sequence[Verdict], all_measures: Sequence[Measure], moving: set[str]) -> list[tuple[Verdict, str]]:
    """Return the kept clips that are nearest to each threshold, and how near; nothing where no clip is near."""
    near = {}
    for measure in all_measures:
        concerned = _concerned(measure, kept, moving)
        values = np.array([measure.value(verdict.quality) for verdict in concerned])
        for limit in measure.limits:
            distances = np.abs(values - limit)
            for place in np.argsort(distances, kind="stable")[:NEAREST]:
                if 0 < distances[place] <= 0.5 * limit:  # on it are the usual sizes
                    text = f"{measure.title} {values[place]:.4g}, threshold {limit:g}"
                    near.setdefault(concerned[place].path, (concerned[place], text))
    return [*near.values()]


def _concerned(measure: Measure, verdicts: Iterable[Verdict], moving: set[str]) -> list[Verdict]:
    return [v for v in verdicts if v.quality and (not measure.moving or v.subject.exercise in moving)]


def _row(verdict: Verdict, texts: list[str], pictures: dict[str, str]) -> Row:
    row = Row(
        verdict.path,
        verdict.subject.exercise,
        texts,
        ",".join(sorted({reason.kind for reason in verdict.reasons})),
        picture=pictures.get(verdict.path, ""),
    )
    quality = verdict.quality
    if quality is None:
        row.numbers = [(-1.0, "")] * len(COLUMNS)
    else:
        row.numbers = [
            (quality.width * quality.height, f"{quality.width}x{quality.height}"),
            (quality.duration, f"{quality.duration:.1f}"),
            (quality.brightness, f"{quality.brightness:.0f}"),
            (quality.sharpness, f"{quality.sharpness:.0f}"),
            (quality.motion, f"{quality.motion:.0%}"),
            (quality.black, f"{quality.black:.1f} s"),
            (quality.frozen, f"{quality.frozen:.1f} s"),
        ]
    return row


def _pictures(dataset_dir: Path, paths: Sequence[str], workers: int) -> dict[str, str]:
    """Return path -> a picture as base64 of a JPEG, or nothing where there is none."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        return dict(zip(paths, pool.map(lambda path: _picture(dataset_dir / path), paths), strict=True))


def _picture(path: Path) -> str:
    """Return what a clip shows after half a second: later costs more to decode, and many begin black."""
    try:
        for _, frame in iterate_frames(path, lambda frames, fps: [min(round(fps / 2), frames // 2)]):
            shrink = max(frame.width / THUMBNAIL[0], frame.height / THUMBNAIL[1])
            size = max(1, round(frame.width / shrink)), max(1, round(frame.height / shrink))
            small = frame.reformat(*size, format="bgr24").to_ndarray()
            _, jpeg = cv2.imencode(".jpg", np.rot90(small, frame.rotation // 90 % 4), [cv2.IMWRITE_JPEG_QUALITY, 65])
            return base64.b64encode(jpeg.tobytes()).decode()
    except ClipError:
        pass  # it was measured before, so it has changed since
    return ""


def _chart(measure: Measure, verdicts: Sequence[Verdict], moving: set[str]) -> Chart | None:
    """Return the histogram of a measure, or None if there is nothing to show; values far out count at the edges."""
    values = np.array([measure.value(verdict.quality) for verdict in _concerned(measure, verdicts, moving)])
    if not len(values):
        return None
    scale = _logarithm if measure.logarithmic else np.asarray
    places = scale(values)
    limits = [float(scale(limit)) for limit in measure.limits]
    low, high = min(float(np.quantile(places, 0.002)), *limits), max(float(np.quantile(places, 0.998)), *limits)
    margin = 0.06 * (high - low) or 1.0
    low, high = low - margin, high + margin
    if not measure.logarithmic:
        low, high = max(low, 0.0), min(high, measure.most)
    good = np.ones(len(values), bool)
    good &= values >= measure.low if measure.low is not None else True
    good &= values <= measure.high if measure.high is not None else True
    clipped, edges = np.clip(places, low, high), np.linspace(low, high, BARS + 1)
    keep, drop = np.histogram(clipped[good], edges)[0], np.histogram(clipped[~good], edges)[0]

    def across(place: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * (place - low) / (high - low), 1)

    note = f"{int(good.sum())} of {len(values)} clips accepted" + (", of moving exercises" if measure.moving else "")
    return Chart(
        measure.title,
        note,
        [*_bars(keep, drop)],
        [(across(place), f"{limit:g}") for place, limit in zip(limits, measure.limits, strict=True)],
        [(across(float(scale(tick))), f"{tick:g}") for tick in _ticks(low, high, measure.logarithmic)],
    )


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Return about five round numbers between two places of an axis."""
    if logarithmic:
        digits = (1, 2, 5) if high - low < 3 else (1,)
        numbers = [float(f"{digit}e{power}") for power in range(-1, 7) for digit in digits]
        return [number for number in numbers if low <= np.log10(number) <= high]
    steps = [float(f"{digit}e{power}") for power in range(-3, 7) for digit in (1, 2, 5)]
    step = next((step for step in steps if (high - low) / step <= 5), high)
    return [count * step for count in range(int(np.ceil(low / step)), int(high / step) + 1)]


def _logarithm(values: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(values, 0.1))


def _bars(keep: np.ndarray, drop: np.ndarray) -> Iterator[Bar]:
    """Yield a bar for each place where there is something; the smallest can still be seen."""
    width, tallest = (RIGHT - LEFT) / BARS, max(1, int((keep + drop).max()))
    for place, (kept, dropped) in enumerate(zip(keep.tolist(), drop.tolist(), strict=True)):
        heights = [max(1.5, (BOTTOM - TOP) * count / tallest) if count else 0.0 for count in (kept, dropped)]
        if any(heights):
            tops = BOTTOM - heights[0], BOTTOM - heights[0] - heights[1]
            numbers = LEFT + place * width, width - 0.6, tops[0], heights[0], tops[1], heights[1]
            yield Bar(*(round(number, 1) for number in numbers))
