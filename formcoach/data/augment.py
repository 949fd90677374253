"""Augmentations: what may be done to a clip, how strongly, and which labels forbid it.

An augmentation is drawn once for a whole clip; what was drawn is a record, `{"rotation": 4.2, ...}`, that says all
there is to know about it. A label must stay true, so each augmentation names the words of a label that forbid it:
a clip whose label says "too fast" is not slowed down. All words are English, as QEVD's are. What a record does to
pixels is in `augment_picture`, what it does to the choice of frames is `timeline`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from formcoach.data.sides import sides_are_unclear, swap_sides
from formcoach.errors import UserError

Changes = Mapping[str, float]  # what was drawn: parameter -> value

MIRRORING = ("horizontal_flip", "vertical_flip")  # a picture mirrored either way shows the other arm
FEWEST_FRAMES = 2  # that a cut leaves of a clip

# What labels talk about. A stem stands for its endings, too: "slow" for "slowly".
_SPEED = (
    "abrupt accelerat bounc brisk cadence control explosive fast hast hasti held hurr jerk minute momentum pac "
    "quick rapid rhythm rush second seconds slow sluggish smooth snap speed steady steadily sudden swift tempo time "
    "timing"
)
_MOMENT = (
    "again another before after begin break complet count early end final finish first half held hold incomplete "
    "last late midway minute moment once partial paus phase rep repetition repeat rest second seconds start stop "
    "switch then time times transition twice until while"
)
_PLACE = (
    "camera close distance distant far farther frame framing visib visible invisible view centre center centred "
    "screen position background mirror"
)
_LIGHT = "bright dark dim light lighting lit shadow shade exposure expos glare visib visible invisible"
_SHARP = "blur blurr blurry focus grain noise noisy pixelated quality sharp unclear visib visible invisible"
_COLOUR = "black blue brown color colour gray green grey orange pink purple red white yellow shirt clothing"
_ANGLE = "angle degree diagonal horizontal incline lean perpendicular slant slope tilt upright vertical"


_ENDINGS = "s es e d ed ing led ling ped ping ly er est ness ion ic y ies ied ying ier"
_WORD = re.compile(r"[a-z]+")


def _words(*stems: str) -> frozenset[str]:
    """Return the stems with all endings."""
    return frozenset(stem + ending for stem in " ".join(stems).split() for ending in ("", *_ENDINGS.split()))


@dataclass(frozen=True)
class Augmentation:
    """Something that may be done to a clip.

    Args:
        name: as users write it.
        parameters: name -> lowest and highest value; drawn evenly between them.
        chance: how often it is part of a draw.
        forbidden: words of labels that it would falsify.
        default: whether it is among those used when none are named.
    """

    name: str
    parameters: Mapping[str, tuple[float, float]]
    chance: float
    forbidden: frozenset[str] = frozenset()
    default: bool = True


_ALL = (
    # Mirroring exchanges left and right in the labels; those in which they cannot be told apart forbid it.
    Augmentation("horizontal_flip", {"horizontal_flip": (1, 1)}, 0.5),
    Augmentation("vertical_flip", {"vertical_flip": (1, 1)}, 0.5, default=False),
    # In degrees, positive is counter-clockwise. The camera turns, the person does not: posture stays what it is.
    Augmentation("rotation", {"rotation": (-8, 8)}, 0.4, _words("camera")),
    # Factor of the size; below 1 the picture is continued by its reflection, much above it would lose feet and heads.
    Augmentation("scale", {"scale": (0.88, 1.08)}, 0.4, _words(_PLACE)),
    # Shares of the width and the height.
    Augmentation(
        "translation", {"translation_x": (-0.05, 0.05), "translation_y": (-0.05, 0.05)}, 0.4, _words(_PLACE)
    ),
    # In degrees by which uprights lean; this does change angles between limbs, if little.
    Augmentation("shear", {"shear": (-5, 5)}, 0.25, _words(_PLACE, _ANGLE)),
    # Standard deviation of the Gaussian, in thousandths of the height (2 is about a pixel of 480).
    Augmentation("blur", {"blur": (0.8, 3)}, 0.2, _words(_SHARP)),
    # Factors of all values, and of their distance from mid-grey.
    Augmentation("brightness", {"brightness": (0.7, 1.3)}, 0.4, _words(_LIGHT)),
    Augmentation("contrast", {"contrast": (0.75, 1.25)}, 0.4, _words(_LIGHT)),
    # Hue in degrees around the colour circle, and a factor of the saturation.
    Augmentation("colour", {"hue": (-12, 12), "saturation": (0.6, 1.4)}, 0.4, _words(_COLOUR)),
    Augmentation("colour_inversion", {"colour_inversion": (1, 1)}, 0.5, _words(_COLOUR, _LIGHT), default=False),
    # Share of the pixels that turn black or white, others in each frame.
    Augmentation("salt_and_pepper", {"salt_and_pepper": (0.001, 0.01)}, 0.15, _words(_SHARP)),
    # JPEG's quality setting.
    Augmentation("jpeg", {"jpeg_quality": (25, 70)}, 0.2, _words(_SHARP)),
    # Factor of the speed.
    Augmentation("tempo", {"tempo": (0.8, 1.25)}, 0.4, _words(_SPEED)),
    # Shares of the clip that are cut off.
    Augmentation(
        "temporal_crop", {"cut_start": (0, 0.12), "cut_end": (0, 0.12)}, 0.3, _words(_SPEED, _MOMENT)
    ),
)  # fmt: skip
AUGMENTATIONS = {augmentation.name: augmentation for augmentation in _ALL}
_SHARES = sum(1 + len(augmentation.parameters) for augmentation in _ALL)  # random numbers that a draw takes
DEFAULT = tuple(augmentation.name for augmentation in _ALL if augmentation.default)


def check_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Return names of augmentations, each once and in the order in which they are applied.

    Args:
        names: as a user wrote them.
        where: opens the message, e.g. `--augmentations`.

    Raises:
        UserError: there is no such augmentation, or none is named.
    """
    unknown = [name for name in names if name not in AUGMENTATIONS]
    if unknown or not names:
        what = f"{unknown[0]!r} is no augmentation" if unknown else "no augmentation is named"
        raise UserError(f"{where}: {what}; there are {', '.join(AUGMENTATIONS)}")
    return tuple(name for name in AUGMENTATIONS if name in names)


