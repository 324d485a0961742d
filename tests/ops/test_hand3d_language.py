"""Answers in words: what the templates write is what the parser reads, and the parser reads what models may write."""

import re

import numpy as np
import polars as pl
import pytest

from ops.hand3d import language
from ops.hand3d.directions import phrase
from ops.hand3d.parsing import CONTRADICTION, parse

ALL_DIRECTIONS = [(x, y, z) for x in (-1, 0, 1) for y in (-1, 0, 1) for z in (-1, 0, 1)]


@pytest.mark.parametrize("kind", [kind for kind in language.ANSWERS if kind != "camera_movement"])
def test_every_answer_of_every_template_is_read_back(kind):
    task = kind.removesuffix("_contact")
    for template in language.ANSWERS[kind]:
        for direction in ALL_DIRECTIONS:
            for touch in ("yes", "no"):
                words = phrase(direction, language.STILL_WORDS[task])
                text = template.format(object="left drawer", hand="right hand", where=words, metres="0.23", touch=touch)
                said = parse(text, ("left drawer",))
                assert said.direction == direction, text
                assert said.distance_m == pytest.approx(0.23)
                assert said.contact == ({"yes": True, "no": False}[touch] if "{touch}" in template else None)


def test_every_camera_answer_is_read_back():
    for template in language.ANSWERS["camera_movement"]:
        for turn in ALL_DIRECTIONS:
            for direction in ALL_DIRECTIONS:
                where = phrase(direction, language.STILL_WORDS["camera_movement"])
                text = template.format(degrees="17", turn=language._turn_phrase(turn), where=where, metres="1.05")
                said = parse(text)
                assert (said.direction, said.distance_m, said.rotation_deg) == (direction, 1.05, 17.0), text


@pytest.mark.parametrize(
    ("text", "distance_m", "direction"),
    [
        ("right and down, 0.23 m", 0.23, (1, 1, 0)),
        ("About 23 cm to the left.", 0.23, (-1, 0, 0)),
        ("Move 120mm upward and away", 0.12, (0, -1, 1)),
        ("0.5 meters forward", 0.5, (0, 0, 1)),
        ("It is 0,35 metres below the left hand", 0.35, (0, 1, 0)),
        ("The right hand moves 10-20 cm back", 0.15, (0, 0, -1)),
        ("between 0.1 and 0.3 m ahead", 0.2, (0, 0, 1)),
        ("Pick up the cup: move right by 4 inches", 0.1016, (1, 0, 0)),
        ("1 foot down", 0.3048, (0, 1, 0)),
        ("towards the camera by .2 m", 0.2, (0, 0, -1)),
        ("closer and lower, 0.10 m.", 0.1, (0, 1, -1)),
        ("First 0.1 m, in total 0.4 m left", 0.4, (-1, 0, 0)),
        ("no movement, 0.00 m", 0.0, (0, 0, 0)),
        ("The right hand moves nowhere, 0.00 m.", 0.0, (0, 0, 0)),
        ("Rotation: 3 degrees turning left; movement: nowhere, 0.00 m.", 0.0, (0, 0, 0)),
        ("The hand does not move.", 0.0, (0, 0, 0)),
        ("at the same place, 0.00 m", 0.0, (0, 0, 0)),
        ("left and right, 0.3 m", 0.3, (CONTRADICTION, 0, 0)),
        ("RIGHT AND DOWN, 0.23 M", 0.23, (1, 1, 0)),
        ("right and down, 0.23", 0.23, (1, 1, 0)),
        ("rotates 30 degrees to the left and moves right 0.1 m", 0.1, (1, 0, 0)),
        ("The camera turned right by 12\u00b0; it moved up 5 cm.", 0.05, (0, -1, 0)),
        ("move up to 0.3 m left", 0.3, (-1, 0, 0)),
        ("**Direction:** right, down  **Distance:** 0.23 m", 0.23, (1, 1, 0)),
        ('{"direction": ["right","down"], "distance_m": 0.23}', 0.23, (1, 1, 0)),
        ("<think>it is left, 0.9 m?</think> right, 0.2 m", 0.2, (1, 0, 0)),
        ("Answer: right and down, 0.23 m.\n\nExplanation: left of the plate by 0.4 m.", 0.23, (1, 1, 0)),
        ("half a meter to the left", 0.5, (-1, 0, 0)),
        ("about a metre forward", 1.0, (0, 0, 1)),
        ("twenty-five centimetres up", 0.25, (0, -1, 0)),
        ("1 m 20 cm left", 1.2, (-1, 0, 0)),
        ("leftwards by 1.2e-1 m", 0.12, (-1, 0, 0)),
        ("0.2 meter(s) to its left", 0.2, (-1, 0, 0)),
        ("0.3 m right and 0.4 m down", 0.5, (1, 1, 0)),
        ("3 cm right, 4 cm down and 12 cm forward", 0.13, (1, 1, 1)),
        ("right by 0.3 m, up by 40 cm", 0.5, (1, -1, 0)),
        ("x=+0.3, y=-0.4, z=0.0", 0.5, (1, -1, 0)),
        ("(0.0, 3, -4) cm", 0.05, (0, 1, -1)),
        ("neither left nor right but forward, 0.2 m", 0.2, (0, 0, 1)),
        ("upper left, 10 cm", 0.1, (-1, -1, 0)),
    ],
)
def test_free_text_is_read(text, distance_m, direction):
    said = parse(text)
    assert said.distance_m == pytest.approx(distance_m)
    assert said.direction == direction


