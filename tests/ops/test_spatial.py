"""Hand3D-test scorer: values by hand, rules for what cannot be read, the baseline, intervals, the figure."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest

from ops.evaluation import spatial
from ops.tables import vec


def make_rows(distances, directions, tasks=None, objects=None):
    return pl.DataFrame(
        {
            "task": tasks or ["spatial_relation"] * len(distances),
            "object": objects or ["cup"] * len(distances),
            "distance_m": pl.Series(distances, dtype=pl.Float32),
            "direction": pl.Series(directions, dtype=vec(3, pl.Int8)),
        }
    )


ROWS = make_rows([0.20, 0.30, 0.40], [[1, 0, 0], [1, 1, 0], [0, 0, -1]])


def test_score_by_hand():
    result = spatial.score(ROWS, ["right, 0.20 m", "right and up, 0.35 m", "forward, 10 cm"])
    assert result.distance_errors_m.tolist() == pytest.approx([0.0, 0.05, 0.30], abs=1e-7)
    assert result.direction_scores.tolist() == [3, 2, 2]
    assert result.distance_error_m == pytest.approx(0.35 / 3)
    assert result.direction_score == pytest.approx(7 / 3)
    assert (result.num_unread_distances, result.num_unread_directions) == (0, 0)


def test_silence_scores_worst_and_is_counted():
    result = spatial.score(ROWS, ["right, 0.20 m", "I do not know", "somewhere, 0.40 m"])
    assert result.distance_errors_m.tolist() == pytest.approx([0.0, 0.30, 0.0], abs=1e-7)
    assert result.direction_scores.tolist() == [3, 0, 0]
    assert (result.num_unread_distances, result.num_unread_directions) == (1, 2)
    assert result.distance_error_read_m == pytest.approx(0.0, abs=1e-7)
    silent = spatial.score(ROWS, [""] * 3)
    assert silent.direction_score == 0
    assert silent.distance_error_m == pytest.approx(0.30)
    assert np.isnan(silent.distance_error_read_m)


def test_silence_is_not_right_where_nothing_moves():
    still = make_rows([0.0], [[0, 0, 0]])
    assert spatial.score(still, ["no movement, 0.00 m"]).direction_score == 3
    assert spatial.score(still, ["hm"]).direction_score == 0


def test_contradictions_cost_their_axis():
    assert spatial.score(ROWS[:1], ["left and right, 0.2 m"]).direction_score == 2


def test_object_names_are_no_directions():
    rows = make_rows([0.2], [[1, 0, 0]], objects=["left drawer"])
    assert spatial.score(rows, ["The left drawer is right, 0.20 m."]).direction_score == 3


def test_interval_covers_the_mean_and_is_seeded():
    values = np.random.default_rng(0).normal(1.0, 0.5, 400)
    low, high = spatial.bootstrap_ci(values, 3)
    assert low < values.mean() < high
    half = 1.96 * values.std() / 20  # normal approximation
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)
    assert (low, high) == spatial.bootstrap_ci(values, 3)
    assert (low, high) != spatial.bootstrap_ci(values, 4)


def test_constant_answers_are_the_training_rows_by_task():
    train = make_rows(
        [0.1, 0.2, 0.9, 0.5], [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], ["spatial_relation"] * 3 + ["hand_movement"]
    )
    test = make_rows([0.2, 0.5, 0.3], [[1, 0, 0]] * 3, ["spatial_relation", "hand_movement", "task_completion"])
    assert spatial.constant_answers(train, test) == ["right, 0.20 m", "forward, 0.50 m", "right, 0.35 m"]
    with pytest.raises(ValueError, match="training row"):
        spatial.constant_answers(train.clear(), test)


def test_by_task_and_metrics():
    rows = make_rows([0.2, 0.4], [[1, 0, 0], [0, 1, 0]], ["spatial_relation", "hand_movement"])
    result = spatial.score(rows, ["right, 0.2 m", "right, 0.2 m"])
    assert [(r["task"], r["rows"], r["direction_score"]) for r in result.by_task] == [
        ("hand_movement", 1, 1.0),
        ("spatial_relation", 1, 3.0),
    ]
    named = result.metrics("ours_")
    assert named["ours_direction_score"] == 2.0
    assert named["ours_distance_error_low_m"] <= named["ours_distance_error_m"] <= named["ours_distance_error_high_m"]


def test_gain_is_the_paired_difference():
    """Errors that all shrink by the same 5 cm: a certain gain, however far the rows themselves spread."""
    rows = make_rows(np.linspace(0.2, 2.0, 40), [[1, 0, 0]] * 40)
    near, far = (
        spatial.score(rows, [f"{word}, {true + off:.3f} m" for true in rows["distance_m"]])
        for word, off in (("right", 0.01), ("left", 0.06))
    )
    found = spatial.gain(far, near)
    assert found["hand3d_test/gain/distance_error_m"] == pytest.approx(-0.05, abs=1e-3)
    assert found["hand3d_test/gain/distance_error_m_high"] == pytest.approx(-0.05, abs=1e-3)
    assert found["hand3d_test/gain/direction_score"] == found["hand3d_test/gain/direction_score_low"] == 1.0
    with pytest.raises(ValueError, match="same rows"):
        spatial.gain(far, spatial.score(rows[:3], ["right, 1 m"] * 3))


@pytest.mark.parametrize("answers", [[], ["right"], ["right"] * 4])
def test_wrong_number_of_answers_is_refused(answers):
    with pytest.raises(ValueError, match="3 rows"):
        spatial.score(ROWS, answers)


def test_no_rows_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        spatial.score(ROWS.clear(), [])


def test_figure_is_written(tmp_path):
    scores = {"ours": spatial.score(ROWS, ["right, 0.2 m"] * 3), "baseline": spatial.score(ROWS, ["left, 1 m"] * 3)}
    spatial.plot(scores, tmp_path / "figure.png")
    assert 1000 < (tmp_path / "figure.png").stat().st_size < 300_000


def test_intervals_of_shares_are_scipys():
    counts = np.array([0, 1, 17, 40, 42])
    low, high = spatial.wilson(counts, 100)
    for k, a, b in zip(counts.tolist(), low, high, strict=True):
        expected = binomtest(k, 100).proportion_ci(method="wilson")
        assert (a, b) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_histogram_of_errors_loses_no_row():
    rng = np.random.default_rng(0)
    rows = pl.DataFrame({
        "task": ["hand_movement"] * 50, "object": pl.Series([None] * 50, dtype=pl.String), "distance_m": rng.uniform(0, 1, 50),
        "direction": pl.Series(rng.integers(-1, 2, (50, 3)).astype(np.int8), dtype=pl.Array(pl.Int8, 3)),
    })  # fmt: skip
    found = spatial.score(rows, ["right, 0.2 m"] * 49 + ["right, 90 m"])
    edges_m = spatial.error_edges_m([found])
    assert len(edges_m) == spatial.NUM_BARS + 2
    np.testing.assert_allclose(np.diff(edges_m), edges_m[1])
    assert np.histogram(np.minimum(found.distance_errors_m, edges_m[-1]), edges_m)[0].sum() == 50
