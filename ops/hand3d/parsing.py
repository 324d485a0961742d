"""Free-text answers -> numbers: what a model says about direction and distance, read leniently but never guessed.

A distance is a number with a unit of length (the last one said counts; a range counts as its middle), or, where no
unit is said at all, a lone decimal number, since every question asks for metres. Direction words are those of
ops.hand3d.directions and their synonyms; an axis said both ways is contradictory and reads as wrong. Clauses about
rotation ("rotates 12 degrees turning right") and names of hands ("the left hand") say nothing about direction.
"In front of" and "behind" are not read: seen from a hand they mean one thing, from the camera the other. Of a text that
reasons first, what stands after </think> or after the last "Answer:" counts. Numbers in words are read up to a hundred. A
length for each axis ("0.2 m right and 0.1 m down") and a vector ("x = 0.2, y = 0.1, z = 0"; "(0.2, 0.1, 0) m", camera axes)
are read as the displacement they are; without words, its direction follows from the threshold gamma.
"""

import math
import re
from dataclasses import dataclass

from ops.config import Hand3DVisualConfig

_METRES_PER_UNIT = (
    (r"m|met(?:er|re)s?", 1.0),
    (r"cm|centi-?met(?:er|re)s?", 0.01),
    (r"mm|milli-?met(?:er|re)s?", 0.001),
    (r"inch|inches|\"", 0.0254),
    (r"ft|foot|feet", 0.3048),
)
_NUMBER = r"(?<![\w.])-?(?:\d+(?:[.,]\d+)?(?:[eE][-+]?\d+)?|\.\d+)"
_WITH_UNIT = re.compile(
    rf"({_NUMBER})(?:\s*(?:-|to|and|\u2013)\s*({_NUMBER.replace('-?', '')}))?[\s-]*"
    r"(met(?:er|re)s?|centi-?met(?:er|re)s?|milli-?met(?:er|re)s?|cm|mm|m|inches|inch|\"|feet|foot|ft)(?![a-z])",
    re.IGNORECASE,
)
_LONE_DECIMAL = re.compile(rf"{_NUMBER}(?![\w%])")
_SYNONYMS = (
    (("left", "leftward", "leftwards"), ("right", "rightward", "rightwards")),
    (("up", "upward", "upwards", "above", "higher", "upper", "top", "raise", "raised"), ("down", "downward", "downwards", "below", "lower", "bottom", "beneath", "under", "underneath")),
    (("backward", "backwards", "back", "closer", "nearer"), ("forward", "forwards", "ahead", "away", "farther", "further", "deeper")),
)  # fmt: skip
_SIGN = {word: (axis, sign) for axis, pair in enumerate(_SYNONYMS) for sign, words in zip((-1, 1), pair, strict=True) for word in words}  # fmt: skip
_NOT_DIRECTIONS = re.compile(
    r"\b(?:left|right)[- ](?:hands?|handed|palm|wrist|fist|fingers?|thumb|arm|one)\b"
    r"|\bright (?:away|now|next|there)\b|\b(?:pick|picks|picked|picking|lift|lifts|end|ends)(?:ed|ing)? up\b"
    r"|\b(?:not|no|neither|nor) (?:to (?:the|its|my) |(?:un)?moved? )?(?:left|right|up|down|forward|backward)(?:wards?)?\b"
    r"|\b(?:top|bottom) of\b|\bup to (?=[\d.])|\bset down\b|\bput down\b|\bback of the\b|\baway from each other\b",
    re.IGNORECASE,
)
_TOWARDS_CAMERA = re.compile(r"\btowards? (?:the )?(?:camera|viewer|me)\b", re.IGNORECASE)
_CLAUSE = re.compile(
    r"[;.](?!\d)|\n|,(?=\s*(?:and |then )?(?:it|the camera)\b)|\band (?=(?:it )?(?:mov|translat|shift|turn|rotat|tilt|pan))"
)
_ROTATION = re.compile(r"\b(?:degrees?|deg|rotat\w*|tilt\w*|pan|panned|pans|roll\w*|turn\w*)\b|\u00b0", re.IGNORECASE)
_STILL = re.compile(
    r"\b(?:no|not any|without(?: any)?) (?:movement|motion|translation|displacement|offset)\b"
    r"|\b(?:does not|doesn't|did not|didn't) move\b|\bsame (?:place|position|location)\b|\b(?:stays?|remains?) (?:still|in place)\b|\bstationary\b|\bnowhere\b",
    re.IGNORECASE,
)
_TOUCH = re.compile(r"\btouching: (yes|no)\b", re.IGNORECASE)
_DEGREES = re.compile(rf"({_NUMBER})\s*(?:degrees?\b|deg\b|\u00b0)", re.IGNORECASE)

