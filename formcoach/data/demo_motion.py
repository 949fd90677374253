"""How the demo's people move: a jointed body, six exercises, and what can go wrong in each.

Coordinates are metres in the person's own frame: x to their left, y up, z forward. A pose is made by placing pelvis,
trunk, hands and feet; elbows and knees follow by two-bone inverse kinematics.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Vector = np.ndarray  # (3,) float64

JOINTS = (
    "pelvis", "neck", "head",
    "shoulder_l", "elbow_l", "hand_l", "shoulder_r", "elbow_r", "hand_r",
    "hip_l", "knee_l", "ankle_l", "toe_l", "hip_r", "knee_r", "ankle_r", "toe_r",
)  # fmt: skip


@dataclass(frozen=True)
class Body:
    """Lengths of a person's parts in metres."""

    trunk: float = 0.52
    head: float = 0.23
    shoulders: float = 0.19  # half the width
    hips: float = 0.11  # half the width
    upper_arm: float = 0.29
    forearm: float = 0.27
    thigh: float = 0.43
    shin: float = 0.43
    foot: float = 0.2

    @property
    def arm(self) -> float:
        """Reach of an arm."""
        return self.upper_arm + self.forearm

    @property
    def leg(self) -> float:
        """Length of a leg, hip to ankle."""
        return self.thigh + self.shin


ANKLE_HEIGHT = 0.08


@dataclass(frozen=True)
class Style:
    """How one clip's motion is done; the defaults are correct form at a steady pace.

    Attributes:
        depth: share of the full range of motion, 0 to 1.
        lean: extra pitch of the trunk in degrees, positive forward.
        knees_in: 0 = knees over the feet, 1 = knees touching.
        hips: offset of the hips from the body line in metres (push-ups), negative sagging.
        feet: share of the full foot travel (jumping jacks).
        lag: share of the motion that the right arm leaves out.
        pace: ``"slow"``, ``"steady"`` or ``"fast"``.
        stops: the person stands still for the later part of the clip.
    """

    depth: float = 1.0
    lean: float = 0.0
    knees_in: float = 0.0
    hips: float = 0.0
    feet: float = 1.0
    lag: float = 0.0
    pace: str = "steady"
    stops: bool = False


@dataclass(frozen=True)
class Fault:
    """A way of doing an exercise, as a coach names it.

    Attributes:
        seen: what the coach saw, the part of the label after ``exercise - ``.
        advice: what the coach says about it.
        style: the motion that shows it.
    """

    seen: str
    advice: str
    style: Style


@dataclass(frozen=True)
class Exercise:
    """One exercise: its motion, how it is filmed, and the forms it is seen in.

    Attributes:
        name: as in a label.
        pose: joint positions from body, repetition phase in turns (0 to 1 and on) and style.
        periods: seconds per repetition for each pace, as (shortest, longest).
        view: the camera's azimuth in degrees, 0 = from the front, 90 = from the person's left side.
        target: height in metres that the camera looks at.
        zoom: picture heights per metre at the person's distance.
        forms: correct form first, then the faults.
        weights: the person holds dumb-bells.
    """

    name: str
    pose: Callable[[Body, float, Style], np.ndarray]
    periods: dict[str, tuple[float, float]]
    view: float
    target: float
    zoom: float
    forms: tuple[Fault, ...]
    weights: bool = False
    slug: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "slug", self.name.replace(" ", "_").replace("-", "_"))


def swing(phase: float) -> float:
    """Return how far a repetition is, 0 at its start and end, 1 in the middle, with a short hold at both."""
    s = 0.5 - 0.5 * math.cos(2 * math.pi * phase)
    return s * s * (3 - 2 * s)


def two_bones(root: Vector, target: Vector, first: float, second: float, pole: Vector) -> tuple[Vector, Vector]:
    """Return (middle joint, end) of a limb from `root` towards `target`, bending towards `pole`.

    A target out of reach is approached along the straight line.
    """
    line = target - root
    distance = float(np.linalg.norm(line))
    reach = min(max(distance, abs(first - second) + 1e-3), (first + second) * 0.999)
    along = line / max(distance, 1e-9)
    end = root + along * reach
    middle = (first**2 - second**2 + reach**2) / (2 * reach)
    height = math.sqrt(max(first**2 - middle**2, 0.0))
    side = pole - along * float(pole @ along)
    side = side / max(float(np.linalg.norm(side)), 1e-9)
    return root + along * middle + side * height, end


def _vector(x: float, y: float, z: float) -> Vector:
    return np.array((x, y, z), dtype=np.float64)


