"""How the demo's people look on camera: a person's appearance, room and camera, and the picture of a pose."""

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from formcoach.data.demo_motion import JOINTS, Body, Exercise, Style

Colour = tuple[int, int, int]  # RGB
_INDEX = {name: i for i, name in enumerate(JOINTS)}

SKINS = ((241, 205, 178), (224, 172, 132), (198, 140, 100), (160, 105, 72), (120, 78, 52), (88, 58, 42))
SHIRTS = ((200, 54, 58), (36, 102, 190), (40, 150, 92), (235, 170, 40), (128, 62, 160), (240, 240, 236), (30, 32, 40),
          (230, 110, 60), (70, 180, 190), (214, 92, 150))  # fmt: skip
TROUSERS = ((32, 36, 52), (64, 70, 84), (24, 64, 104), (90, 44, 60), (120, 120, 124), (40, 76, 60), (150, 126, 96))
HAIRS = ((30, 22, 18), (70, 46, 28), (150, 108, 60), (200, 170, 110), (120, 120, 120), (110, 48, 28))
WALLS = ((206, 200, 190), (178, 192, 204), (196, 184, 170), (168, 180, 166), (214, 208, 212), (140, 150, 164),
         (188, 170, 158), (226, 220, 204))  # fmt: skip
FLOORS = ((150, 118, 88), (120, 124, 128), (96, 84, 76), (170, 150, 120), (88, 100, 112), (136, 96, 70))


@dataclass(frozen=True)
class Person:
    """One person of the demo with everything that stays the same in all of their clips.

    Attributes:
        body: lengths of the parts in metres.
        girth: thickness of the limbs, 1 = average.
        azimuth: camera's deviation from an exercise's usual view in degrees; `mirrored` films from the other side.
        elevation: camera's height as an angle above the horizon in degrees.
        distance: camera distance, 1 = the exercise's usual framing.
        light: brightness factor; `warmth` shifts red against blue.
        noise: standard deviation of the sensor noise in grey levels.
        tempo: this person's own factor on the duration of a repetition.
        room: seed of the background.
    """

    body: Body
    girth: float
    skin: Colour
    shirt: Colour
    trousers: Colour
    hair: Colour
    long_hair: bool
    sleeves: bool
    shorts: bool
    azimuth: float
    mirrored: bool
    elevation: float
    distance: float
    light: float
    warmth: float
    noise: float
    tempo: float
    room: int


def sample_person(rng: np.random.Generator) -> Person:
    """Draw a person."""
    height = rng.uniform(0.9, 1.1)

    def length(mean: float) -> float:
        return float(mean * height * rng.uniform(0.95, 1.05))

    usual = Body()
    body = Body(**{name: length(getattr(usual, name)) for name in Body.__dataclass_fields__})

    def one_of(colours: tuple[Colour, ...]) -> Colour:
        chosen = np.array(colours[rng.integers(len(colours))]) + rng.integers(-12, 13, 3)
        return tuple(int(c) for c in chosen.clip(0, 255))

    return Person(
        body=body,
        girth=float(rng.uniform(0.88, 1.18)),
        skin=one_of(SKINS),
        shirt=one_of(SHIRTS),
        trousers=one_of(TROUSERS),
        hair=one_of(HAIRS),
        long_hair=bool(rng.random() < 0.4),
        sleeves=bool(rng.random() < 0.3),
        shorts=bool(rng.random() < 0.4),
        azimuth=float(rng.uniform(-14, 14)),
        mirrored=bool(rng.random() < 0.5),
        elevation=float(rng.uniform(3, 12)),
        distance=float(rng.uniform(0.94, 1.12)),
        light=float(rng.uniform(0.78, 1.1)),
        warmth=float(rng.uniform(-0.06, 0.06)),
        noise=float(rng.integers(3, 13)) / 2,
        tempo=float(rng.uniform(0.95, 1.05)),
        room=int(rng.integers(2**31)),
    )


