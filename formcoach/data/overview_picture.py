"""A dataset's overview as one picture, to look at or to put into a document."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from formcoach.data.overview import Histogram, Overview
from formcoach.data.overview_page import shorten
from formcoach.data.overview_strips import HEIGHT, WIDTH, Strip
from formcoach.data.splits import SPLITS
from formcoach.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = dict(zip(SPLITS, ("#2f6db3", "#c9790d", "#2a8a5e"), strict=True))
GREY, INK = "#7d8fa6", "#1c2430"
CLASSES, FAULTS, SAMPLES = 30, 18, 8
NAME = 34  # characters of a class or fault


def write_picture(path: Path, overview: Overview, strips: Sequence[Strip]) -> None:
    """Write the picture, 1600 x 1000 pixels, atomically.

    Args:
        path: of the PNG.
        overview: the numbers.
        strips: sample clips; one frame of each of some is shown.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # not the user's own style
        mpl.rcParams |= {
            "font.size": 9,
            "text.parse_math": False,  # a label may hold a dollar sign
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 11,
            "axes.labelcolor": INK,
            "text.color": INK,
        }
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the font has no emoji; the page shows them
        figure = Figure(figsize=(16, 10), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
        figure.suptitle(_title(overview), x=0.008, ha="left", fontsize=14)
        axes = figure.subplot_mosaic(
            [["classes", "durations", "faults"], ["classes", "words", "faults"], ["samples"] * 3],
            width_ratios=[1.15, 1, 1.15],
            height_ratios=[1, 1, 0.5],
        )
        _draw_classes(axes["classes"], overview)
        _draw_histogram(axes["durations"], overview.durations, "Length of the clips in seconds")
        _draw_histogram(axes["words"], overview.words, "Length of the answers in words")
        _draw_faults(axes["faults"], overview)
        _draw_samples(axes["samples"], strips)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")


def _title(overview: Overview) -> str:
    total = overview.total
    parts = [f"{total.clips:,} clips", f"{total.exercises:,} exercises", f"{total.seconds / 60:,.0f} minutes"]
    if total.people:
        parts.insert(1, f"{total.people:,} people")
    return ",  ".join(parts)


def _draw_classes(axes: "Axes", overview: Overview) -> None:
    classes = overview.classes[:CLASSES]
    places = np.arange(len(classes))
    start = np.zeros(len(classes))
    for number, split in enumerate(SPLITS):
        counts = np.array([one.clips[number] for one in classes], float)
        axes.barh(places, counts, left=start, color=COLOURS[split], label=split, height=0.75)
        start += counts
    axes.set_yticks(places, [_name(one.name) for one in classes])
    more = len(overview.classes) - len(classes)
    axes.set_title("Clips of each class" + (f" (and {more:,} classes more)" if more else ""))
    _tidy(axes, len(classes), CLASSES)
    axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor="none")


def _draw_faults(axes: "Axes", overview: Overview) -> None:
    faults = overview.faults[:FAULTS]
    axes.barh(np.arange(len(faults)), [count for _, count in faults], color=GREY, height=0.75)
    axes.set_yticks(np.arange(len(faults)), [_name(seen) for seen, _ in faults])
    more = len(overview.faults) - len(faults)
    axes.set_title("Most frequent faults and findings" + (f" (and {more:,} more)" if more else ""))
    _tidy(axes, len(faults), FAULTS)


def _tidy(axes: "Axes", rows: int, most: int) -> None:
    """Let bars start at the top, as thick as if there were at least a third of `most`."""
    axes.set_ylim(max(rows, most // 3) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#dfe3e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.locator_params(axis="x", integer=True, nbins=6)


def _draw_histogram(axes: "Axes", histogram: Histogram, title: str) -> None:
    """Draw a line a split, as shares, so that small splits can be compared with large ones."""
    edges = np.array(histogram.edges)
    for split, counts in histogram.counts.items():
        if sum(counts):
            shares = 100 * np.array(counts) / sum(counts)
            axes.stairs(shares, edges, color=COLOURS[split], linewidth=2, label=split)
    axes.set_title(title + (f" (from {edges[-1]:g} on: {histogram.more:,})" if histogram.more else ""))
    axes.set_ylabel("% of the split")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color="#dfe3e8", linewidth=0.8)
    axes.set_axisbelow(True)


def _draw_samples(axes: "Axes", strips: Sequence[Strip]) -> None:
    axes.set_axis_off()
    readable = [strip for strip in strips if strip.frames is not None]
    chosen = [readable[place * len(readable) // SAMPLES] for place in range(SAMPLES)] if readable else []
    chosen = list({strip.clip.path: strip for strip in chosen}.values())
    gap = 10
    axes.set_xlim(0, SAMPLES * (WIDTH + gap) - gap)
    axes.set_ylim(HEIGHT + 26, 0)
    axes.set_aspect("equal", anchor="W")
    for place, strip in enumerate(chosen):
        frame = strip.frames[len(strip.frames) // 2]
        height, width = frame.shape[:2]
        left, top = place * (WIDTH + gap) + (WIDTH - width) / 2, HEIGHT - height
        axes.imshow(frame, extent=(left, left + width, HEIGHT, top), interpolation="lanczos", zorder=2)
        axes.text(place * (WIDTH + gap), HEIGHT + 11, _name(strip.clip.exercise, 22), fontsize=8.5, va="center")
        axes.text(
            place * (WIDTH + gap),
            HEIGHT + 21,
            strip.clip.split,
            fontsize=8.5,
            va="center",
            color=COLOURS[strip.clip.split],
        )
    axes.set_xlim(0, SAMPLES * (WIDTH + gap) - gap)
    axes.set_ylim(HEIGHT + 26, 0)


def _name(text: str, most: int = NAME) -> str:
    return shorten(" ".join(text.split()), most) or "(no name)"