_THOUGHT = re.compile(r"^.*</think>", re.DOTALL | re.IGNORECASE)
_FINAL = re.compile(r"^.*\banswer\W{0,4}(?:is\b)?\s*[:=]\W{0,3}(.+?)(?:\n\s*\n.*)?$", re.DOTALL | re.IGNORECASE)
_ONES = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17,
    "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_UNIT_AHEAD = r"(?=[\s-]+(?:centi-?|milli-?)?(?:met(?:er|re)s?|cm|mm|inch(?:es)?|f(?:ee|oo)t)\b)"
_IN_WORDS = re.compile(rf"\b(?:(half(?: an?)?|a quarter(?: of an?)?|an?)|({'|'.join(_TENS)})?[\s-]?({'|'.join(_ONES)})?){_UNIT_AHEAD}", re.IGNORECASE)  # fmt: skip
_TWO_UNITS = re.compile(r"(?<![\w.])(\d+)\s*m(?:et(?:er|re)s?)?(?:\s+and)?\s+(\d+(?:\.\d+)?)\s*(?:cm|centimet(?:er|re)s?)\b", re.IGNORECASE)  # fmt: skip
_AXES = re.compile(rf"\bx\s*[:=]\s*\+?({_NUMBER}).{{0,9}}?\by\s*[:=]\s*\+?({_NUMBER}).{{0,9}}?\bz\s*[:=]\s*\+?({_NUMBER})\s*(cm|mm)?", re.IGNORECASE)  # fmt: skip
_TRIPLE = re.compile(
    rf"[\[(]\s*\+?({_NUMBER})\s*[,;]\s*\+?({_NUMBER})\s*[,;]\s*\+?({_NUMBER})\s*[\])]\s*(cm|mm)?", re.IGNORECASE
)
_FARTHEST_M = 1000.0  # what is said to be farther is no length that was measured

CONTRADICTION = 9  # no true direction has this value, so the axis scores 0


@dataclass(frozen=True)
class Answer:
    """What a text says. distance_m: metres; direction: -1, 0, 1 an axis (CONTRADICTION where both ways are said);
    contact; rotation_deg: degrees. None = not said, or not readable."""

    distance_m: float | None
    direction: tuple[int, int, int] | None
    contact: bool | None = None
    rotation_deg: float | None = None


def parse(text: str, names: tuple[str, ...] = (), gamma: float = Hand3DVisualConfig.gamma) -> Answer:
    """Read one answer. Never raises: what cannot be read is None.

    names: what the question is about ("left drawer"), whose words are no directions. gamma: of directions said as numbers.
    """
    text = plain(text)
    for name in names:
        text = re.sub(rf"\b{re.escape(name)}\b", " it ", text, flags=re.IGNORECASE)
    touch = _TOUCH.search(text)
    degrees = _DEGREES.findall(text)
    vector_m, direction = parse_vector(text), parse_direction(text)
    return Answer(
        distance_m=parse_distance(text) if vector_m is None else math.hypot(*vector_m),
        direction=direction if direction is not None or vector_m is None else _signs(vector_m, gamma),
        contact=None if touch is None else touch.group(1).lower() == "yes",
        rotation_deg=_number(degrees[-1]) if degrees else None,
    )


def plain(text: str) -> str:
    """The part of a text that answers, without markup, with numbers as digits."""
    text = _THOUGHT.sub("", text)
    if final := _FINAL.match(text):
        text = final.group(1)
    text = re.sub(r"[*_`\"]+", " ", text).replace("(s)", "s").replace("\u2212", "-")
    text = _IN_WORDS.sub(_digits, text)
    return _TWO_UNITS.sub(lambda found: f"{int(found[1]) + float(found[2]) / 100:.4f} m", text)