@dataclass(frozen=True)
class _Trunk:
    pelvis: Vector
    up: Vector
    front: Vector
    shoulders: tuple[Vector, Vector]  # left, right
    hips: tuple[Vector, Vector]
    neck: Vector
    head: Vector


LEFT = _vector(1, 0, 0)
FORWARD = _vector(0, 0, 1)
DOWN = _vector(0, -1, 0)


def _trunk(body: Body, pelvis: Vector, pitch: float, nod: float = 0.0) -> _Trunk:
    """Place the trunk; `pitch` in degrees forward from upright, `nod` tips the head further."""
    up, front = _frame(pitch)
    head_up, _ = _frame(pitch + nod)
    neck = pelvis + up * body.trunk
    return _Trunk(
        pelvis=pelvis,
        up=up,
        front=front,
        shoulders=(neck + LEFT * body.shoulders, neck - LEFT * body.shoulders),
        hips=(pelvis + LEFT * body.hips, pelvis - LEFT * body.hips),
        neck=neck,
        head=neck + head_up * body.head,
    )


def _frame(pitch: float) -> tuple[Vector, Vector]:
    angle = math.radians(pitch)
    return _vector(0, math.cos(angle), math.sin(angle)), _vector(0, -math.sin(angle), math.cos(angle))


def _assemble(
    body: Body,
    trunk: _Trunk,
    hands: tuple[Vector, Vector],
    ankles: tuple[Vector, Vector],
    elbow_pole: tuple[Vector, Vector],
    knee_pole: tuple[Vector, Vector],
    toes: tuple[Vector, Vector] = (FORWARD, FORWARD),
) -> np.ndarray:
    """Solve the limbs and return the joints in the order of `JOINTS`: (17, 3)."""
    joints = [trunk.pelvis, trunk.neck, trunk.head]
    for side in (0, 1):
        shoulder = trunk.shoulders[side]
        joints += [shoulder, *two_bones(shoulder, hands[side], body.upper_arm, body.forearm, elbow_pole[side])]
    for side in (0, 1):
        hip = trunk.hips[side]
        knee, ankle = two_bones(hip, ankles[side], body.thigh, body.shin, knee_pole[side])
        joints += [hip, knee, ankle, ankle + toes[side] * body.foot + _vector(0, -0.05, 0) * abs(toes[side][2])]
    return np.stack(joints)


def squat(body: Body, phase: float, style: Style) -> np.ndarray:
    """Both legs bend until the thighs are level; the arms come forward for balance."""
    s = swing(phase) * style.depth
    standing = body.leg * 0.985 + ANKLE_HEIGHT
    pelvis = _vector(0, standing - s * (body.thigh * 0.98), -0.28 * s)
    trunk = _trunk(body, pelvis, 4 + (34 + style.lean) * s, nod=-18 * s)
    stance = 0.21
    ankles = (_vector(stance, ANKLE_HEIGHT, 0), _vector(-stance, ANKLE_HEIGHT, 0))
    reach = body.arm * 0.93
    arms = tuple(
        shoulder + _vector(0, -math.cos(1.5 * s), math.sin(1.5 * s)) * reach + LEFT * sign * 0.03
        for shoulder, sign in zip(trunk.shoulders, (1, -1), strict=True)
    )
    inward = -1.5 * style.knees_in
    outward = 0.35 * (1 - style.knees_in)
    poles = (FORWARD + LEFT * (inward + outward), FORWARD - LEFT * (inward + outward))
    return _assemble(body, trunk, arms, ankles, (DOWN + LEFT * 0.4, DOWN - LEFT * 0.4), poles)


def push_up(body: Body, phase: float, style: Style) -> np.ndarray:
    """The body is a plank on hands and toes; the arms bend until the chest is near the floor."""
    s = swing(phase) * style.depth
    height = body.arm * (0.97 - 0.68 * s)
    length = body.trunk + body.leg
    shoulder = _vector(0, height, 0)
    ankle = _vector(0, 0.12, -math.sqrt(max(length**2 - (height - 0.12) ** 2, 0.1)) * 0.985)
    line = (ankle - shoulder) / np.linalg.norm(ankle - shoulder)
    pelvis = shoulder + line * body.trunk
    pelvis = pelvis + _vector(0, style.hips, 0.35 * style.hips if style.hips > 0 else 0)
    up = (shoulder - pelvis) / np.linalg.norm(shoulder - pelvis)
    trunk = _trunk(body, pelvis, math.degrees(math.atan2(up[2], up[1])), nod=-14)
    hands = (_vector(0.24, 0.02, 0.02), _vector(-0.24, 0.02, 0.02))
    ankles = (ankle + LEFT * 0.09, ankle - LEFT * 0.09)
    back = _vector(0, 0.15, -1)
    poles = (back + LEFT * 0.7, back - LEFT * 0.7)
    toes = (_vector(0, -0.5, 0.1), _vector(0, -0.5, 0.1))
    return _assemble(body, trunk, hands, ankles, poles, (DOWN, DOWN), toes)


