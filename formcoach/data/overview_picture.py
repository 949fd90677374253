"""A dataset's overview as one picture, to look at or to put into a document."""

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from formcoach.data.overview import Histogram, Overview
from formcoach.data.overview_page import headline, shorten
from formcoach.data.overview_strips import Strip
from formcoach.data.splits import SPLITS
from formcoach.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (1600, 1000)  # pixels
COLOURS = dict(zip(SPLITS, ("#2f6db3", "#c9790d", "#2a8a5e"), strict=True))
GREY, LIGHT, INK, SOFT = "#7d8fa6", "#dfe3e8", "#1c2430", "#5c6674"
CLASSES, FAULTS, SAMPLES = 30, 20, 8
UNKNOWN = "□"  # a character that the font does not have, such as an emoji; the page shows them
NAME = 80  # characters of a class or fault at most, before they are fitted into their column
STYLE = {
    "font.size": 9,
    "text.parse_math": False,  # a label may hold a dollar sign
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LIGHT,
    "ytick.major.size": 0,
}

Box = tuple[float, float, float, float]  # left, bottom, width, height, as shares of the picture


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

    with mpl.rc_context():
        mpl.rcdefaults()  # not the user's own style
        mpl.rcParams |= STYLE
        figure = Figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100)
        FigureCanvasAgg(figure)
        _draw_header(figure, overview)
        _draw_classes(figure, overview)
        _draw_histogram(figure, (0.435, 0.62, 0.2, 0.285), overview.durations, "Length of the clips", "seconds")
        _draw_histogram(figure, (0.435, 0.235, 0.2, 0.285), overview.words, "Length of the answers", "words")
        _draw_faults(figure, overview)
        _draw_samples(figure, strips)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png")


def _draw_header(figure: "Figure", overview: Overview) -> None:
    parts = "    ".join(f"{value} {what}" for value, what in headline(overview) if value != "-")
    figure.text(0.012, 0.963, parts, fontsize=15, va="center")
    right = 0.984
    for split, numbers in reversed(overview.splits.items()):
        badge = figure.text(
            right, 0.963, f"{split} {numbers.clips:,}", fontsize=11, ha="right", va="center", color="white"
        )
        badge.set_bbox({"boxstyle": "round,pad=0.4", "facecolor": COLOURS[split], "edgecolor": "none"})
        right -= badge.get_window_extent(figure.canvas.get_renderer()).width / SIZE[0] + 0.016


def _draw_classes(figure: "Figure", overview: Overview) -> None:
    classes = overview.classes[:CLASSES]
    axes = _axes(figure, (0.17, 0.22, 0.19, 0.685), "Clips of each class", 0.012)
    start = np.zeros(len(classes))
    for number, split in enumerate(SPLITS):
        counts = np.array([one.clips[number] for one in classes], float)
        axes.barh(np.arange(len(classes)), counts, left=start, color=COLOURS[split], height=0.75)
        start += counts
    _name_bars(axes, [(one.name, one.total) for one in classes], CLASSES, len(overview.classes), "classes")


def _draw_faults(figure: "Figure", overview: Overview) -> None:
    faults = overview.faults[:FAULTS]
    axes = _axes(figure, (0.82, 0.22, 0.14, 0.685), "Most frequent faults and findings", 0.662)
    axes.barh(np.arange(len(faults)), [count for _, count in faults], color=GREY, height=0.75)
    _name_bars(axes, faults, FAULTS, len(overview.faults), "of them")


def _axes(figure: "Figure", box: Box, title: str, left: float) -> "Axes":
    """Return axes in a box; their title starts at `left`."""
    figure.text(left, box[1] + box[3] + 0.008, title, fontsize=11, weight="bold", va="bottom")
    return figure.add_axes(box)


def _name_bars(axes: "Axes", bars: Sequence[tuple[str, int]], most: int, total: int, what: str) -> None:
    """Write names before bars, fitted into 0.15 of the picture, and numbers behind them.

    Args:
        axes: with the bars.
        bars: names and lengths, the longest first.
        most: bars that fit; fewer are as thick as if there were at least a third of them.
        total: how many there are, drawn or not.
        what: they are.
    """
    fitted = _fitting(axes, 0.15, 9)
    longest = max((count for _, count in bars), default=0) or 1
    axes.set_yticks(np.arange(len(bars)), [fitted(name) for name, _ in bars])
    axes.set_ylim(max(len(bars), most // 3) - 0.4, -0.6)
    axes.set_xlim(0, longest * 1.02)
    axes.set_xticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    for place, (_, count) in enumerate(bars):
        axes.text(count + longest * 0.02, place, f"{count:,}", va="center", fontsize=8, color=SOFT, clip_on=False)
    if total > len(bars):
        axes.text(0, -0.005, f"and {total - len(bars):,} {what} more", transform=axes.transAxes, va="top", color=SOFT)


def _fitting(axes: "Axes", width: float, size: float) -> Callable[[str], str]:
    """Return a function that shortens a text until it fits into `width` (a share of the picture's).

    Marks that go on top of other characters are left out: what the font cannot show must not disturb the rest.
    """
    from matplotlib.font_manager import FontProperties, findfont, get_font

    renderer, font = axes.figure.canvas.get_renderer(), FontProperties(size=size)
    known = get_font(findfont(font)).get_charmap()

    def fitted(text: str) -> str:
        visible = (char for char in shorten(" ".join(text.split()), NAME) if unicodedata.category(char)[0] not in "CM")
        text = "".join(char if ord(char) in known else UNKNOWN for char in visible) or "(no name)"
        while len(text) > 1 and renderer.get_text_width_height_descent(text, font, False)[0] > width * SIZE[0]:
            text = text.removesuffix("…")[:-1].rstrip() + "…"
        return text

    return fitted


def _draw_histogram(figure: "Figure", box: Box, histogram: Histogram, title: str, unit: str) -> None:
    """Draw a line a split, as shares, so that small splits can be compared with large ones."""
    axes = _axes(figure, box, title, box[0] - 0.033)
    edges = np.array(histogram.edges)
    for split, counts in histogram.counts.items():
        if sum(counts):
            axes.stairs(100 * np.array(counts) / sum(counts), edges, color=COLOURS[split], linewidth=2)
    axes.set_ylabel("% of the split")
    axes.set_xlabel(unit + (f"   ({histogram.more:,} beyond {edges[-1]:g})" if histogram.more else ""))
    axes.set_ylim(bottom=0)
    axes.grid(axis="y")


def _draw_samples(figure: "Figure", strips: Sequence[Strip]) -> None:
    """Draw the frame in the middle of some clips, spread over those that there are."""
    readable = [strip for strip in strips if strip.frames is not None]
    number = min(SAMPLES, len(readable))
    chosen = [readable[place * len(readable) // number] for place in range(number)]
    step = 0.976 / SAMPLES
    for place, strip in enumerate(chosen):
        axes = figure.add_axes((0.012 + place * step, 0.05, step - 0.008, 0.13))
        axes.imshow(strip.frames[len(strip.frames) // 2], interpolation="lanczos")
        axes.set_anchor("W")
        axes.set_axis_off()
        name = _fitting(axes, step - 0.012, 8.5)(strip.clip.exercise)
        figure.text(0.012 + place * step, 0.035, name, fontsize=8.5, va="center")
        figure.text(
            0.012 + place * step, 0.017, strip.clip.split, fontsize=8.5, va="center", color=COLOURS[strip.clip.split]
        )