@dataclass(frozen=True)
class Take:
    """One clip before it is filmed.

    Attributes:
        person: who moves.
        exercise: what they do.
        style: how they do it.
        duration: length in seconds.
        period: seconds per repetition.
        start: phase at the first frame, in repetitions.
        stop: second at which a person who stops early comes to rest, at the end of a repetition.
        pan: where the person stands, in picture heights off the centre.
        seed: seed of the sensor noise.
    """

    person: Person
    exercise: Exercise
    style: Style
    duration: float
    period: float
    start: float
    stop: float
    pan: tuple[float, float]
    seed: int

    def phase(self, time: float) -> float:
        """Return the repetition phase at a time in seconds."""
        return self.start + min(time, self.stop) / self.period

    def joints(self, time: float) -> np.ndarray:
        """Return the joints in the person's frame at a time: (17, 3) metres."""
        return self.exercise.pose(self.person.body, self.phase(time), self.style)


def sample_take(rng: np.random.Generator, person: Person, exercise: Exercise, style: Style) -> Take:
    """Draw the circumstances of one clip; its length does not depend on what is shown."""
    duration = float(rng.uniform(3.0, 6.0))
    period = float(rng.uniform(*exercise.periods[style.pace]) * person.tempo)
    start = float(rng.uniform(0, 2))
    stop = duration
    if style.stops:
        repetitions = max(1.0, math.floor(duration * rng.uniform(0.3, 0.5) / period + start) - math.floor(start))
        stop = (math.floor(start) + repetitions - start) * period
    pan = (float(rng.uniform(-0.09, 0.09)), float(rng.uniform(-0.02, 0.02)))
    return Take(person, exercise, style, duration, period, start, stop, pan, int(rng.integers(2**31)))


def draw(take: Take, time: float, width: int = 640, height: int = 480) -> np.ndarray:
    """Return the picture at a time in seconds: (height, width, 3) uint8 RGB."""
    points, depths, scale = project(take, take.joints(time), width, height)
    person = take.person
    picture = _room(person.room, take.exercise.target, person.light, person.warmth, width, height).copy()
    _draw_shadow(picture, points, scale)
    _draw_person(picture, take, points, depths, scale)
    return _add_noise(picture, person.noise, take.seed + int(time * 1000))