@pytest.mark.parametrize(
    ("text", "distance_read", "direction_read"),
    [
        ("", False, False),
        ("I cannot tell.", False, False),
        ("the left hand", False, False),
        ("right now", False, False),
        ("to the left", False, True),
        ("0.3 m", True, False),
        ("-0.3 m", False, False),
        ("5", False, False),
        ("0.3 or 0.4", False, False),
        ("<motion_12><motion_900>", False, False),
        ("in front of the right hand", False, False),
        ("\x00\uffff nan inf m", False, False),
        ("30 degrees", False, False),
        ("a few centimeters", False, False),
        ("1e400 m left", False, True),
        ("99999 m", False, False),
        ("<think>left, 0.3 m</think>", False, False),
    ],
)
def test_what_is_not_said_is_not_guessed(text, distance_read, direction_read):
    said = parse(text)
    assert (said.distance_m is not None) == distance_read
    assert (said.direction is not None) == direction_read


def test_parser_never_raises():
    rng = np.random.default_rng(0)
    pieces = [
        "0.",
        "m",
        "-",
        "left",
        " and ",
        "\u00b0",
        ".5",
        "cm",
        "1e9",
        ";",
        "\n",
        "no movement",
        ",",
        "(",
        "[",
        "\\",
        "degrees",
        "12",
        "</think>",
        "Answer:",
        "x=",
        "(0.1, 0.2",
        "half a",
        " metre",
    ]
    for _ in range(3000):
        parse("".join(rng.choice(pieces, rng.integers(0, 9))), ("(", "a[b"))


def test_fill_equals_python_format():
    templates = ("{a} then {b}.", "{b}", "only {a}, {a}!")
    fields = pl.DataFrame({"a": ["x", "y", "z", "w"], "b": ["1", "2", "3", "4"]})
    choice = np.array([2, 0, 1, 0])
    expected = [templates[k].format(**row) for k, row in zip(choice, fields.iter_rows(named=True), strict=True)]
    assert language.fill(templates, choice, fields).to_list() == expected


def test_fill_refuses_null_fields():
    with pytest.raises(ValueError, match="1 of 2"):
        language.fill(("{a}",), np.array([0, 0]), pl.DataFrame({"a": ["x", None]}))


@pytest.mark.parametrize(
    ("rotation_deg", "degrees", "words"),
    [
        ((0, 20, 0), "20", "turning right"),
        ((0, -20, 0), "20", "turning left"),
        ((12, 0, 0), "12", "tilting up"),
        ((-12, 0.1, 0), "12", "tilting down"),
        ((0, 0, 7), "7", "rolling right"),
        ((0, 0.2, 0), "0", "about no axis"),
        ((10, 10, 0), "14", "tilting up and turning right"),
    ],
)
def test_rotation_words(rotation_deg, degrees, words):
    said, turn = language.rotation_words(np.radians([rotation_deg]), 0.3)
    assert (said[0], turn[0]) == (degrees, words)


def test_prompts_hold_no_tokens():
    for templates in (*language.PROMPTS.values(), *language.QUESTIONS.values(), *language.ANSWERS.values()):
        assert not any(re.search(r"[<>]", template) for template in templates)
