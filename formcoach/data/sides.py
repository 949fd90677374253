"""Left and right in texts: what a mirrored clip's labels must say.

English uses both words for other things as well ("that's right", "two reps left"). So a word is exchanged only where
its surroundings show that a side is meant; where they show nothing, `sides_are_unclear` says so, and such a clip is not
mirrored. All decisions come from the lists below. What they decide is the same for both words, so that mirroring twice
gives the first text again.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

CACHED = 4096  # labels are few, and each is asked about for many clips

_PLAIN = {"left": "right", "right": "left", "l": "r", "r": "l"}
_ALWAYS = {  # never mean anything but a side
    **{
        f"left{rest}": f"right{rest}" for rest in ("most", "ward", "wards", "hand", "handed", "side", "sided", "footed")
    },
    **{
        f"right{rest}": f"left{rest}" for rest in ("most", "ward", "wards", "hand", "handed", "side", "sided", "footed")
    },
    "lefts": "rights",
    "rights": "lefts",
    "lefty": "righty",
    "righty": "lefty",
    "clockwise": "counterclockwise",
    "counterclockwise": "clockwise",
    "anticlockwise": "clockwise",
}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# "right knee", "left-handed", "the right one's heel": what has a left and a right.
_PAIRED = _words(
    """
    abdomen abdominal adductor adductors ankle ankles arch arm armed armpit arms biceps bicep bum buttock buttocks calf
    calves cheek chest collarbone corner cuff deltoid deltoids delt delts dumbbell dumbbells ear ears elbow elbows eye
    fingers finger fist fists flank foot footed feet forearm forearms forefoot glove glute glutes groin hamstring
    hamstrings hand handed hands heel heels hip hips instep kettlebell kettlebells knee kneecap knees lat lats leg
    legged legs limb limbs lung oblique obliques palm palms pec pecs pelvis quad quads quadriceps rib ribs scapula shin
    shins shoe shoes shoulder shoulders side sided sides sideward sidewards sleeve sole temple thigh thighs thumb thumbs
    toe toes trap traps triceps tricep wrist wrists
    cross crosses hook hooks jab jabs kick kicks lunge lunges punch punches turn turns uppercut uppercuts
    """
)
# May stand between: "right front foot", "left upper arm".
_BETWEEN = _words(
    """
    back bent big bottom extended front inner inside leading lead little lifted lower lowered main middle opposite outer
    outside planted raised rear ring standing straight supporting support top trailing upper working
    """
)
# "lean right", "side lunge left": words of movement that name their direction next.
_MOVES = _words(
    """
    angled angles bend bending bends curl dip dips drift drifting drifts drop drops extension face faces facing fall
    falling falls go goes going hop hopping hops jump jumping jumps kick kicking kickback kicks lean leaned leaning
    leans leaning look looking looks lunge lunges lunging move moved moves moving pivot pivoting plank planks point
    pointing points press pull pulling pulls pushed punch punches raise raises reach reaches reaching roll rolling rolls
    rotate rotated rotates rotating rotation row shift shifted shifting shifts shuffle shuffles shuffling side sideways
    slide slides sliding squat step stepped stepping steps stretch stretches swing swinging swings tap taps tilt tilted
    tilting tilts turn turned turning turns twist twisted twisting twists veer veering walk walking walks
    """
)
_PLACES = _words("at by for from on onto off over than to toward towards with")  # "on the left", "towards right"
_OWNERS = _words("your his her their my our its")
_PEOPLE = _words("user's person's man's woman's athlete's client's coach's trainer's viewer's camera's")
_JOINS = _words("and or to then vs versus nor than from with")  # "left and right"
# Go on after "the right": nothing here that a right thing could be.
_GOES_ON = _words(
    """
    a again also an and are as at because before but by can could does doing during every feels first for from goes had
    has have if in instead is lags lagging like looks more moves needs not of only or rather should slightly so stays
    than that then though to too too was were when where whereas which while will with without would
    """
)
# "the right depth", "right angle": what can be correct, and no side of anything.
_CORRECT = _words(
    """
    alignment amount amounts angle angled angles approach area areas balance bit breathing cadence choice control cue
    cues degree depth direction directions distance distances effort exercise exercises execution feel feeling flow form
    gap gear grip height heights idea intensity intention job kind length level levels line lines mechanics moment
    motion move movement movements moves muscle muscles note number order pace pacing part path pattern place placement
    places plane point position positions positioning pose posture pressure range ratio rep reps resistance result
    rhythm rom rotation route sequence setup shape speed spot spots stance start starting stretch stride stuff style
    technique tempo tension thing things time timing track trajectory use variation version way ways weight weights
    width widths
    """
)
# "right now", "right in front of": a word of emphasis.
_EMPHASIS = _words(
    """
    about above across after against ahead along around at away back before behind below beneath beside between by
    down enough here in inside into near next now off on out over past there through throughout till to under
    underneath until up when where
    """
)
# "just right", "do it right": said of how something is.
_JUDGED = _words(
    """
    all almost alright always are aren aren't be been completely does doing done exactly feel feels felt form
    got get getting gets he's isn't is it it's its just look looked looking looks made make makes me nearly not
    quite really seem seems she's so sounds that that's thats them they're they these this those totally very was wasn't
    we're were what what's you're yes yeah yep technique posture
    """
)
# "two reps left", "has left": the verb to leave.
_LEAVING = _words(
    """
    are be been being had has have he i is isn't it it's much nobody none nothing she someone that's they time user was
    we were what what's who you energy anything everything something more one two three four five six seven eight nine
    ten few
    """
)
_COUNTED = _words("seconds second minutes minute reps rep repetitions repetition sets set rounds round")
_LEFT_WHAT = _words("a an it out over behind off alone unfinished undone untouched hanging idle them him us me")
# "left foot forward, right back", "left over right": beside a side, what looks like something else may be one, too.
_EITHER = _words("ahead back behind below beneath down in out over under up")
_NUMBERS = _words("one two three four five six seven eight nine ten few several many more last some couple")

_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?|\d+")
_ANY = re.compile(r"left|right|clockwise|\b[LR]\b", re.IGNORECASE)
_COUNTER = re.compile(r"\b(counter|anti)([-_ ]?)(clockwise)\b", re.IGNORECASE)
_SOFT = re.compile(r"[\s_\-–/&+]*")  # between two words that belong together
_LISTED = re.compile(r"[\s_\-–/&+,|]*")  # between the two of "left, right"
_OPEN, _CLOSE = re.compile(r"[(\[{|]\s*$"), re.compile(r"^\s*[)\]}|]")


@dataclass(frozen=True)
class _Word:
    """A word with its place in a text."""

    start: int
    end: int
    text: str
    low: str


class _Text:
    """A text's words, and what lies between them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words = [
            _Word(found.start(), found.end(), found[0], found[0].lower().replace("’", "'"))
            for found in _TOKEN.finditer(text)
        ]

    def near(self, index: int, step: int, pattern: re.Pattern[str] = _SOFT) -> str:
        """Return the word `step` words away, or "" where something ends between here and there."""
        other = index + step
        if not 0 <= other < len(self.words):
            return ""
        first, last = min(index, other), max(index, other)
        for one, two in zip(self.words[first:last], self.words[first + 1 : last + 1], strict=True):
            if not pattern.fullmatch(self.text[one.end : two.start]):
                return ""
        return self.words[other].low

    def before(self, index: int) -> str:
        """Return the text between the word and the one in front of it."""
        return self.text[self.words[index - 1].end if index else 0 : self.words[index].start]

    def after(self, index: int) -> str:
        """Return the text between the word and the next."""
        last = index + 1 == len(self.words)
        return self.text[self.words[index].end : None if last else self.words[index + 1].start]


