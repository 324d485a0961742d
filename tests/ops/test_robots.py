"""Robots without a simulator: LeRobot round trip, grasp geometry, scores, resumption, no-ops."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from scipy.spatial.transform import Rotation

from ops import tables
from ops.config import RobotDemonstrationsConfig
from ops.lerobot import reader as lerobot
from ops.lerobot import writer as lerobot_writer
from ops.lerobot.writer import Episode
from ops.robots import demonstrations
from ops.robots.drift import DriftReport
from ops.robots.evaluate import DriftError, _finished_rows, _keep, compare, require_no_drift, score, wilson
from ops.robots.expert import plan_grasps
from ops.robots.libero import quat_xyzw_to_axis_angle, task_info
from ops.robots.policies import MeanActionPolicy, Observation, RandomPolicy, ReplayPolicy


def _episode(length: int, seed: int, every: int = 4, size: int = 32, views=("agentview", "wrist")) -> Episode:
    rng = np.random.default_rng(seed)
    steps = np.arange(length)
    images = {}
    for view in views:
        number = (length + every - 1) // every
        small = rng.integers(0, 255, (number, 4, 4, 3), dtype=np.uint8)
        images[view] = small.repeat(size // 4, 1).repeat(size // 4, 2)
    state, action = (rng.standard_normal((length, d)).astype(np.float32) for d in (8, 7))
    return Episode(images, steps // every, (steps % every) / 20.0, state, action, f"task {seed % 2}")


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return [_episode(length, seed) for seed, length in enumerate((9, 12, 5))]


@pytest.mark.parametrize("storage", ["image", "video"])
def test_round_trip(tmp_path, episodes, storage):
    assert lerobot_writer.write(tmp_path, iter(episodes), 20.0, storage) == 3
    dataset = lerobot.read(tmp_path)
    np.testing.assert_array_equal(dataset.state, np.concatenate([e.state for e in episodes]))
    np.testing.assert_array_equal(dataset.action, np.concatenate([e.action for e in episodes]))
    np.testing.assert_array_equal(dataset.episode_index, np.repeat([0, 1, 2], [9, 12, 5]))
    assert dataset.task == ["task 0"] * 9 + ["task 1"] * 12 + ["task 0"] * 5
    assert (len(dataset), dataset.num_episodes, dataset.fps) == (26, 3, 20.0)
    for view in ("agentview", "wrist"):
        held = np.concatenate([e.images[view][e.image_index] for e in episodes]).astype(int)
        difference = np.abs(dataset.images[view][:].astype(int) - held)
        # H.264 in yuv420p is lossy; a wrong frame would differ by about 85
        assert difference.max() == 0 if storage == "image" else difference.mean() < 12
        assert dataset.images[view].shape == (26, 32, 32, 3)


def test_conditioning_rows_are_the_fresh_images(tmp_path, episodes):
    lerobot_writer.write(tmp_path, episodes, 20.0)
    dataset = lerobot.read(tmp_path)
    np.testing.assert_array_equal(dataset.conditioning_rows(), [0, 4, 8, 9, 13, 17, 21, 25])


def test_chunks_stay_in_their_episode_and_repeat_its_last_action(tmp_path, episodes):
    lerobot_writer.write(tmp_path, episodes, 20.0)
    actions, padded = lerobot.read(tmp_path).chunk(7, 4)
    np.testing.assert_array_equal(actions, episodes[0].action[[7, 8, 8, 8]])
    np.testing.assert_array_equal(padded, [False, False, True, True])


def test_meta_files_have_lerobots_layout(tmp_path, episodes):
    lerobot_writer.write(tmp_path, episodes, 20.0)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert info["splits"] == {"train": "0:3"}
    assert info["fps"] == 20
    assert isinstance(info["fps"], int)
    assert info["features"]["observation.images.image"] == {
        "dtype": "image", "shape": [32, 32, 3], "names": ["height", "width", "channels"],
    }  # fmt: skip
    rows = pq.read_table(tmp_path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(r["dataset_from_index"], r["dataset_to_index"], r["length"]) for r in rows] == [
        (0, 9, 9),
        (9, 21, 12),
        (21, 26, 5),
    ]
    data = pq.read_table(tmp_path / "data/chunk-000/file-000.parquet")
    assert str(data.schema.field("observation.state").type) == "fixed_size_list<element: float>[8]"
    assert data["observation.images.image"][0].as_py()["bytes"].startswith(b"\x89PNG")
    np.testing.assert_allclose(data["timestamp"].to_numpy()[9:12], [0, 0.05, 0.1], atol=1e-7)
    import pandas

    tasks = pandas.read_parquet(tmp_path / "meta/tasks.parquet")  # as lerobot reads it: the text is the index
    assert tasks.index.tolist() == ["task 0", "task 1"]
    assert tasks["task_index"].tolist() == [0, 1]


def test_statistics_are_those_of_the_rows(tmp_path, episodes):
    lerobot_writer.write(tmp_path, episodes, 20.0)
    stats = json.loads((tmp_path / "meta/stats.json").read_text())
    states = np.concatenate([e.state for e in episodes]).astype(np.float64)
    np.testing.assert_allclose(stats["observation.state"]["std"], states.std(0), rtol=1e-6)
    np.testing.assert_allclose(stats["observation.state"]["q90"], np.quantile(states, 0.9, axis=0), rtol=1e-6)
    images = np.concatenate([e.images["wrist"][e.image_index] for e in episodes]) / 255
    found = {name: np.array(value).reshape(-1) for name, value in stats["observation.images.image2"].items()}
    for name, wanted in (
        ("mean", images.mean((0, 1, 2))),
        ("std", images.std((0, 1, 2))),
        ("min", images.min((0, 1, 2))),
    ):
        np.testing.assert_allclose(found[name], wanted, rtol=1e-6)
    np.testing.assert_allclose(found["q50"], np.quantile(images, 0.5, axis=(0, 1, 2), method="inverted_cdf"), rtol=1e-6)


def test_a_set_without_ages_has_a_fresh_image_in_every_row(tmp_path):
    episode = _episode(6, 0, every=1)
    lerobot_writer.write(tmp_path, [episode], 10.0)
    path = tmp_path / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).drop_columns([lerobot.AGE_KEY]), path)
    info = json.loads((tmp_path / "meta/info.json").read_text())
    del info["features"][lerobot.AGE_KEY]
    (tmp_path / "meta/info.json").write_text(json.dumps(info))
    dataset = lerobot.read(tmp_path)
    np.testing.assert_array_equal(dataset.images["agentview"][:], episode.images["agentview"])
    assert len(dataset.conditioning_rows()) == 6


def test_reader_refuses_what_it_cannot_read(tmp_path, episodes):
    with pytest.raises(FileNotFoundError, match=r"info\.json"):
        lerobot.read(tmp_path)
    lerobot_writer.write(tmp_path, episodes, 20.0)
    path = tmp_path / "meta/info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"total_frames": 99}))
    with pytest.raises(ValueError, match=r"26 rows.*99"):
        lerobot.read(tmp_path)
    path.write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    with pytest.raises(ValueError, match=r"v2\.1"):
        lerobot.read(tmp_path)


def test_writer_refuses_broken_episodes(tmp_path, episodes):
    with pytest.raises(ValueError, match="at least one"):
        lerobot_writer.write(tmp_path / "a", [], 20.0)
    with pytest.raises(ValueError, match="one length"):
        lerobot_writer.write(tmp_path / "b", [replace(episodes[0], action=episodes[0].action[:3])], 20.0)
    with pytest.raises(ValueError, match="views and image size"):
        lerobot_writer.write(tmp_path / "c", [episodes[0], _episode(5, 1, size=16)], 20.0)


def test_no_ops_are_dropped_but_never_a_fresh_image():
    episode = _episode(8, 3)
    episode.action[[1, 4, 6], :6] = 0
    episode.action[:, 6] = [-1, -1, -1, -1, -1, -1, 1, 1]  # step 6 closes the gripper: not a no-op
    np.testing.assert_array_equal(np.flatnonzero(demonstrations.no_ops(episode.action)), [1, 4])
    kept = demonstrations._without_no_ops(episode)
    np.testing.assert_array_equal(kept.action, np.delete(episode.action, 1, axis=0))


def test_finished_attempts_survive_and_other_settings_forget_them(tmp_path):
    config = RobotDemonstrationsConfig()
    demonstrations._forget_other_settings(tmp_path, config)
    attempt = demonstrations.Attempt(1000, _episode(9, 0), 9, 0.02, 1.5)
    demonstrations._save(tmp_path / "1000.npz", attempt)
    demonstrations._save(tmp_path / "1001.npz", replace(attempt, seed=1001, episode=None))
    demonstrations._forget_other_settings(tmp_path, replace(config, num_demonstrations=99))
    loaded = demonstrations._load(tmp_path / "1000.npz")
    assert (loaded.seed, loaded.steps, loaded.episode.task) == (1000, 9, attempt.episode.task)
    np.testing.assert_array_equal(loaded.episode.images["wrist"], attempt.episode.images["wrist"])
    np.testing.assert_array_equal(loaded.episode.action, attempt.episode.action)
    assert demonstrations._load(tmp_path / "1001.npz").episode is None
    demonstrations._forget_other_settings(tmp_path, replace(config, noise=0.1))
    assert not (tmp_path / "1000.npz").exists()


def test_axis_angle_is_scipys_up_to_full_turns_and_continuous_where_the_gripper_points_down():
    rng = np.random.default_rng(0)
    for quat in Rotation.random(50, rng=rng).as_quat():
        ours = quat_xyzw_to_axis_angle(quat)
        np.testing.assert_allclose(
            Rotation.from_rotvec(ours).as_matrix(), Rotation.from_quat(quat).as_matrix(), atol=1e-9
        )
    before, after = (quat_xyzw_to_axis_angle(np.array([np.sqrt(1 - w * w), 0, 0, w])) for w in (1e-3, -1e-3))
    np.testing.assert_allclose(before, after, atol=5e-3)  # a wrapped vector would jump by 2 pi
    np.testing.assert_array_equal(quat_xyzw_to_axis_angle(np.array([0, 0, 0, 1.0])), 0)


def _box(low, high) -> np.ndarray:
    return np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, 8).T


def test_a_narrow_box_is_grasped_across_its_narrow_side():
    grasps = plan_grasps(_box((0.1, -0.02, 0), (0.2, 0.02, 0.09)), np.array([0, 1.0, 0]))
    np.testing.assert_allclose(grasps[0].point, [0.15, 0, 0.055], atol=1e-12)
    np.testing.assert_allclose(np.abs(grasps[0].direction), [0, 1, 0], atol=1e-12)
    turned = plan_grasps(_box((-0.02, 0.1, 0), (0.02, 0.2, 0.09)), np.array([0, 1.0, 0]))
    assert abs(turned[0].direction[0]) > 0.9  # the fingers must turn by about 90 degrees


def test_a_wide_bowl_is_taken_by_its_rim():
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    bowl = np.concatenate(
        [np.stack([r * np.cos(angles), r * np.sin(angles), np.full(64, z)], 1) for r, z in ((0.03, 0), (0.06, 0.05))]
    )
    for grasp in plan_grasps(bowl, np.array([0, 1.0, 0])):
        assert np.hypot(*grasp.point[:2]) == pytest.approx(0.055, abs=0.002)
        assert abs(grasp.direction @ [*grasp.point[:2], 0]) == pytest.approx(0.055, abs=0.002)
    with pytest.raises(ValueError, match="without points"):
        plan_grasps(np.zeros((0, 3)), np.array([0, 1.0, 0]))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # printed in the paper's percentages: 463/500, 475/500, 1848/2000, 1/10, 0/10
    [(463, 500, 90.0, 94.6), (475, 500, 92.7, 96.6), (1848, 2000, 91.2, 93.5), (1, 10, 1.8, 40.4), (0, 10, 0, 27.8)],
)
def test_wilson_intervals(successes, trials, low, high):
    interval = wilson(successes, trials)
    assert (round(100 * interval.low, 1), round(100 * interval.high, 1)) == (low, high)


def _trials(name: str, successes: list[bool], ended: list[str] | None = None) -> pl.DataFrame:
    ended = ended or ["success" if won else "horizon" for won in successes]
    rows = [
        {
            "policy": name, "suite": "libero_object", "task_id": 0, "task": "t", "init_index": i, "seed": 7 + i,
            "success": won, "progress": float(won), "steps": 10, "terminated_by": how, "policy_calls": 2, "wall_s": 1.0,
        }
        for i, (won, how) in enumerate(zip(successes, ended, strict=True))
    ]  # fmt: skip
    return tables.frame("trials", rows)


def test_score_refuses_errors_and_pairs_are_exact():
    assert score(_trials("a", [True, False, True])).successes == 2
    with pytest.raises(ValueError, match="ended in an error"):
        score(_trials("a", [True, False], ["success", "error"]))
    paired = compare(_trials("a", [True] * 6 + [False]), _trials("b", [False] * 5 + [True, False]))
    assert (paired.both, paired.only_a, paired.only_b, paired.neither) == (1, 5, 0, 1)
    assert paired.p_value == pytest.approx(2 * 0.5**5)
    with pytest.raises(ValueError, match="same trials"):
        compare(_trials("a", [True]), _trials("b", [True, False]))


def test_finished_trials_are_kept_by_protocol_and_errors_run_again(tmp_path):
    path, protocol = tmp_path / "kept" / "trials.jsonl", {"policy": "a", "horizon": 280, "views": ["agentview"]}
    rows = _trials("a", [True, False, False], ["success", "error", "horizon"]).to_dicts()
    for row in rows:
        _keep(path, protocol, row)
    with path.open("a") as file:
        file.write('{"protocol": {"pol')  # the kill came here
    assert sorted(_finished_rows(path, protocol)) == [0, 2]
    assert _finished_rows(path, protocol | {"horizon": 60}) == {}
    _keep(path, protocol, rows[1] | {"terminated_by": "horizon"})
    assert sorted(_finished_rows(path, protocol)) == [0, 1, 2]


def test_a_drifted_simulator_publishes_nothing():
    good = DriftReport(0.0145, 139.0, {"mujoco": "3.3.2"})
    require_no_drift(good)
    for bad in (
        replace(good, bowl_offset_m=0.062),
        replace(good, brightness=102.0),
        replace(good, bowl_offset_m=float("nan")),
    ):
        with pytest.raises(DriftError, match="no score"):
            require_no_drift(bad)


def test_baselines(tmp_path, episodes):
    lerobot_writer.write(tmp_path, episodes, 20.0)
    dataset = lerobot.read(tmp_path)
    seen = Observation({}, episodes[1].state[0] + 1e-3, "task 1")
    mean = MeanActionPolicy(dataset)
    mean.reset(0)
    np.testing.assert_allclose(mean.act(seen)[3], dataset.action.mean(0))
    random = RandomPolicy()
    draws = []
    for _ in range(2):
        random.reset(5)
        draws.append(random.act(seen))
    np.testing.assert_array_equal(*draws)
    replay = ReplayPolicy(dataset)
    replay.reset(0)
    np.testing.assert_array_equal(np.concatenate([replay.act(seen), replay.act(seen)])[:12], episodes[1].action)


def test_unknown_suites_are_refused():
    with pytest.raises(ValueError, match="libero_object"):
        task_info("libero_objects", 0)
