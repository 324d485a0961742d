"""Motion errors by hand, baselines against closed forms, and the rates of trials."""

import numpy as np
import polars as pl
import pytest

from ops import tables
from ops.config import BenchmarkConfig
from ops.evaluation import benchmarks, motion
from ops.hand3d import motion_tokens

LINE = np.arange(10)[:, None] * np.array([0.01, 0.0, 0.02]) + [0.0, 0.1, 0.4]


def action_row(
    task: str, points: np.ndarray, num_context: int, split: str = "test", name: str = "a"
) -> dict[str, object]:
    tokens = motion_tokens.encode(points)[0].reshape(-1).tolist()
    return {
        "row_id": f"{name}:{task}:{split}", "clip_id": "c", "source": "s", "split": split, "task": task, "chunk": 0, "frame": 0,
        "side": "right", "instruction": "wave", "prompt": "wave?", "context_tokens": tokens[: 3 * num_context],
        "target_tokens": tokens[3 * num_context :], "target_text": None, "waypoints": points.reshape(-1).tolist(),
        "waypoint_hz": 15.0, "displacement_m": 0.2, "num_clipped": 0, "licence": "CC0",
        "level": "second", "start_s": 0.0, "intrinsics": "given", "noncommercial": False, "redistributable": True,
    }  # fmt: skip


def test_errors_by_hand():
    wanted = [np.zeros((2, 3)), np.zeros((1, 3))]
    said = [np.array([[0.3, 0, 0], [0.3, 0.4, 0]]), np.array([[0, 0, 0.2]])]
    found = motion.score(motion.GENERATION, said, wanted)
    assert found.mean_error_m == pytest.approx(((0.3 + 0.5) / 2 + 0.2) / 2)
    assert found.final_error_m == pytest.approx((0.5 + 0.2) / 2)
    assert found.shape_error_m == pytest.approx((0.4 / 2 + 0) / 2)


def test_truth_is_cut_where_the_context_ends():
    rows = tables.frame("action_rows", [action_row(motion.PREDICTION, LINE, 4)])
    seen, wanted = motion.truth(rows)
    np.testing.assert_allclose(seen[0], LINE[:4], atol=1e-7)
    np.testing.assert_allclose(wanted[0], LINE[4:], atol=1e-7)


def test_constant_velocity_is_exact_on_a_line_and_constant_position_is_not():
    seen, wanted = [LINE[:4]], [LINE[4:]]
    np.testing.assert_allclose(motion.constant_velocity(seen, wanted)[0], LINE[4:], atol=1e-12)
    step = np.linalg.norm([0.01, 0.02])
    found = motion.score(motion.PREDICTION, motion.constant_position(seen, wanted), wanted)
    assert found.mean_error_m == pytest.approx(step * np.mean(np.arange(1, 7)))
    assert found.final_error_m == pytest.approx(6 * step)


def test_baselines_without_context_start_at_the_true_first_waypoint():
    seen, wanted = [np.empty((0, 3))], [LINE]
    np.testing.assert_array_equal(motion.constant_position(seen, wanted)[0], np.repeat(LINE[:1], 10, axis=0))
    np.testing.assert_array_equal(motion.constant_velocity(seen, wanted)[0], np.repeat(LINE[:1], 10, axis=0))


def test_mean_motion_of_one_row_is_that_row_at_any_length():
    train = tables.frame("action_rows", [action_row(motion.GENERATION, LINE, 0, "train")])
    found = motion.mean_motion(train, motion.GENERATION, [LINE, LINE[:5]])
    np.testing.assert_allclose(found[0], LINE, atol=1e-6)
    np.testing.assert_allclose(found[1][[0, -1]], LINE[[0, -1]], atol=1e-6)
    with pytest.raises(ValueError, match="no training row"):
        motion.mean_motion(train, motion.PREDICTION, [LINE])


def test_mean_position_is_over_all_training_waypoints_of_the_task():
    known = {"a": LINE, "b": LINE[:5] + 0.1}
    rows = [action_row(motion.GENERATION, line, 0, "train", name) for name, line in known.items()]
    train = tables.frame("action_rows", rows)
    found = motion.mean_position(train, motion.GENERATION, [LINE[:3]])
    mean = (LINE.sum(axis=0) + (LINE[:5] + 0.1).sum(axis=0)) / (len(LINE) + 5)
    np.testing.assert_allclose(found[0], np.repeat(mean[None], 3, axis=0), atol=1e-6)
    with pytest.raises(ValueError, match="no training row"):
        motion.mean_position(train, motion.PREDICTION, [LINE])


OTHER = LINE * [1.0, -1.0, 1.0] + np.arange(10)[:, None] * np.array(
    [-0.03, 0.0, 0.0]
)  # the other hand's, another velocity


def both_row(task: str, num_context: int, split: str = "test", name: str = "a") -> dict[str, object]:
    """LINE (left) and OTHER (right) in turns; num_context waypoints of each are given."""
    return action_row(task, np.stack([LINE, OTHER], axis=1).reshape(-1, 3), 2 * num_context, split, name) | {"side": "both"}  # fmt: skip