def project(take: Take, joints: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Project joints onto the picture.

    Args:
        take: whose camera is used.
        joints: (N, 3) metres.
        width: of the picture in pixels.
        height: of the picture in pixels.

    Returns:
        points (N, 2) in pixels, depths (N,) in metres from the camera, and pixels per metre at the person.
    """
    person, exercise = take.person, take.exercise
    azimuth = math.radians(exercise.view + person.azimuth)
    if person.mirrored:
        azimuth = -azimuth
    tilt = math.radians(person.elevation)
    shifted = joints - np.array((0.0, exercise.target, _middle(exercise)))
    right = np.array((math.cos(azimuth), 0.0, -math.sin(azimuth)))
    towards = np.array((math.sin(azimuth) * math.cos(tilt), math.sin(tilt), math.cos(azimuth) * math.cos(tilt)))
    up = np.cross(towards, right)
    camera = 4.2
    depths = camera - shifted @ towards
    scale = exercise.zoom / person.distance * height
    perspective = scale * camera / depths
    x = width / 2 + take.pan[0] * height + shifted @ right * perspective
    y = height / 2 + take.pan[1] * height - shifted @ up * perspective
    return np.stack((x, y), axis=1), depths, scale


def _middle(exercise: Exercise) -> float:
    return {"push-ups": -0.55, "forward lunges": 0.3}.get(exercise.name, 0.0)


@lru_cache(maxsize=64)
def _room(seed: int, target: float, light: float, warmth: float, width: int, height: int) -> np.ndarray:
    """Paint a person's room: wall, floor, some furniture."""
    rng = np.random.default_rng(seed)
    wall = np.array(WALLS[rng.integers(len(WALLS))], dtype=np.float32)
    floor = np.array(FLOORS[rng.integers(len(FLOORS))], dtype=np.float32)
    horizon = int(height * (0.60 if target > 0.6 else 0.42) + rng.uniform(-0.03, 0.03) * height)
    picture = np.empty((height, width, 3), dtype=np.float32)
    shade = np.linspace(0.9, 1.06, width, dtype=np.float32)
    shade = shade if rng.random() < 0.5 else shade[::-1]
    picture[:horizon] = wall * shade[None, :, None]
    fall = np.linspace(0.8, 1.08, height - horizon, dtype=np.float32)
    picture[horizon:] = floor * fall[:, None, None]
    unit = height / 480
    for _ in range(rng.integers(2, 5)):
        x, w, h = rng.uniform(0, width), rng.uniform(40, 130) * unit, rng.uniform(50, 190) * unit
        top = rng.uniform(0.05, 0.25) * height if rng.random() < 0.5 else horizon - h
        colour = wall * rng.uniform(0.72, 1.15) + rng.uniform(-14, 14, 3)
        cv2.rectangle(picture, (int(x), int(top)), (int(x + w), int(top + h)), tuple(float(c) for c in colour), -1)
    cv2.line(picture, (0, horizon), (width, horizon), tuple(float(c) for c in wall * 0.72), max(1, int(3 * unit)))
    mat = floor * 0.8 + np.array(SHIRTS[rng.integers(len(SHIRTS))]) * 0.2
    cv2.ellipse(picture, (width // 2, int(height * 0.86)), (int(width * 0.36), int(height * 0.09)), 0, 0, 360,
                tuple(float(c) for c in mat), -1, cv2.LINE_AA)  # fmt: skip
    picture *= light * np.array((1 + warmth, 1.0, 1 - warmth), dtype=np.float32)
    picture = cv2.GaussianBlur(picture, (0, 0), 1.2 * unit)
    return picture.clip(0, 255).astype(np.uint8)


def _draw_shadow(picture: np.ndarray, points: np.ndarray, scale: float) -> None:
    low = points[:, 1].max()
    left, right = points[:, 0].min(), points[:, 0].max()
    centre = (int((left + right) / 2), int(min(low + 0.01 * scale, picture.shape[0] - 2)))
    axes = (int(max(right - left, 0.3 * scale) * 0.55), int(0.06 * scale))
    top, bottom = max(centre[1] - axes[1] - 2, 0), centre[1] + axes[1] + 2
    patch = picture[top:bottom]
    dark = patch.copy()
    cv2.ellipse(dark, (centre[0], centre[1] - top), axes, 0, 0, 360, (30, 28, 28), -1, cv2.LINE_AA)
    cv2.addWeighted(dark, 0.35, patch, 0.65, 0, dst=patch)


def _draw_person(picture: np.ndarray, take: Take, points: np.ndarray, depths: np.ndarray, scale: float) -> None:
    """Draw the body's parts from the farthest to the nearest, each with a darker rim that sets it off."""
    person = take.person
    unit = scale * person.girth
    arm = person.shirt if person.sleeves else person.skin
    shin = person.skin if person.shorts else person.trousers
    parts = []  # (depth, corner joints, radii in metres, colour)
    for side in ("l", "r"):
        at = {name: _INDEX[f"{name}_{side}"] for name in ("shoulder", "elbow", "hand", "hip", "knee", "ankle", "toe")}
        parts += [
            ((at["shoulder"], at["elbow"]), (0.058, 0.046), person.shirt),
            ((at["elbow"], at["hand"]), (0.044, 0.036), arm),
            ((at["hip"], at["knee"]), (0.088, 0.062), person.trousers),
            ((at["knee"], at["ankle"]), (0.058, 0.042), shin),
            ((at["ankle"], at["toe"]), (0.045, 0.032), (236, 236, 232)),
        ]
    hips, shoulders = (_INDEX["hip_l"], _INDEX["hip_r"]), (_INDEX["shoulder_l"], _INDEX["shoulder_r"])
    parts.append(((*shoulders, *hips), (0.07, 0.07, 0.085, 0.085), person.shirt))
    parts.append((hips, (0.1, 0.1), person.trousers))
    near, far = depths.min(), depths.max()
    away = depths.tolist()
    placed = [(sum(away[corner] for corner in part[0]) / len(part[0]), part) for part in parts]
    for depth, (corners, radii, colour) in sorted(placed, key=lambda entry: -entry[0]):
        fade = 1.0 - 0.3 * (depth - near) / max(far - near, 0.25)
        lit, widths = _lit(colour, person, fade), np.array(radii) * unit
        _fill(picture, _hull(points[list(corners)], widths + 0.012 * scale), _times(lit, 0.55))
        _fill(picture, _hull(points[list(corners)], widths), lit)
    _draw_head(picture, person, points, scale)
    if take.exercise.weights:
        for name in ("hand_l", "hand_r"):
            _fill(picture, _circle(points[_INDEX[name]], 0.085 * scale), _lit((40, 42, 48), person, 1.0))


def _draw_head(picture: np.ndarray, person: Person, points: np.ndarray, scale: float) -> None:
    neck, head = points[_INDEX["neck"]], points[_INDEX["head"]]
    skin, hair = _lit(person.skin, person, 1.0), _lit(person.hair, person, 1.0)
    along = (head - neck) / max(float(np.linalg.norm(head - neck)), 1e-6)
    _fill(picture, _hull(np.stack((neck, head)), np.array((0.05, 0.05)) * scale), _times(skin, 0.8))
    if person.long_hair:
        _fill(picture, _hull(np.stack((head, head - along * 0.16 * scale)), np.array((0.12, 0.07)) * scale), hair)
    _fill(picture, _circle(head, 0.122 * scale), _times(hair, 0.8))
    _fill(picture, _circle(head - along * 0.018 * scale, 0.1 * scale), skin)
    _fill(picture, _circle(head + along * 0.06 * scale, 0.075 * scale), hair)


def _lit(colour: Colour, person: Person, fade: float) -> Colour:
    gains = (1 + person.warmth, 1.0, 1 - person.warmth)
    return tuple(int(min(255, c * g * person.light * fade)) for c, g in zip(colour, gains, strict=True))


def _times(colour: Colour, factor: float) -> Colour:
    return tuple(int(c * factor) for c in colour)


_ANGLES = np.linspace(0, 2 * np.pi, 16, endpoint=False)
_CIRCLE = np.stack((np.cos(_ANGLES), np.sin(_ANGLES)), axis=1)  # (16, 2)
_SUBPIXEL_BITS = 4


def _circle(centre: np.ndarray, radius: float) -> np.ndarray:
    return centre + _CIRCLE * radius


def _hull(centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the convex outline around circles: centres (N, 2), radii (N,) -> (M, 2)."""
    rim = centres[:, None] + _CIRCLE[None] * radii[:, None, None]  # (N, 16, 2)
    return cv2.convexHull(rim.reshape(-1, 2).astype(np.float32))[:, 0]


def _fill(picture: np.ndarray, outline: np.ndarray, colour: Colour) -> None:
    fixed = np.round(outline * (1 << _SUBPIXEL_BITS)).astype(np.int32)
    cv2.fillConvexPoly(picture, fixed, colour, cv2.LINE_AA, _SUBPIXEL_BITS)


@lru_cache(maxsize=1)
def _grain() -> np.ndarray:
    """One large field of unit noise; each frame uses its own window of it."""
    return np.random.default_rng(0).standard_normal((1100, 1300), dtype=np.float32)


@lru_cache(maxsize=16)
def _scaled_grain(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return what noise adds and what it takes away; OpenCV sums equal types several times as fast as mixed ones."""
    grain = (_grain() * sigma).round()
    return tuple(np.repeat(part.clip(0).astype(np.uint8)[:, :, None], 3, axis=2) for part in (grain, -grain))


def _add_noise(picture: np.ndarray, sigma: float, seed: int) -> np.ndarray:
    more, less = _scaled_grain(sigma)
    height, width = picture.shape[:2]
    rng = np.random.default_rng(seed)
    y, x = int(rng.integers(more.shape[0] - height)), int(rng.integers(more.shape[1] - width))
    window = (slice(y, y + height), slice(x, x + width))
    return cv2.subtract(cv2.add(picture, more[window]), less[window])
