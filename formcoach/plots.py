"""How a training went, as pictures: a PNG for each kind of curve, one of all of them, and a PDF."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from formcoach.curves import Curve, RunCurves
from formcoach.errors import UserError
from formcoach.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OVERVIEW, DOCUMENT = "overview.png", "training.pdf"
# Masataka Okabe and Kei Ito's palette, which colour-blind people can tell apart; its yellow is too light for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))
INK, SOFT, LIGHT = "#1c2430", "#5c6674", "#dfe3e8"
STYLE = {
    "font.size": 9,
    "text.parse_math": False,  # the name of a run may hold a dollar sign
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LIGHT,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "pdf.fonttype": 42,  # text that can be searched and edited
}
PIXELS = 100  # an inch
COLUMNS = 3  # of the overview
CELL = (5.3, 3.4)  # inches of a panel there
ALONE = (8.6, 4.8)  # inches of a panel that is a picture
MARGINS = (0.75, 0.5, 0.2, 0.6)  # inches of a panel left, below, right and above its curves
HEAD_ROW = 0.3  # inches
NAME = 60  # characters of a run's name at most
DRAWN = 2000  # points of a curve at most; more do not fit into the width of a picture
FEW = 30  # points up to here are marked
SMOOTHED = 10  # points from here on get a mean
WIDEST_MEAN = 501  # points
LOGARITHMIC = 100  # largest divided by smallest value from which on an axis is logarithmic


@dataclass(frozen=True)
class Line:
    """A curve of a panel.

    Args:
        curve: its name in `metrics.jsonl`.
        label: in the legend.
        marked: each point is marked, as they are few.
    """

    curve: str
    label: str
    marked: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves of one unit.

    Args:
        name: of the file.
        title: of the panel.
        unit: at the vertical axis.
        lines: what is drawn.
        smooth: the curves are noisy: their running mean is drawn too.
        from_zero: the vertical axis starts at 0; elsewhere it may be logarithmic.
        scale: values are multiplied by this.
        least: the vertical axis goes at least up to this.
    """

    name: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    smooth: bool = True
    from_zero: bool = True
    scale: float = 1.0
    least: float = 0.0

    def curves(self, run: RunCurves) -> list[tuple[int, Line, Curve]]:
        """Return the lines that a run has, with their numbers; a rate of 0 throughout says that nothing is trained."""
        found = [
            (number, line, run.curves[line.curve]) for number, line in enumerate(self.lines) if line.curve in run.curves
        ]
        return [one for one in found if self is not RATES or one[2].values.any()]


LOSS = Panel(
    "loss",
    "Loss",
    "nats per answer token",
    (Line("loss", "training"), Line("val_loss", "validation", marked=True)),
    from_zero=False,
)
RATES = Panel(
    "learning_rates",
    "Learning rates",
    "learning rate",
    (Line("lr", "language model"), Line("connector_lr", "connector"), Line("vit_lr", "vision tower")),
    smooth=False,
)
GRADIENTS = Panel("gradient_norm", "Gradients", "norm before it is cut", (Line("grad_norm", "norm"),), from_zero=False)
PANELS = (
    LOSS,
    RATES,
    GRADIENTS,
    Panel("tokens_per_second", "Speed in tokens", "tokens/s", (Line("tokens_per_second", "tokens"),)),
    Panel("samples_per_second", "Speed in clips", "clips/s", (Line("samples_per_second", "clips"),)),
    Panel("data_wait", "Waiting for data", "% of the time", (Line("data_wait", "waiting"),), scale=100, least=10),
    Panel("seconds", "Time of an optimizer step", "seconds", (Line("seconds", "time"),)),
    Panel("memory", "Most memory so far", "GB", (Line("memory_gb", "memory"),), smooth=False),
)


def panels_of(runs: Sequence[RunCurves]) -> list[Panel]:
    """Return the panels that one of the runs has curves for."""
    return [panel for panel in PANELS if any(panel.curves(run) for run in runs)]


def write_plots(runs: Sequence[RunCurves], folder: Path) -> list[Path]:
    """Draw the curves of runs over each other; return the files: the PNGs of the panels, the PDF and the overview.

    Args:
        runs: as many as `COLOURS` at most.
        folder: gets the files, each of them atomically.

    Raises:
        UserError: there are too many runs, or no folder can be made there.
    """
    if len(runs) > len(COLOURS):
        raise UserError(f"{len(runs)} runs: name {len(COLOURS)} at most, more colours cannot be told apart")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--output {folder}: a file is in its place; name another folder") from None
    panels = panels_of(runs)
    with _style():
        overview = _overview(runs, panels)
        alone = {f"{panel.name}.png": _alone(runs, panel) for panel in panels}
        written = [_save(figure, folder / name) for name, figure in alone.items()]
        written.append(_save_pages([overview, *alone.values()], folder / DOCUMENT))
        return [*written, _save(overview, folder / OVERVIEW)]