def test_two_hands_go_on_each_with_its_own_velocity():
    rows = tables.frame("action_rows", [both_row(motion.PREDICTION, 4)])
    seen, wanted = motion.truth(rows)
    assert (seen[0].shape, wanted[0].shape) == ((4, 2, 3), (6, 2, 3))
    np.testing.assert_allclose(seen[0][:, 0], LINE[:4], atol=1e-7)
    np.testing.assert_allclose(wanted[0][:, 1], OTHER[4:], atol=1e-7)
    np.testing.assert_allclose(motion.constant_velocity(seen, wanted)[0], wanted[0], atol=1e-6)
    stay = motion.score(motion.PREDICTION, motion.constant_position(seen, wanted), wanted)
    steps = [np.linalg.norm([0.01, 0.02]), np.linalg.norm([0.02, 0.02])]
    assert stay.mean_error_m == pytest.approx(np.mean(steps) * np.mean(np.arange(1, 7)), abs=1e-6)
    assert stay.final_error_m == pytest.approx(6 * np.mean(steps), abs=1e-6)
    assert stay.num_rows == 1


def test_two_hands_as_a_model_says_them_are_scored_hand_by_hand(tmp_path):
    """In turns, left first; the right hand 0.1 m off all the way: half of that in the mean, no error of shape."""
    _, wanted = motion.truth(tables.frame("action_rows", [both_row(motion.GENERATION, 0)]))
    said = (wanted[0] + np.array([[0.0, 0, 0], [0.1, 0, 0]])).reshape(-1, 3)
    found = motion.score(motion.GENERATION, [said], wanted)
    assert found.mean_error_m == pytest.approx(0.05)
    assert found.final_error_m == pytest.approx(0.05)
    assert found.shape_error_m == pytest.approx(0, abs=1e-12)
    motion.draw([said], wanted, ["clap"], tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").stat().st_size > 1000


def test_means_of_two_hands_are_of_two_hands_where_there_are_any():
    single, pair = action_row(motion.GENERATION, LINE + 0.1, 0, "train"), both_row(motion.GENERATION, 0, "train", "b")
    train = tables.frame("action_rows", [single, pair])
    _, wanted = motion.truth(train)
    alone, together = motion.mean_motion(train, motion.GENERATION, wanted)
    np.testing.assert_allclose(alone, LINE + 0.1, atol=1e-6)
    np.testing.assert_allclose(together, np.stack([LINE, OTHER], axis=1), atol=1e-6)
    place = motion.mean_position(train, motion.GENERATION, wanted)[1]
    np.testing.assert_allclose(place[0], [LINE.mean(0), OTHER.mean(0)], atol=1e-6)
    both = motion.mean_motion(train.head(1), motion.GENERATION, wanted)[
        1
    ]  # none of two hands is known: the one for each
    np.testing.assert_allclose(both[:, 1], LINE + 0.1, atol=1e-6)


def test_motion_of_another_length_is_refused():
    with pytest.raises(ValueError, match="equal lengths"):
        motion.score(motion.GENERATION, [LINE[:3]], [LINE])


def trials(name: str, progress: list[float]) -> list[dict[str, object]]:
    return [
        {
            "policy": name, "suite": "libero_object", "task_id": 0, "task": "t", "init_index": i, "seed": i, "success": p == 1,
            "progress": p, "steps": 10, "terminated_by": "success" if p == 1 else "horizon", "policy_calls": 2, "wall_s": 1.0,
        }
        for i, p in enumerate(progress)
    ]  # fmt: skip


def test_rates_and_progress_of_trials(tmp_path):
    table = tables.frame("trials", trials("policy", [1, 1, 1 / 3, 0]) + trials("random", [0, 0, 0, 0]))
    rates = benchmarks.trial_rates(table)
    found = benchmarks.trial_metrics(table, rates)
    assert (found["libero/policy/success"], found["libero/policy/num_trials"]) == (0.5, 4)
    # Wilson by hand: centre (k + z^2/2) / (n + z^2), half-width z sqrt(n/4 p-term) / (n + z^2)
    z, n, k = 1.959963984540054, 4, 2
    half = z * np.sqrt(k * (n - k) / n + z**2 / 4) / (n + z**2)
    assert found["libero/policy/success_low"] == pytest.approx((k + z**2 / 2) / (n + z**2) - half)
    assert found["libero/policy/progress"] == pytest.approx((1 + 1 + 1 / 3) / 4)
    assert found["libero/random/success"] == found["libero/random/success_low"] == 0
    benchmarks.draw_rates(table, rates, tmp_path / "trials.png")
    assert (tmp_path / "trials.png").stat().st_size < 300_000


def test_trial_that_ended_in_an_error_is_no_score():
    rows = trials("policy", [1, 0])
    rows[1]["terminated_by"] = "error"
    with pytest.raises(ValueError, match="error"):
        benchmarks.trial_rates(pl.DataFrame(rows, schema=tables.dtypes("trials")))


def test_a_shortened_protocol_is_said_beside_the_published_one():
    smoke = benchmarks.protocol(BenchmarkConfig(hard_reset=False, horizon=200), "libero_object")
    assert "at most 200 steps (published: 280)" in smoke
    assert "keeps (published: rebuilds)" in smoke
    published = benchmarks.protocol(BenchmarkConfig(hard_reset=True, horizon=None), "libero_object")
    assert "at most 280 steps (published: 280) and rebuilds the simulation" in published