@lru_cache(maxsize=CACHED)
def swap_sides(text: str) -> str:
    """Exchange left and right, and clockwise and counter-clockwise, where they are sides; case is kept.

    >>> swap_sides("tricep stretch (right arm) - That's right, hold your Left elbow")
    "tricep stretch (left arm) - That's right, hold your Right elbow"
    """
    text = _COUNTER.sub(lambda found: _in_case("counterclockwise", found[0]), text)
    parts, end = [], 0
    for word, is_side in _side_words(text):
        if is_side:
            parts += [text[end : word.start], _in_case((_PLAIN | _ALWAYS)[word.low], word.text)]
            end = word.end
    return "".join([*parts, text[end:]])


@lru_cache(maxsize=CACHED)
def sides_are_unclear(text: str) -> bool:
    """Tell whether a text has a "left" or "right" of which the words around do not show what is meant."""
    return any(is_side is None for _, is_side in _side_words(text))


def _side_words(text: str) -> Iterator[tuple[_Word, bool | None]]:
    """Yield the words that could be sides, and whether they are; None where that cannot be told."""
    if not _ANY.search(text):
        return  # most texts; many are looked at
    around = _Text(text)
    found = [(index, _decide(around, index)) for index, word in enumerate(around.words) if word.low in _ALWAYS | _PLAIN]
    has_side = any(is_side for _, is_side in found)
    for index, is_side in found:
        doubtful = is_side is False and has_side and around.near(index, 1) in _EITHER
        yield around.words[index], None if doubtful else is_side


