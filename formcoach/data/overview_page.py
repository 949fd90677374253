"""A dataset's overview as one HTML page that needs nothing but itself."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from formcoach.data.clip_facts import ClipFacts
from formcoach.data.overview import ClassNumbers, Numbers, Overview
from formcoach.data.overview_clips import SplitClip
from formcoach.data.overview_concerns import Concern, reasons
from formcoach.data.overview_strips import FRAMES, Strip, jpeg
from formcoach.data.splits import SPLITS
from formcoach.pages import environment, script_of, shared_style

FOLDER = "dataset_report"  # of the templates
ROWS = 200  # classes in the table; the script shows more when asked, the text below it has all
EXERCISES_WITH_FAULTS = 200


@dataclass(frozen=True)
class _Shown:
    """A strip as the template wants it; `image` is a JPEG in base64, empty if the clip does not open."""

    clip: SplitClip
    reason: str
    fact: ClipFacts | None
    image: str = ""
    width: int = 0
    height: int = 0


def page(overview: Overview, concerns: Sequence[Concern], strips: Sequence[Strip], seed: int) -> str:
    """Return the page.

    Args:
        overview: the numbers.
        concerns: what to know first.
        strips: sample clips.
        seed: that they were drawn with.
    """
    templates = environment(FOLDER)
    templates.filters |= {
        "n": _whole,
        "short": _short,
        "percent": _percent,
        "shorten": shorten,
        "ratios": _ratios,
        "bin": _bin,
    }
    script, script_hash = script_of(FOLDER)
    cleaned = overview.cleaned
    return templates.get_template("page.html.jinja").render(
        o=overview,
        cards=[*headline(overview), (_short(overview.total.seconds / (overview.total.clips or 1)), "seconds a clip")],
        concerns=concerns,
        rows=ROWS,
        most=max((one.total for one in overview.classes), default=1),
        class_lines=class_lines(overview.classes),
        with_faults=[one for one in overview.classes if one.name in overview.faults_by_exercise],
        faulty=EXERCISES_WITH_FAULTS,
        labels_per_clip=[(_labels(labels), clips) for labels, clips in overview.labels_per_clip],
        strips=[_shown(strip, overview) for strip in strips],
        frames=FRAMES,
        seed=seed,
        skipped=reasons(clip.reason for clip in overview.skipped),
        rejected=reasons(reason for given in cleaned.rejected.values() for reason in given) if cleaned else [],
        people=_people,
        splits_of=lambda one: list(zip(SPLITS, one.clips, strict=True)),
        style=shared_style(),
        script=script,
        script_hash=script_hash,
    )


def class_lines(classes: Sequence[ClassNumbers]) -> str:
    """Return all classes as text, one a line, parted by tabs."""
    lines = ["\t".join(("exercise", *SPLITS, "all", "people", "minutes", "marks"))]
    for one in classes:
        numbers = (*map(str, one.clips), str(one.total), _people(one).replace(",", ""), f"{one.seconds / 60:.1f}")
        lines.append("\t".join((" ".join(shorten(one.name, 120).split()), *numbers, "; ".join(one.marks))))
    return "\n".join(lines) + "\n"


def shorten(text: object, most: int) -> str:
    """Return a text, cut where it is longer than `most` characters."""
    whole = str(text).encode("utf-8", "backslashreplace").decode()
    return whole if len(whole) <= most else whole[: most - 1] + "…"


def headline(overview: Overview) -> list[tuple[str, str]]:
    """Return the most important numbers, each with what it counts; `-` for people of whom nobody says who they are."""
    total = overview.total
    counted = (
        (total.clips, "clip", "clips"),
        (total.exercises, "exercise", "exercises"),
        (total.conversations, "conversation", "conversations"),
    )
    numbers = [(_whole(number), one if number == 1 else many) for number, one, many in counted]
    numbers.insert(1, (_people(total), "person" if total.people == 1 and not total.nameless else "people"))
    return [*numbers, (_short(total.seconds / 60), "minutes")]


def _shown(strip: Strip, overview: Overview) -> _Shown:
    fact = overview.measured.facts.get(strip.clip.path)
    if strip.frames is None:
        return _Shown(strip.clip, strip.reason, fact)
    count, height, width = strip.frames.shape[:3]
    return _Shown(strip.clip, "", fact, base64.b64encode(jpeg(strip.frames)).decode(), count * width, height)


def _people(numbers: Numbers | ClassNumbers) -> str:
    """Return how many people there are; `3+` where somebody is nameless."""
    if numbers.nameless and not numbers.people:
        return "-"
    return _whole(numbers.people) + ("+" if numbers.nameless else "")


def _labels(number: int) -> str:
    return {0: "none", 1: "1 label"}.get(number, f"{number} labels")


def _whole(number: float) -> str:
    return f"{number:,}"


def _short(number: float) -> str:
    """Return a number with as many decimals as matter."""
    if abs(number) >= 100 or number == int(number):
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}".rstrip("0").rstrip(".")


def _bin(bounds: tuple[float, float]) -> str:
    low, high = bounds
    return _short(low) if low == high else f"{_short(low)} to {_short(high)}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _ratios(ratios: Sequence[float]) -> str:
    return "/".join(f"{100 * ratio / (sum(ratios) or 1):g}" for ratio in ratios)
