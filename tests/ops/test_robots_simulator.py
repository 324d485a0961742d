"""The simulator itself: protocol, determinism, drift guard, expert, trials. One scene is built for most of it."""

from dataclasses import replace

import numpy as np
import pytest

from ops.config import RobotDemonstrationsConfig
from ops.robots import demonstrations, evaluate
from ops.robots.drift import bowl_offset_m, brightness
from ops.robots.expert import Expert
from ops.robots.libero import CLOSE, OPEN, SETTLE_STEPS, LiberoEnv
from ops.robots.policies import ExpertPolicy, Observation, RandomPolicy

pytestmark = [pytest.mark.simulator, pytest.mark.slow]
CONFIG = RobotDemonstrationsConfig(image_size=64, image_every=40)


@pytest.fixture(scope="module")
def env():
    with LiberoEnv(CONFIG.suite, CONFIG.task_id, 64, ("agentview", "wrist"), hard_reset=False) as environment:
        yield environment


def _roll(env: LiberoEnv, index: int, steps: int = 20) -> np.ndarray:
    rng = np.random.default_rng(index)
    env.reset_official(index)
    for action in rng.uniform(-1, 1, (steps, 7)):
        env.step(action)
    return env.sim_state()


def test_fifty_official_states_and_the_settle_count(env):
    assert env.info.init_states.shape[0] == 50
    assert len(np.unique(env.info.init_states, axis=0)) == 50
    env.reset_official(3)
    # time 0 in the initial state, then 10 control steps of 50 ms
    assert env.sim_state()[0] == pytest.approx(SETTLE_STEPS * 0.05)
    assert not env.success()
    with pytest.raises(ValueError, match="0 to 49"):
        env.reset_official(50)


def test_the_target_hardly_moves_between_official_states(env):
    """So blind replay does well here: whoever reads a LIBERO-Object score should know."""
    positions = []
    for index in (0, 7, 31):
        env.reset_official(index)
        positions.append(env.object_position(env.goal.object))
    assert np.ptp(positions, axis=0).max() < 0.002


def test_soft_resets_do_not_remember_and_start_as_hard_ones_do(env):
    first = _roll(env, 2)
    _roll(env, 5)
    np.testing.assert_array_equal(_roll(env, 2), first)
    env.reset_official(2)
    soft = env.sim_state()
    with LiberoEnv(CONFIG.suite, CONFIG.task_id, 64, hard_reset=True) as hard:
        hard.reset_official(2)
        np.testing.assert_allclose(soft, hard.sim_state(), atol=1e-9)


def test_images_are_turned_by_180_degrees(env):
    env.reset_official(0)
    upright = env.images()["agentview"]
    np.testing.assert_array_equal(upright, env._raw_image("agentview")[::-1, ::-1])
    assert 120 < upright.mean() < 160
    # the camera faces the robot, whose right (world -y) is the picture's right; an unturned picture has it on the left
    for _ in range(12):
        env.step(np.array([0, -1, 0, 0, 0, 0, OPEN]))
    changed = np.abs(env.images()["agentview"].astype(int) - upright.astype(int)).sum(2) > 60
    assert env.eef_position()[1] < -0.05
    rows, columns = np.nonzero(changed)
    assert columns.mean() > 34  # below 29 in an unturned picture
    assert rows.mean() < 28  # and the arm is in the upper half


def test_two_environments_do_not_draw_into_each_other(env):
    env.reset_official(0)
    alone = env.images()
    with LiberoEnv("libero_goal", 0, 64, hard_reset=False) as other:
        other.reset_official(0)
        between = other.images()["agentview"]
        np.testing.assert_array_equal(env.images()["wrist"], alone["wrist"])
        np.testing.assert_array_equal(env.images()["agentview"], alone["agentview"])
        np.testing.assert_array_equal(other.images()["agentview"], between)
    np.testing.assert_array_equal(env.images()["agentview"], alone["agentview"])


