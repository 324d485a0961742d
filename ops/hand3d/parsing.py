"""Free-text answers -> numbers: what a model says about direction and distance, read leniently but never guessed.

A distance is a number with a unit of length (the last one said counts; a range counts as its middle), or, where no
unit is said at all, a lone decimal number, since every question asks for metres. Direction words are those of
ops.hand3d.directions and their synonyms; an axis said both ways is contradictory and reads as wrong. Clauses about
rotation ("rotates 12 degrees turning right") and names of hands ("the left hand") say nothing about direction.
"In front of" and "behind" are not read: seen from a hand they mean one thing, from the camera the other.
"""

import re
from dataclasses import dataclass

_METRES_PER_UNIT = (
    (r"m|met(?:er|re)s?", 1.0),
    (r"cm|centi-?met(?:er|re)s?", 0.01),
    (r"mm|milli-?met(?:er|re)s?", 0.001),
    (r"inch|inches|\"", 0.0254),
    (r"ft|foot|feet", 0.3048),
)
_NUMBER = r"(?<![\w.])-?(?:\d+(?:[.,]\d+)?|\.\d+)"
_WITH_UNIT = re.compile(
    rf"({_NUMBER})(?:\s*(?:-|to|and|\u2013)\s*({_NUMBER.replace('-?', '')}))?[\s-]*"
    r"(met(?:er|re)s?|centi-?met(?:er|re)s?|milli-?met(?:er|re)s?|cm|mm|m|inches|inch|\"|feet|foot|ft)(?![a-z])",
    re.IGNORECASE,
)
_LONE_DECIMAL = re.compile(rf"{_NUMBER}(?![\w%])")
_SYNONYMS = (
    (("left", "leftward", "leftwards"), ("right", "rightward", "rightwards")),
    (("up", "upward", "upwards", "above", "higher", "raise", "raised"), ("down", "downward", "downwards", "below", "lower", "beneath", "under", "underneath")),
    (("backward", "backwards", "back", "closer", "nearer"), ("forward", "forwards", "ahead", "away", "farther", "further", "deeper")),
)  # fmt: skip
_SIGN = {word: (axis, sign) for axis, pair in enumerate(_SYNONYMS) for sign, words in zip((-1, 1), pair, strict=True) for word in words}  # fmt: skip
_NOT_DIRECTIONS = re.compile(
    r"\b(?:left|right)[- ](?:hands?|handed|palm|wrist|fist|fingers?|thumb|arm|one)\b"
    r"|\bright (?:away|now|next|there)\b|\b(?:pick|picks|picked|picking|lift|lifts|end|ends)(?:ed|ing)? up\b"
    r"|\bup to (?=[\d.])|\bset down\b|\bput down\b|\bback of the\b|\baway from each other\b",
    re.IGNORECASE,
)
_TOWARDS_CAMERA = re.compile(r"\btowards? (?:the )?(?:camera|viewer|me)\b", re.IGNORECASE)
_CLAUSE = re.compile(
    r"[;.](?!\d)|\n|,(?=\s*(?:and |then )?(?:it|the camera)\b)|\band (?=(?:it )?(?:mov|translat|shift|turn|rotat|tilt|pan))"
)
_ROTATION = re.compile(r"\b(?:degrees?|deg|rotat\w*|tilt\w*|pan|panned|pans|roll\w*|turn\w*)\b|\u00b0", re.IGNORECASE)
_STILL = re.compile(
    r"\b(?:no|not any|without(?: any)?) (?:movement|motion|translation|displacement|offset)\b"
    r"|\b(?:does not|doesn't|did not|didn't) move\b|\bsame (?:place|position|location)\b|\b(?:stays?|remains?) (?:still|in place)\b|\bstationary\b",
    re.IGNORECASE,
)
_TOUCH = re.compile(r"\btouching: (yes|no)\b", re.IGNORECASE)
_DEGREES = re.compile(rf"({_NUMBER})\s*(?:degrees?\b|deg\b|\u00b0)", re.IGNORECASE)

CONTRADICTION = 9  # no true direction has this value, so the axis scores 0


@dataclass(frozen=True)
class Answer:
    """What a text says. distance_m: metres; direction: -1, 0, 1 an axis (CONTRADICTION where both ways are said);
    contact; rotation_deg: degrees. None = not said, or not readable."""

    distance_m: float | None
    direction: tuple[int, int, int] | None
    contact: bool | None = None
    rotation_deg: float | None = None


def parse(text: str, names: tuple[str, ...] = ()) -> Answer:
    """Read one answer. Never raises: what cannot be read is None.

    names: what the question is about ("left drawer"), whose words are no directions.
    """
    for name in names:
        text = re.sub(rf"\b{re.escape(name)}\b", " it ", text, flags=re.IGNORECASE)
    touch = _TOUCH.search(text)
    degrees = _DEGREES.findall(text)
    return Answer(
        distance_m=parse_distance(text),
        direction=parse_direction(text),
        contact=None if touch is None else touch.group(1).lower() == "yes",
        rotation_deg=_number(degrees[-1]) if degrees else None,
    )


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
    return value_m if value_m >= 0 else None


def _unit_metres(unit: str) -> float:
    return next(metres for pattern, metres in _METRES_PER_UNIT if re.fullmatch(pattern, unit, re.IGNORECASE))
