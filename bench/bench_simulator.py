"""LIBERO episodes: an image when the policy is asked, against an image at every step (LIBERO's OffScreenRenderEnv).

The peer is what LIBERO's own README uses, with one camera; both replay the same actions from the same state, and
their final states are compared. Resets: our soft reset against the hard one of the published protocol.
"""

import statistics
import time

import numpy as np

STEPS, EXECUTE, REPEATS, SIZE = 48, 8, 3, 128


def rows() -> list[dict[str, object]]:
    from ops.robots.libero import LiberoEnv

    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, 7))
    with LiberoEnv("libero_object", 4, SIZE, hard_reset=False) as env:
        ours_state, ours_s = _repeat(lambda: _on_demand(env, actions))
        soft_s = _repeat(lambda: env.reset_official(0))[1]
        env.hard_reset = env._env.env.hard_reset = True
        hard_s = _repeat(lambda: env.reset_official(0))[1]
        peer_state, peer_s = _peer(env.info, actions)
    gap = float(np.abs(ours_state - peer_state).max())
    note = f"{STEPS} steps, 1 camera, {SIZE} px, an image each {EXECUTE} steps against each step; final states differ by {gap:.0e}"
    return [
        _row("control steps with images", STEPS / ours_s, STEPS / peer_s, "steps/CPU s", note),
        _row(
            "resets",
            1 / soft_s,
            1 / hard_s,
            "resets/CPU s",
            "history-free soft reset against rebuilding the model, each with 10 steps of rest",
        ),
    ]


def _row(name: str, ours: float, peer: float, unit: str, note: str) -> dict[str, object]:
    return {"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": ours / peer, "note": note}


def _repeat(job) -> tuple[object, float]:
    times, result = [], None
    for _ in range(REPEATS):
        start = time.process_time()
        result = job()
        times.append(time.process_time() - start)
    return result, statistics.median(times)


def _on_demand(env, actions: np.ndarray) -> np.ndarray:
    env._reset(0)
    env.set_state(env.info.init_states[0])
    for number, action in enumerate(actions):
        if number % EXECUTE == 0:
            env.images()
            env.state()
        env.step(action)
    return env.sim_state()


def _peer(info, actions: np.ndarray) -> tuple[np.ndarray, float]:
    """Rendering inside every step; without its hard reset, so that only the rendering differs."""
    from libero.libero.envs.env_wrapper import OffScreenRenderEnv

    env = OffScreenRenderEnv(
        bddl_file_name=info.bddl_file,
        camera_heights=SIZE,
        camera_widths=SIZE,
        camera_names=["agentview"],
        hard_reset=False,
    )

    def roll() -> np.ndarray:
        env.reset()
        gripper = env.env.robots[0].gripper
        gripper.current_action = np.zeros_like(gripper.current_action)
        env.set_init_state(info.init_states[0])
        for action in actions:
            observation = env.step(action)[0]
            observation["agentview_image"][::-1, ::-1].copy()
        return np.asarray(env.get_sim_state())

    try:
        return _repeat(roll)
    finally:
        env.close()