def _digits(found: re.Match) -> str:
    share, tens, ones = (part and part.lower() for part in found.groups())
    if share:
        return "0.5" if share.startswith("half") else "0.25" if "quarter" in share else "1"
    return str(_TENS.get(tens, 0) + _ONES.get(ones, 0)) if tens or ones else found.group()


def parse_vector(text: str) -> tuple[float, float, float] | None:
    """Displacement said as three numbers (metres unless cm or mm are said), or as a length for each of several axes."""
    found = list(_AXES.finditer(text)) or list(_TRIPLE.finditer(text))
    if found:
        *numbers, unit = found[-1].groups()
        x, y, z = (_number(number) * _unit_metres(unit or "m") for number in numbers)
        return (x, y, z) if math.hypot(x, y, z) < _FARTHEST_M else None
    lengths = list(_WITH_UNIT.finditer(text))
    parts: dict[int, float] = {}
    for length in lengths:
        word = _next_direction(text[length.end() :]) or _last_direction(text[: length.start()])
        if word is None or length[2] is not None or word[0] in parts:
            return None
        parts[word[0]] = word[1] * _number(length[1]) * _unit_metres(length[3])
    return (parts.get(0, 0.0), parts.get(1, 0.0), parts.get(2, 0.0)) if len(parts) > 1 else None


def _next_direction(rest: str) -> tuple[int, int] | None:
    """Axis and sign of a direction word right behind a length: "0.2 m to the right"."""
    near = re.match(r"\s*(?:(?:to|towards?) (?:the |its |my )?)?([a-z]+)", rest, re.IGNORECASE)
    return _SIGN.get(near[1].lower()) if near else None


def _last_direction(before: str) -> tuple[int, int] | None:
    """... or right before it: "right by 0.2 m"."""
    near = re.search(r"([a-z]+)\W*(?:(?:by|about|for|around)\W*)?$", before, re.IGNORECASE)
    return _SIGN.get(near[1].lower()) if near else None


def _signs(vector_m: tuple[float, float, float], gamma: float) -> tuple[int, int, int]:
    length_m = math.hypot(*vector_m)
    x, y, z = (0 if abs(c) <= gamma * length_m else int(math.copysign(1, c)) for c in vector_m)
    return x, y, z


def parse_distance(text: str) -> float | None:
    """Metres, not negative; None where no distance can be read. "No movement" without a number is 0 m."""
    found = list(_WITH_UNIT.finditer(text))
    if found:
        first, last, unit = found[-1].groups()
        value = _number(first) if last is None else (_number(first) + _number(last)) / 2
        return _checked(value * _unit_metres(unit))
    lone = [match for match in _LONE_DECIMAL.findall(_DEGREES.sub(" ", text)) if "." in match]
    if len(lone) == 1:
        return _checked(_number(lone[0]))
    return 0.0 if not lone and _STILL.search(text) else None


def parse_direction(text: str) -> tuple[int, int, int] | None:
    """-1, 0, 1 an axis; None where no direction is said. "No movement" and "same place" are (0, 0, 0)."""
    signs: tuple[set[int], set[int], set[int]] = (set(), set(), set())
    clauses = [clause for clause in _CLAUSE.split(text) if not _ROTATION.search(clause)]
    for clause in clauses:
        plain = _NOT_DIRECTIONS.sub(" ", _TOWARDS_CAMERA.sub(" backward ", clause))
        for word in re.findall(r"[a-z]+", plain.lower()):
            if word in _SIGN:
                axis, sign = _SIGN[word]
                signs[axis].add(sign)
    if not any(signs):
        return (0, 0, 0) if any(_STILL.search(clause) for clause in clauses) else None
    x, y, z = (CONTRADICTION if len(said) > 1 else next(iter(said), 0) for said in signs)
    return x, y, z


def _number(text: str) -> float:
    return float(text.replace(",", "."))


def _checked(value_m: float) -> float | None:
    return value_m if 0 <= value_m < _FARTHEST_M else None


def _unit_metres(unit: str) -> float:
    return next(metres for pattern, metres in _METRES_PER_UNIT if re.fullmatch(pattern, unit, re.IGNORECASE))