def _decide(around: _Text, index: int) -> bool | None:
    """Return whether a word is a side, None where that cannot be told."""
    word = around.words[index]
    if word.low in _ALWAYS:
        return True
    if word.low in ("l", "r"):
        return word.text in "LR" and _is_certain(around, index)
    if _is_side(around, index):
        # "Two reps left, right arm first" and "one rep right, left arm first" look alike.
        return None if around.near(index, -1) in _COUNTED and around.after(index).startswith(",") else True
    return False if _is_other(around, index, word.low) else None


def _is_side(around: _Text, index: int) -> bool:
    """Tell whether the surroundings of a word show that it is a side; does not look at the word itself."""
    if _is_certain(around, index):
        return True
    last, following = around.near(index, -1), around.near(index, 1)
    if following in _CORRECT:
        return False
    if last in _OWNERS | _PEOPLE:
        return True
    ends = not following or following in _GOES_ON
    if last == "the":
        return ends or (around.near(index, -2) in _PLACES and following in _EMPHASIS)
    if last in _MOVES:
        return following not in _EMPHASIS and not _is_counted(around, index - 1)
    return last in _PLACES and ends


def _is_certain(around: _Text, index: int) -> bool:
    return _has_pair(around, index) or _is_bracketed(around, index) or _stands_beside_other(around, index)


def _has_pair(around: _Text, index: int) -> bool:
    """Tell whether what follows has a left and a right: "right knee", "left upper arm"."""
    for step in (1, 2, 3):
        word = around.near(index, step)
        if word in _PAIRED:
            return True
        if word not in _BETWEEN:
            return False
    return False


def _is_bracketed(around: _Text, index: int) -> bool:
    """Tell "(right)" and "lunge | left |": a word alone in its brackets."""
    return bool(_OPEN.search(around.before(index)) and _CLOSE.search(around.after(index)))


def _stands_beside_other(around: _Text, index: int) -> bool:
    """Tell "left and right", "left/right", "left, right, left"."""
    for direction in (-1, 1):
        other = index + direction
        if around.near(index, direction) in _JOINS:
            other += direction
        if around.near(index, other - index) in _PLAIN:
            return True
        if around.near(index, direction, _LISTED) in _PLAIN and not _is_remark(around, max(index, other)):
            return True
    return False


def _is_remark(around: _Text, index: int) -> bool:
    """Tell "..., right?" and "..., right now": what may follow a comma without being the next of a list."""
    return around.near(index, 1) in _CORRECT | _EMPHASIS or around.after(index).lstrip().startswith("?")


def _is_counted(around: _Text, index: int) -> bool:
    """Tell "three lunges": what can be left over."""
    return any(word in _NUMBERS or word.isdigit() for word in (around.near(index, -1), around.near(index, -2)))


def _is_other(around: _Text, index: int, word: str) -> bool:
    """Tell whether the surroundings show that a word is no side."""
    last, following = around.near(index, -1), around.near(index, 1)
    if word == "left":
        return (
            last in _LEAVING | _COUNTED
            or last.isdigit()
            or following in _LEFT_WHAT
            or (following == "the" and last not in _MOVES)
            or (following == "to" and around.near(index, 2) == "go")
            or (_is_counted(around, index - 1) and last not in ("step", "steps"))
        )
    if following in _EMPHASIS:
        return last not in _MOVES  # "step right up" can be either
    if following in _CORRECT or last in _JUDGED or _is_remark(around, index):
        return True
    starts = not re.search(r"[^\s.!?]", around.before(index)[-1:]) and not last
    return starts and around.after(index).startswith(",")  # "Right, let us begin"


def _in_case(word: str, like: str) -> str:
    if like.isupper():
        return word.upper()
    return word.capitalize() if like[0].isupper() else word