def test_state_layout_and_gripper_sign(env):
    env.reset_official(0)
    state = env.state()
    assert state.shape == (8,)
    assert state.dtype == np.float32
    np.testing.assert_allclose(state[:3], env.eef_position(), atol=1e-6)
    assert np.linalg.norm(state[3:6]) == pytest.approx(np.pi, abs=0.2)  # points down
    gap = state[6] - state[7]
    for _ in range(8):
        env.step(np.array([0, 0, 0, 0, 0, 0, CLOSE]))
    assert env.state()[6] - env.state()[7] < gap - 0.05


def test_actions_are_checked(env):
    with pytest.raises(ValueError, match="7 finite"):
        env.step(np.full(7, np.nan))
    with pytest.raises(ValueError, match="7 finite"):
        env.step(np.zeros(6))


def test_expert_succeeds_and_closes_on_plus_one(env):
    env.reset_official(1)
    expert, gripper = Expert(env), {}
    while (step := expert.next()) is not None:
        gripper.setdefault(expert.phase, set()).add(float(step[0][6]))
        env.step(step[1])
    assert env.success()
    assert gripper["descend"] == {OPEN}
    assert gripper["close"] == gripper["lift"] == gripper["transit"] == {CLOSE}
    assert gripper["open"] == {OPEN}


def test_a_demonstration_is_recorded_from_a_start_that_is_not_official(env):
    attempt = demonstrations.record(env, 1000, CONFIG_BOTH)
    again = demonstrations.record(env, 1000, CONFIG_BOTH)
    episode = attempt.episode
    assert episode is not None
    assert attempt.official_gap > 1e-3
    assert demonstrations.official_gap(env, env.info.init_states[17]) == 0
    np.testing.assert_array_equal(episode.action, again.episode.action)  # equal seeds, equal demonstrations
    np.testing.assert_array_equal(episode.images["wrist"], again.episode.images["wrist"])
    np.testing.assert_array_equal(np.flatnonzero(episode.image_age_s == 0), np.arange(0, len(episode), 40))
    assert np.abs(episode.action).max() <= 1


CONFIG_BOTH = replace(CONFIG, views=("agentview", "wrist"))


class _Faulty(RandomPolicy):
    needs_images = True

    def act(self, observation: Observation) -> np.ndarray:
        assert observation.images["agentview"].shape == (64, 64, 3)
        if observation.state[0] > -10:
            raise ZeroDivisionError("a policy's fault")
        return super().act(observation)


def test_trials_resume_and_errors_are_no_failures(tmp_path, capsys):
    kept, film = tmp_path / "trials.jsonl", []
    settings = {"suite": CONFIG.suite, "task_id": CONFIG.task_id, "horizon": 12, "hard_reset": False, "image_size": 64}
    one = evaluate.run_trials(RandomPolicy(), "random", num_trials=1, finished=kept, film=film, **settings)
    assert (one["steps"][0], one["policy_calls"][0], one["terminated_by"][0]) == (12, 2, "horizon")
    assert len(film) == 2
    two = evaluate.run_trials(RandomPolicy(), "random", num_trials=2, finished=kept, **settings)
    assert two["wall_s"][0] == one["wall_s"][0]  # kept, not run again
    assert two["seed"].to_list() == [7 + 1000 * CONFIG.task_id, 8 + 1000 * CONFIG.task_id]
    faulty = evaluate.run_trials(_Faulty(), "faulty", num_trials=1, **settings)
    assert faulty["terminated_by"].to_list() == ["error"]
    assert "a policy's fault" in capsys.readouterr().err


def test_the_expert_scores_full_progress_as_a_policy():
    settings = {"suite": CONFIG.suite, "task_id": CONFIG.task_id, "hard_reset": False, "image_size": 64}
    trials = evaluate.run_trials(ExpertPolicy(), "expert", num_trials=1, **settings)
    assert trials["success"].to_list() == [True]
    assert trials["progress"].to_list() == [1.0]


def test_this_simulator_has_not_drifted():
    assert bowl_offset_m() == pytest.approx(0.0145, abs=0.005)  # 0.062 with mujoco 3.17
    assert brightness() == pytest.approx(139, abs=4)  # 102 with mujoco 3.17