def jumping_jack(body: Body, phase: float, style: Style) -> np.ndarray:
    """Arms swing out and overhead while the feet jump apart."""
    s = swing(phase)
    hop = 0.07 * math.sin(math.pi * min(1.0, 2 * abs((phase % 1.0) - 0.5))) ** 2
    spread = 0.09 + 0.36 * s * style.feet
    drop = math.sqrt(max((body.leg * 0.985) ** 2 - (spread - body.hips) ** 2, 0.1))
    pelvis = _vector(0, drop + ANKLE_HEIGHT + hop, 0)
    trunk = _trunk(body, pelvis, 2 + style.lean)
    angle = math.radians(12 + 156 * s * style.depth)  # from hanging, out to the side, to overhead
    reach = body.arm * 0.97
    hands = tuple(
        shoulder + _vector(sign * math.sin(angle), -math.cos(angle), 0.06) * reach
        for shoulder, sign in zip(trunk.shoulders, (1, -1), strict=True)
    )
    ankles = (_vector(spread, ANKLE_HEIGHT + hop, 0), _vector(-spread, ANKLE_HEIGHT + hop, 0))
    front = FORWARD * 0.9
    return _assemble(body, trunk, hands, ankles, (-FORWARD, -FORWARD), (front + LEFT * 0.3, front - LEFT * 0.3))


def high_knee(body: Body, phase: float, style: Style) -> np.ndarray:
    """Running on the spot: each knee comes up to the height of the hip in turn, the arms pump."""
    lifts = (swing(phase * 1.0) * (phase % 1.0 < 1.0), swing(phase + 0.5))
    pelvis = _vector(0, body.leg * 0.985 + ANKLE_HEIGHT, 0)
    trunk = _trunk(body, pelvis, 5 + style.lean, nod=-0.5 * style.lean)
    ankles = []
    for lift, sign in zip(lifts, (1, -1), strict=True):
        up = max(0.0, 2 * lift - 1) * style.depth  # one foot is down while the other is up
        thigh_angle = math.radians(96) * up
        knee = pelvis + LEFT * sign * body.hips + _vector(0, -math.cos(thigh_angle), math.sin(thigh_angle)) * body.thigh
        shin_angle = math.radians(-14) * up
        ankles.append(knee + _vector(0, -math.cos(shin_angle), math.sin(shin_angle)) * body.shin * 0.985)
    hands = []
    for side, sign in ((0, 1), (1, -1)):
        pump = max(0.0, 2 * lifts[1 - side] - 1)
        hands.append(trunk.shoulders[side] + _vector(sign * 0.06, -0.34 + 0.2 * pump, 0.1 + 0.24 * pump))
    poles = (FORWARD, FORWARD)
    return _assemble(body, trunk, tuple(hands), tuple(ankles), (-FORWARD, -FORWARD), poles)


def lunge(body: Body, phase: float, style: Style) -> np.ndarray:
    """A long step forward, left and right in turn, sinking until the back knee is near the floor."""
    s = swing(phase)
    leading = math.floor(phase) % 2
    sink = s * style.depth
    stride = 0.82 * s
    pelvis = _vector(0, body.leg * 0.985 + ANKLE_HEIGHT - sink * body.thigh * 0.86, 0.46 * stride)
    trunk = _trunk(body, pelvis, 3 + style.lean * s, nod=-0.4 * style.lean * s)
    ankles = []
    for side, sign in ((0, 1), (1, -1)):
        if side == leading:
            forward, height = stride, ANKLE_HEIGHT + 0.10 * math.sin(math.pi * s) * (1 - s)
        else:
            forward, height = -0.18 * s, ANKLE_HEIGHT + 0.12 * s
        ankles.append(_vector(sign * 0.12, height, forward))
    hands = tuple(
        hip + LEFT * sign * 0.10 + _vector(0, 0.06, 0.06) for hip, sign in zip(trunk.hips, (1, -1), strict=True)
    )
    elbows = (LEFT - FORWARD * 0.6, -LEFT - FORWARD * 0.6)
    return _assemble(body, trunk, hands, tuple(ankles), elbows, (FORWARD, FORWARD))