def allowed(names: Sequence[str], texts: Sequence[str]) -> tuple[str, ...]:
    """Return those of the augmentations that leave every text true (mirroring after `mirror_text`)."""
    words = set(_WORD.findall(" ".join(texts).lower()))
    names = tuple(name for name in names if AUGMENTATIONS[name].forbidden.isdisjoint(words))
    if any(sides_are_unclear(text) for text in texts):
        names = tuple(name for name in names if name not in MIRRORING)
    return names


def draw(names: Sequence[str], generator: np.random.Generator, at_least_one: bool = False) -> dict[str, float]:
    """Draw which of the augmentations to apply, and how strongly.

    Args:
        names: of what may be applied. What is drawn for one does not depend on which others there are.
        generator: decides.
        at_least_one: draw one where chance would draw none.

    Returns:
        The record: parameters by name, rounded to 4 decimals.
    """
    shares = iter(generator.random(_SHARES).tolist())
    chances, drawn = {}, {}
    for name, augmentation in AUGMENTATIONS.items():
        chances[name] = next(shares) / augmentation.chance
        drawn[name] = {
            parameter: round(low + (high - low) * next(shares), 4)
            for parameter, (low, high) in augmentation.parameters.items()
        }
    chosen = [name for name in names if chances[name] < 1]
    if not chosen and names and at_least_one:
        chosen = [min(names, key=chances.__getitem__)]
    return {parameter: value for name in chosen for parameter, value in drawn[name].items()}


def strongest(name: str) -> dict[str, float]:
    """Return the record of an augmentation at its upper end."""
    return {parameter: high for parameter, (_, high) in AUGMENTATIONS[name].parameters.items()}


def longest(names: Sequence[str]) -> list[Changes]:
    """Return records of which one gives a sample as many tokens as any draw from these augmentations can."""
    slow: list[Changes] = [{}, {"tempo": AUGMENTATIONS["tempo"].parameters["tempo"][0]}] if "tempo" in names else [{}]
    mirrored = [{}, {MIRRORING[0]: 1.0}] if any(name in names for name in MIRRORING) else [{}]
    return [{**one, **other} for one in slow for other in mirrored]


def is_mirrored(changes: Changes) -> bool:
    """Tell whether a record mirrors the picture: one flip does, two only turn it."""
    return sum(name in changes for name in MIRRORING) % 2 == 1


def mirror_text(text: str, changes: Changes) -> str:
    """Return a text about a clip as it reads after the changes."""
    return swap_sides(text) if is_mirrored(changes) else text


def changes_time(changes: Changes) -> bool:
    """Tell whether a record changes which frames are shown."""
    return any(name in changes for name in ("tempo", "cut_start", "cut_end"))


def timeline(changes: Changes, frames: int) -> list[int]:
    """Return, for each frame of the changed clip, the frame of the original that it shows.

    The changed clip has the frame rate of the original.

    Args:
        changes: the record.
        frames: how many the original has.
    """
    first = int(frames * changes.get("cut_start", 0.0))
    end = frames - int(frames * changes.get("cut_end", 0.0))
    if end - first < FEWEST_FRAMES:
        first, end = 0, frames
    tempo = changes.get("tempo", 1.0)
    length = max(round((end - first) / tempo), 1)
    return [min(first + int((index + 0.5) * tempo), end - 1) for index in range(length)]