@contextmanager
def _style() -> Iterator[None]:
    """Draw in our own style instead of the user's."""
    import matplotlib as mpl

    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in characters that the font lacks: boxes
        mpl.rcdefaults()
        mpl.rcParams |= STYLE
        yield


def _save(figure: "Figure", path: Path) -> Path:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=PIXELS)
    return path


def _save_pages(figures: Sequence["Figure"], path: Path) -> Path:
    from matplotlib.backends.backend_pdf import PdfPages

    metadata = {"CreationDate": None, "Title": "formcoach training"}  # no date: the same curves give the same file
    with replacing(path) as temporary, PdfPages(temporary, metadata=metadata) as document:
        for figure in figures:
            document.savefig(figure)
    return path


def _overview(runs: Sequence[RunCurves], panels: Sequence[Panel]) -> "Figure":
    """Draw all panels in a grid; the loss takes two cells of it."""
    widths = [2 if panel is LOSS else 1 for panel in panels]
    ends = np.cumsum(widths)
    rows = -(-int(ends[-1]) // COLUMNS)
    figure = _headed_figure(runs, COLUMNS * CELL[0], rows * CELL[1], COLUMNS)
    for panel, end, width in zip(panels, ends.tolist(), widths, strict=True):
        row, column = divmod(end - width, COLUMNS)
        box = (column * CELL[0], (rows - 1 - row) * CELL[1], width * CELL[0], CELL[1])
        _draw(_axes(figure, box), panel, runs)
    return figure


def _alone(runs: Sequence[RunCurves], panel: Panel) -> "Figure":
    figure = _headed_figure(runs, *ALONE, columns=2)
    _draw(_axes(figure, (0, 0, *ALONE)), panel, runs)
    return figure


def _headed_figure(runs: Sequence[RunCurves], width: float, height: float, columns: int) -> "Figure":
    """Return a figure whose head says which run this is or, of several, which colour it has, in so many columns.

    Args:
        runs: what is drawn.
        width: in inches.
        height: in inches, without the head.
        columns: of the runs' names.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = -(-len(runs) // columns)
    total = height + (rows + 0.5) * HEAD_ROW
    figure = Figure(figsize=(width, total), dpi=PIXELS)
    FigureCanvasAgg(figure)
    top = 1 - 0.4 * HEAD_ROW / total
    if len(runs) == 1:
        parts = [names(runs)[0], f"to step {runs[0].last_step:,}", str(runs[0].settings.get("model", ""))]
        text = "    ".join(_short(part) for part in parts if part)
        figure.text(0.2 / width, top, text, fontsize=12 if columns > 2 else 10, va="top")
    else:
        entries = [Line2D([], [], color=colour, linewidth=3) for colour in COLOURS[: len(runs)]]
        place = {"loc": "upper left", "bbox_to_anchor": (0.1 / width, top + 0.1 / total), "borderpad": 0}
        figure.legend(entries, names(runs), ncols=columns, fontsize=10 if columns > 2 else 9, **place)
    return figure


def _axes(figure: "Figure", box: tuple[float, float, float, float]) -> "Axes":
    """Return axes for the curves of a panel; its box is left, bottom, width and height in inches."""
    left, below, right, above = MARGINS
    inner = (box[0] + left, box[1] + below, box[2] - left - right, box[3] - below - above)
    width, height = figure.get_size_inches()
    return figure.add_axes((inner[0] / width, inner[1] / height, inner[2] / width, inner[3] / height))


def names(runs: Sequence[RunCurves]) -> list[str]:
    """Return what tells runs apart: the names of their folders, else their paths."""
    short = [run.name for run in runs]
    return [_short(name) for name in (short if len(set(short)) == len(runs) else [str(run.folder) for run in runs])]


def _short(text: str) -> str:
    return text if len(text) <= NAME else "…" + text[1 - NAME :]


def _draw(axes: "Axes", panel: Panel, runs: Sequence[RunCurves]) -> None:
    """Draw a panel with its legend above the curves, where it hides nothing."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for number, run in enumerate(runs):
        for place, line, curve in panel.curves(run):
            colour = COLOURS[place if len(runs) == 1 else number]
            _draw_line(
                axes, panel, line, Curve(curve.steps, curve.values * panel.scale), colour, DASHES[place], len(runs)
            )
    least, most = axes.dataLim.intervaly.tolist()  # of what is drawn
    if panel is LOSS:
        _mark_best(axes, runs)
    if panel is GRADIENTS and len(runs) == 1:
        _draw_limit(axes, runs[0], least, most)
    _scale(axes, panel, least, most)
    means = ", running means" if panel.smooth and len(runs) > 1 else ""
    axes.set(title=panel.title + means, xlabel="optimizer step", ylabel=panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    _legend(axes, runs)


def _draw_line(axes: "Axes", panel: Panel, line: Line, curve: Curve, colour: str, dash: object, runs: int) -> None:
    """Draw a curve; noisy ones thinly, with their running mean, of several runs the mean alone."""
    look = {"color": colour, "linestyle": dash}
    points = {"marker": "o", "markersize": 4} if len(curve.steps) <= FEW or line.marked else {}
    smooth = panel.smooth and not line.marked and len(curve.steps) >= SMOOTHED
    if not smooth:
        _plot(axes, curve, label=line.label, linewidth=1.8, **look, **points)
    elif runs == 1:
        _plot(axes, curve, label=line.label, linewidth=0.8, alpha=0.45, **look)
    if smooth:
        mean, width = running_mean(curve)
        label = f"mean of {width} points" if runs == 1 else line.label
        _plot(axes, mean, label=label, linewidth=2, **look)
    lost = curve.steps[~np.isfinite(curve.values)]
    if len(lost):
        label = f"not finite: {len(lost):,}" if runs == 1 else "not finite"
        look = {"color": colour, "marker": "x", "linestyle": "none", "clip_on": False}
        places = lost[:: -(-len(lost) // DRAWN)]
        axes.plot(places, np.full(len(places), 0.02), transform=axes.get_xaxis_transform(), label=label, **look)


def _plot(axes: "Axes", curve: Curve, **look: object) -> None:
    thin = thinned(curve)
    axes.plot(thin.steps, np.where(np.isfinite(thin.values), thin.values, np.nan), **look)


def running_mean(curve: Curve) -> tuple[Curve, int]:
    """Return the mean of the finite values around each point, and of how many points it is (fewer at the ends)."""
    width = min(max(5, len(curve.values) // 20), WIDEST_MEAN) | 1
    finite = np.isfinite(curve.values)
    window = np.ones(width)
    half = width // 2
    sums = np.convolve(np.where(finite, curve.values, 0.0), window)[half:-half]  # (points,)
    counts = np.convolve(finite.astype(float), window)[half:-half].round()
    means = np.full(len(sums), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return Curve(curve.steps, means), width


def thinned(curve: Curve) -> Curve:
    """Return the least and the greatest of every so many points, so that no spike is lost."""
    total = len(curve.values)
    if total <= DRAWN:
        return curve
    size = -(-total // (DRAWN // 2))
    padded = np.full(-(-total // size) * size, np.nan)
    padded[:total] = curve.values
    parts = padded.reshape(-1, size)  # (parts, size)
    finite = np.isfinite(parts)
    starts = np.arange(len(parts)) * size
    lowest = starts + np.where(finite, parts, np.inf).argmin(axis=1)
    highest = starts + np.where(finite, parts, -np.inf).argmax(axis=1)
    chosen = np.unique(np.concatenate([[0], lowest, highest, [total - 1]]))
    return Curve(curve.steps[chosen], curve.values[chosen])


def _mark_best(axes: "Axes", runs: Sequence[RunCurves]) -> None:
    """Mark the best checkpoints."""
    for number, run in enumerate(runs):
        if run.best is not None:
            step, loss = run.best
            label = f"best: step {step:,}, {loss:.4g}" if len(runs) == 1 else "best checkpoint"
            colour = COLOURS[2] if len(runs) == 1 else COLOURS[number]
            look = {"marker": "*", "markersize": 15, "markeredgecolor": "white", "linestyle": "none", "zorder": 5}
            axes.plot([step], [loss], label=label, color=colour, **look)


def _draw_limit(axes: "Axes", run: RunCurves, least: float, most: float) -> None:
    """Draw the norm to which gradients are cut, where it is near the curve."""
    limit = run.settings.get("max_grad_norm")
    if isinstance(limit, float | int) and least / 2 <= limit <= most * 2:
        axes.axhline(limit, label=f"cut to {limit:g}", color=COLOURS[1], linestyle=DASHES[1], linewidth=1.2)


def _scale(axes: "Axes", panel: Panel, least: float, most: float) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if panel.from_zero:
        axes.set_ylim(0, max(most * 1.06, panel.least) if most > 0 else panel.least or 1)
    elif least > 0 and most / least > LOGARITHMIC:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def _legend(axes: "Axes", runs: Sequence[RunCurves]) -> None:
    """Put the legend between title and curves; a single curve is named by the title, runs by the figure's head."""
    found = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    if len(found) < 2:
        return
    axes.set_title(axes.get_title("left"), pad=24)
    place = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.0), "borderaxespad": 0.2, "columnspacing": 1.4}
    legend = axes.legend(found.values(), found, ncols=len(found), **place)
    if len(runs) > 1:
        for handle in legend.legend_handles:
            handle.set_color(SOFT)
