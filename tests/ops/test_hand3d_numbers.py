"""Directions and motion tokens: properties, hand-made values, and plain twins as the second route."""

import math

import numpy as np
import pytest

from ops.hand3d import directions, motion_tokens
from ops.hand3d.stable import choose, stable_hash


def measure_naive(vector, gamma):
    """One float32 vector, written the way the paper writes it."""
    x, y, z = (float(np.float32(component)) for component in vector)
    distance = math.sqrt(x * x + y * y + z * z)
    if np.float32(distance) < np.float32(0.005):
        return distance, (0, 0, 0)
    return distance, tuple(0 if abs(c / distance) <= gamma else (1 if c > 0 else -1) for c in (x, y, z))


def test_measure_agrees_with_plain_twin():
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(3000, 3)) * 10 ** rng.uniform(-4, 1, (3000, 1))).astype(np.float32)
    vectors[:50, rng.integers(0, 3, 50)] = 0
    distance_m, direction = directions.measure(vectors, 0.3)
    for vector, d, words in zip(vectors, distance_m, direction, strict=True):
        expected_m, expected = measure_naive(vector, 0.3)
        assert d == pytest.approx(expected_m, rel=1e-6)
        assert tuple(words.tolist()) == expected


@pytest.mark.parametrize(
    ("vector", "expected", "words"),
    [
        ((0.2, 0, 0), (1, 0, 0), "right"),
        ((0, -0.2, 0), (0, -1, 0), "up"),
        ((0, 0.2, 0), (0, 1, 0), "down"),
        ((0, 0, 0.2), (0, 0, 1), "forward"),
        ((0, 0, -0.2), (0, 0, -1), "backward"),
        ((-0.2, 0.2, 0.01), (-1, 1, 0), "left and down"),
        ((0.2, -0.2, 0.2), (1, -1, 1), "right, up and forward"),
        ((0, 0, 0), (0, 0, 0), "no movement"),
        ((0.004, 0, 0), (0, 0, 0), "no movement"),
    ],
)
def test_directions_by_hand(vector, expected, words):
    _, direction = directions.measure(np.array([vector]), 0.3)
    assert tuple(direction[0].tolist()) == expected
    assert directions.phrase(expected) == words == directions.phrases(direction)[0]


def test_every_moving_vector_has_a_direction():
    vectors = np.random.default_rng(1).normal(size=(5000, 3))
    diagonal = np.array([[s * 0.1, t * 0.1, u * 0.1] for s in (-1, 1) for t in (-1, 1) for u in (-1, 1)])
    _, direction = directions.measure(np.concatenate([vectors, diagonal]), 0.57)
    assert (np.abs(direction).sum(axis=1) > 0).all()


def test_mirrored_vectors_have_opposite_directions():
    vectors = np.random.default_rng(2).normal(size=(1000, 3))
    assert (directions.measure(vectors, 0.3)[1] == -directions.measure(-vectors, 0.3)[1]).all()


@pytest.mark.parametrize("gamma", [0.0, -0.1, 0.58, float("nan")])
def test_bad_gamma_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma"):
        directions.measure(np.ones((1, 3)), gamma)


def test_not_finite_vectors_are_refused():
    with pytest.raises(ValueError, match="1 of 2"):
        directions.measure(np.array([[0, 0, 1.0], [np.nan, 0, 0]]), 0.3)


def test_metres_is_what_python_prints():
    rng = np.random.default_rng(3)
    ties = np.arange(1, 400, dtype=np.float32) * np.float32(0.005)  # halves of a centimetre round as Python does
    values = np.concatenate([rng.uniform(0, 3, 5000).astype(np.float32), ties, np.float32([0, 0.125, 0.375, 1234.5])])
    assert directions.metres(values).to_list() == [f"{float(v):.2f}" for v in values]


def encode_naive(point):
    low, high = (-0.5, -0.5, 0.0), (0.5, 0.5, 1.0)
    return [min(max(math.floor((c - a) / (b - a) * 1024), 0), 1023) for c, a, b in zip(point, low, high, strict=True)]


def test_encode_agrees_with_plain_twin():
    points = np.random.default_rng(4).uniform(-0.8, 1.4, (5000, 3))
    tokens, num_clipped = motion_tokens.encode(points)
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == [encode_naive(p) for p in points.tolist()]
    outside = [
        any(c < a or c > b for c, a, b in zip(p, (-0.5, -0.5, 0), (0.5, 0.5, 1), strict=True)) for p in points.tolist()
    ]
    assert num_clipped == sum(outside) == motion_tokens.clipped(points).sum()
    assert 0 < num_clipped < len(points)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_every_bin_survives_the_round_trip(dtype):
    tokens = np.repeat(np.arange(1024, dtype=np.uint16)[:, None], 3, axis=1)
    again, num_clipped = motion_tokens.encode(motion_tokens.decode(tokens).astype(dtype))
    assert (again == tokens).all()
    assert num_clipped == 0


def test_decoding_error_is_at_most_half_a_bin_and_unbiased():
    points = np.random.default_rng(5).uniform((-0.5, -0.5, 0), (0.5, 0.5, 1), (300_000, 3))
    error = motion_tokens.decode(motion_tokens.encode(points)[0]) - points
    assert np.abs(error).max() <= 0.48829e-3
    assert np.abs(error.mean(axis=0)).max() < 0.005e-3


def test_edges_and_outside():
    tokens, num_clipped = motion_tokens.encode(np.array([[0.5, 0.5, 1.0], [-0.5, -0.5, 0.0]]))
    assert tokens.tolist() == [[1023, 1023, 1023], [0, 0, 0]]
    assert num_clipped == 0  # the edges belong to the range
    tokens, num_clipped = motion_tokens.encode(np.array([[9.0, -9.0, np.inf], [0.0, 0.0, -0.001]]))
    assert tokens.tolist() == [[1023, 0, 1023], [512, 512, 0]]
    assert num_clipped == 2


def test_shapes_and_bad_input():
    points = np.random.default_rng(6).uniform(0, 0.4, (4, 5, 3))
    tokens, _ = motion_tokens.encode(points)
    assert tokens.shape == (4, 5, 3)
    assert (tokens.reshape(-1, 3) == motion_tokens.encode(points.reshape(-1, 3))[0]).all()
    assert motion_tokens.encode(np.zeros((0, 3)))[0].shape == (0, 3)
    with pytest.raises(ValueError, match="not a number"):
        motion_tokens.encode(np.array([[0.0, np.nan, 0.0]]))
    with pytest.raises(ValueError, match="shape"):
        motion_tokens.encode(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="1024"):
        motion_tokens.decode(np.array([[0, 0, 1024]]))
    with pytest.raises(ValueError, match="integers"):
        motion_tokens.decode(np.zeros((1, 3)))


def test_stable_choices_do_not_change_between_versions():
    """Values written down once: another value would silently re-word every data set."""
    assert stable_hash(["made/a:0"], 42, "question").tolist() == [EXPECTED_HASH]
    ids = [f"clip/{i}" for i in range(20_000)]
    counts = np.bincount(choose(ids, 4, 42, "question"))
    assert np.abs(counts - 5000).max() < 300
    same = choose(ids, 4, 42, "question") == choose(ids, 4, 42, "answer")
    assert 0.22 < same.mean() < 0.28
    assert 0.22 < (choose(ids, 4, 42, "question") == choose(ids, 4, 43, "question")).mean() < 0.28


EXPECTED_HASH = 6623867605246016709