def shoulder_press(body: Body, phase: float, style: Style) -> np.ndarray:
    """Both hands push a dumb-bell from the shoulder to above the head."""
    s = swing(phase)
    pelvis = _vector(0, body.leg * 0.985 + ANKLE_HEIGHT, 0.12 * math.sin(math.radians(-style.lean)))
    trunk = _trunk(body, pelvis, 1 + style.lean, nod=-0.5 * style.lean)
    hands = []
    for side, sign in ((0, 1), (1, -1)):
        share = s * style.depth * (1 - (style.lag if side == 1 else 0.0))
        start = _vector(sign * 0.16, 0.06, 0.10)
        end = _vector(sign * 0.05, body.arm * 0.98, 0.02)
        hands.append(trunk.shoulders[side] + start + (end - start) * share)
    ankles = (_vector(0.16, ANKLE_HEIGHT, 0), _vector(-0.16, ANKLE_HEIGHT, 0))
    elbows = (DOWN + LEFT * 0.8, DOWN - LEFT * 0.8)
    front = FORWARD * 0.9
    return _assemble(body, trunk, tuple(hands), ankles, elbows, (front + LEFT * 0.2, front - LEFT * 0.2))


SLOW, STEADY, FAST = "slow", "steady", "fast"
PERIODS = {SLOW: (3.4, 4.2), STEADY: (1.8, 2.4), FAST: (0.85, 1.0)}

EXERCISES = (
    Exercise(
        "squats", squat, PERIODS, view=32, target=0.92, zoom=0.44,
        forms=(
            Fault("good form", "thighs level and chest up, keep it like that", Style()),
            Fault("not low enough", "sink until your thighs are level with the floor", Style(depth=0.42)),
            Fault("knees caving in", "push your knees out over your toes", Style(knees_in=1.0)),
            Fault("leaning too far forward", "keep your chest up and your weight on the heels", Style(lean=46)),
            Fault("moving too fast", "slow down and control each repetition", Style(pace=FAST)),
        ),
    ),
    Exercise(
        "push-ups", push_up, PERIODS, view=78, target=0.38, zoom=0.50,
        forms=(
            Fault("good form", "body in one line and chest close to the floor, well done", Style()),
            Fault("not low enough", "bend your arms until your chest is near the floor", Style(depth=0.34)),
            Fault("hips sagging", "tighten your core and lift your hips into line", Style(hips=-0.19)),
            Fault("hips too high", "lower your hips until your body is one line", Style(hips=0.32)),
        ),
    ),
    Exercise(
        "jumping jacks", jumping_jack, PERIODS, view=12, target=1.05, zoom=0.40,
        forms=(
            Fault("good form", "full arm swing and wide feet, keep going", Style()),
            Fault("arms not overhead", "swing your arms all the way up", Style(depth=0.5)),
            Fault("feet not moving apart", "jump your feet wider than your shoulders", Style(feet=0.0)),
            Fault("moving too slowly", "pick up the pace", Style(pace=SLOW)),
        ),
    ),
    Exercise(
        "high knees", high_knee, PERIODS, view=55, target=0.95, zoom=0.44,
        forms=(
            Fault("good form", "knees reach hip height and you stand tall, great", Style()),
            Fault("knees not high enough", "lift each knee to the height of your hip", Style(depth=0.48)),
            Fault("leaning back", "bring your chest forward over your hips", Style(lean=-30)),
            Fault("moving too slowly", "drive your knees up more quickly", Style(pace=SLOW)),
        ),
    ),
    Exercise(
        "forward lunges", lunge, PERIODS, view=66, target=0.88, zoom=0.44,
        forms=(
            Fault("good form", "deep step and upright back, very good", Style()),
            Fault("not low enough", "drop your back knee closer to the floor", Style(depth=0.25)),
            Fault("leaning too far forward", "keep your back upright over your hips", Style(lean=48)),
            Fault("stopping early", "keep stepping until the time is over", Style(stops=True)),
        ),
    ),
    Exercise(
        "shoulder press", shoulder_press, PERIODS, view=34, target=1.08, zoom=0.40, weights=True,
        forms=(
            Fault("good form", "arms straight overhead and back upright, nice", Style()),
            Fault("arms not fully extended", "press until your arms are straight", Style(depth=0.45)),
            Fault("leaning back", "brace your core and keep your back upright", Style(lean=-28)),
            Fault("right arm lagging", "press both arms up together", Style(lag=0.75)),
        ),
    ),
)  # fmt: skip
