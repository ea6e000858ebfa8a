"""A humanoid that is told in words which pose to take."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np

from vlmreward.envs.mujoco.env import MujocoEnv
from vlmreward.envs.mujoco.gl import import_mujoco
from vlmreward.envs.mujoco.humanoid.facts import compute_facts, describe
from vlmreward.envs.mujoco.humanoid.model import CTRL_LIMIT, JOINTS, MOTORS, ROOT, Control
from vlmreward.envs.mujoco.humanoid.poses import interpolate, put_on_ground, sample_pose, start_pose
from vlmreward.envs.mujoco.humanoid.scene import VLMRM_CAMERA, Appearance, HumanoidScene
from vlmreward.envs.mujoco.humanoid.states import sample_between, sample_random_state, sample_random_states
from vlmreward.envs.mujoco.humanoid.tasks import HOLD_SECONDS, TASKS, facts_distance, holds
from vlmreward.envs.mujoco.renderer import Camera
from vlmreward.envs.task import HoldCounter, Task, find_task
from vlmreward.errors import ConfigError
from vlmreward.registry import suggest
from vlmreward.types import Axis, Frames, Sweep

mujoco = import_mujoco()

__all__ = ["FRAME_SKIP", "HumanoidEnv", "describe"]

FRAME_SKIP = 5  # physics steps of 3 ms per step
_STARTS = ("standing", "random")
_CLEARANCES = (
    "torso_clearance", "pelvis_clearance", "right_knee_clearance", "left_knee_clearance",
    "right_foot_clearance", "left_foot_clearance", "right_hand_clearance", "left_hand_clearance",
)  # fmt: skip


class HumanoidEnv(MujocoEnv):
    """A three-dimensional two-legged robot, told in words which pose to take and hold.

    ## Description
    Body, joints, masses and motors are those of Gymnasium's `Humanoid-v5` (Tassa, Erez and Todorov, 2012). The eight
    tasks, their prompts, the camera and the kind of scenery follow VLM-RM (arXiv 2310.12921). What differs from VLM-RM:

    - an episode lasts 6 s, not 1.5 s, so that a pose has to be *held* (VLM-RM's robots could fall into it);
    - success is a predicate on the true state, not a person's opinion of a video;
    - time limits truncate, they don't terminate; the robot starts on its feet instead of 11 cm above the ground;
    - the observation has 57 numbers instead of 376: without the inertia, velocity and contact-force blocks, which
      follow from the rest, and with the place on the ground, which a picture from a fixed camera shows and so the
      reward depends on;
    - actions are scaled to [-1, 1].

    ## Action space
    `Box(-1, 1, (17,), float32)`. With `control="torque"`, the torque is the action times 0.4 times the gear. With
    `control="position"`, an action is the angle that a joint's servo steers to, -1 and 1 being the limits of the joint;
    the largest torques are the same.

    | index | action | largest torque (Nm) | joint limits (degrees) |
    |---|---|---|---|
    | 0 | abdomen_y | 40 | -75 to 30 |
    | 1 | abdomen_z | 40 | -45 to 45 |
    | 2 | abdomen_x | 40 | -35 to 35 |
    | 3 | right_hip_x | 40 | -25 to 5 |
    | 4 | right_hip_z | 40 | -60 to 35 |
    | 5 | right_hip_y | 120 | -110 to 20 |
    | 6 | right_knee | 80 | -160 to -2 |
    | 7 | left_hip_x | 40 | -25 to 5 |
    | 8 | left_hip_z | 40 | -60 to 35 |
    | 9 | left_hip_y | 120 | -110 to 20 |
    | 10 | left_knee | 80 | -160 to -2 |
    | 11 | right_shoulder1 | 10 | -85 to 60 |
    | 12 | right_shoulder2 | 10 | -85 to 60 |
    | 13 | right_elbow | 10 | -90 to 50 |
    | 14 | left_shoulder1 | 10 | -60 to 85 |
    | 15 | left_shoulder2 | 10 | -60 to 85 |
    | 16 | left_elbow | 10 | -90 to 50 |

    ## Observation space
    `Box(-inf, inf, (57,), float32)`

    | index | observation | unit |
    |---|---|---|
    | 0-2 | position of the torso, x y z | m |
    | 3-5 | where the torso faces: its x axis in the world | 1 |
    | 6-8 | where its upper end points: its z axis in the world | 1 |
    | 9-25 | joint angles, in the model's order (abdomen_z first, then as the actions) | rad |
    | 26-28 | velocity of the torso in the world | m/s |
    | 29-31 | angular velocity of the torso in its own frame | rad/s |
    | 32-48 | joint velocities | rad/s |
    | 49-56 | clearance above the ground: trunk, bottom, knees, feet, hands (right before left) | m |

    ## Rewards
    The environment's own reward is hand-written: one minus the pose's distance from the task's goal, in [0, 1]
    (`tasks.pose_distance`: how far the facts of the success predicate are outside their ranges). It is 0 with
    `task=None`. It is there to compare with and knows nothing of pictures.

    ## Starting state
    `start="standing"`: upright on both feet, facing the camera, uniform noise of +-0.01 on every position (rad, m) and
    velocity. `start="random"`: a fallen, lying, crouching or half-way state at rest (`states.sample_random_state`).

    ## Success
    `info["success"]` is True when the predicate of the task (`TASKS[task].success`) held without a break in the last
    second; it turns False again when the pose is left. `info["pose_distance"]` is the distance from the goal. The
    tasks are `kneeling`, `lotus`, `standing`, `arms_raised`, `splits`, `hands_on_hips`, `arms_crossed` and `one_leg`;
    their predicates stand in `vlmreward.envs.mujoco.humanoid.tasks`.

    ## Episode end
    Never terminates. Truncated after 400 steps of 0.015 s (6 s) by `TimeLimit`.

    ## Arguments
    | argument | default | meaning |
    |---|---|---|
    | `task` | `"kneeling"` | one of `TASKS`, or None: no success, no reward |
    | `render_mode` | `"rgb_array"` | or None: no pictures, and no OpenGL needed |
    | `width`, `height` | 224 | size of the pictures in pixels |
    | `quality` | `"fast"` | or `"fine"`: shadows and antialiasing, 20 to 80 times the cost; rewards differ |
    | `control` | `"torque"` | or `"position"` |
    | `start` | `"standing"` | or `"random"` |
    | `camera_distance` | 3.5 | m; VLM-RM's camera |
    | `camera_height` | 1.0 | m, height of the point that the camera looks at; VLM-RM's |

    ## Version history
    - v0: first version.
    """

    TASKS: ClassVar[dict[str, Task]] = TASKS
    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 67,
        "never_terminates": True,
    }

    def __init__(
        self,
        task: str | None = "kneeling",
        render_mode: str | None = "rgb_array",
        width: int = 224,
        height: int = 224,
        quality: str = "fast",
        control: Control = "torque",
        start: Literal["standing", "random"] = "standing",
        camera_distance: float = VLMRM_CAMERA.distance,
        camera_height: float = VLMRM_CAMERA.lookat[2],
    ) -> None:
        super().__init__(render_mode)
        if start not in _STARTS:
            raise ConfigError(f"unknown start {start!r}: {suggest(str(start), _STARTS)}")
        self.task = find_task(TASKS, task)
        camera = Camera(camera_distance, (0.0, 0.0, camera_height), VLMRM_CAMERA.azimuth, VLMRM_CAMERA.elevation)
        self.scene = HumanoidScene(width, height, quality, control, Appearance(camera=camera))
        self.model = self.scene.model
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)
        self.dt = self.model.opt.timestep * FRAME_SKIP
        self._start, self._control = start, control
        self._ctrl_middle, self._ctrl_half = _control_range(self.model, control)
        self._torso = self.model.body("torso").id
        self._facts: dict[str, float] = {}
        self._hold = HoldCounter(HOLD_SECONDS, self.dt)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (len(MOTORS),), np.float32)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (self._observe().size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; see the class for the distribution of starting states."""
        super().reset(seed=seed)
        rng = self.np_random
        mujoco.mj_resetData(self.model, self.data)
        if self._start == "random":
            self.data.qpos[:] = sample_random_state(rng)
        else:
            qpos = start_pose() + rng.uniform(-0.01, 0.01, self.model.nq)
            qpos[3:7] /= np.linalg.norm(qpos[3:7])
            limits = self.model.jnt_range[1:]
            qpos[ROOT:] = np.clip(qpos[ROOT:], limits[:, 0], limits[:, 1])
            self.data.qpos[:] = put_on_ground(qpos)
            self.data.qvel[:] = rng.uniform(-0.01, 0.01, self.model.nv)
        mujoco.mj_forward(self.model, self.data)
        self._hold.reset()
        obs = self._observe()
        return obs, self._info(held=False)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply an action for 0.015 s.

        Args:
            action: float, shape (17,); values outside [-1, 1] are clipped.

        Raises:
            ConfigError: The action has another shape.
            NonFiniteError: The action is not finite.
        """
        action = self._read_action(action)
        self.data.ctrl[:] = self._ctrl_middle + self._ctrl_half * np.clip(action, -1.0, 1.0)
        mujoco.mj_step(self.model, self.data, FRAME_SKIP)
        mujoco.mj_kinematics(self.model, self.data)  # mj_step leaves the places of the parts one physics step behind
        obs = self._observe()
        held = self.task is not None and self._hold.update(holds(self.task.name, self._facts))
        info = self._info(held)
        reward = 1.0 - info["pose_distance"] if self.task else 0.0
        return obs, reward, False, False, info

    def render(self) -> Frames:
        """Return a picture of the present state, uint8, shape (height, width, 3).

        Raises:
            RenderingError: The environment was made with ``render_mode=None``, or no picture can be made.
        """
        self._check_has_pictures()
        return self.scene.render(self.data)

    @property
    def hold_action(self) -> np.ndarray:
        """The action that keeps the joints where ``start="standing"`` has them, float32, shape (17,).

        With torque control that is no torque at all, the best that a constant action can do.
        """
        if self._control == "torque":
            return np.zeros(len(MOTORS), np.float32)
        start = start_pose()[ROOT:]
        angles = np.array([start[JOINTS.index(name)] for name in MOTORS])
        return np.clip((angles - self._ctrl_middle) / self._ctrl_half, -1.0, 1.0).astype(np.float32)

    def judge(self, task: str) -> tuple[bool, float]:
        """Return whether a task's predicate is true of the present state, and one minus its pose distance."""
        return holds(task, self._facts), 1.0 - facts_distance(task, self._facts)

    def sample_states(self, rng: np.random.Generator, count: int, task: str | None) -> np.ndarray:
        """Draw states: half of them at random, the others on the way to a task's pose or in it.

        Returns:
            ``qpos``, float64, shape (count, 24), in random order.
        """
        near = count // 2 if task is not None else 0
        states = list(sample_random_states(rng, count - near))
        for i in range(near):
            assert task is not None
            states.append(sample_pose(task, rng) if i % 2 else sample_between(task, rng))
        return np.stack([states[i] for i in rng.permutation(count)])

    def set_state(self, state: np.ndarray) -> None:
        """Put the robot into a pose, at rest; what was held before is forgotten.

        Args:
            state: ``qpos``, shape (24,).
        """
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = state
        mujoco.mj_forward(self.model, self.data)
        self._hold.reset()
        self._observe()

    def sweeps(self, task: str | None) -> tuple[Sweep, ...]:
        """Return the way from standing to a task's pose, and the same with the robot turned about the vertical."""
        if task is None:
            return ()
        start, goal = start_pose(), sample_pose(task, np.random.default_rng(0))
        way, turn = Axis("way from standing to the pose", 0.0, 1.0), Axis("turn", -180.0, 180.0, "degrees")

        def turned(share: float, degrees: float) -> np.ndarray:
            pose = interpolate(start, goal, share)
            quat, half = np.zeros(4), np.radians(degrees) / 2
            mujoco.mju_mulQuat(quat, np.array([np.cos(half), 0.0, 0.0, np.sin(half)]), pose[3:7])
            pose[3:7] = quat
            return pose

        return Sweep((way,), lambda share: interpolate(start, goal, share)), Sweep((way, turn), turned)

    def facts(self) -> dict[str, float]:
        """Return the true facts of the present state; see ``facts.FACTS``."""
        return dict(self._facts)

    def close(self) -> None:
        """Free the renderer."""
        self.scene.close()

    def _observe(self) -> np.ndarray:
        """Compute the facts and return the observation, float32, shape (57,)."""
        data = self.data
        self._facts = compute_facts(self.model, data)
        rotation = data.xmat[self._torso].reshape(3, 3)
        return np.concatenate(
            (
                data.qpos[:3],
                rotation[:, 0],
                rotation[:, 2],
                data.qpos[ROOT:],
                data.qvel,
                [self._facts[name] for name in _CLEARANCES],
            )
        ).astype(np.float32)

    def _info(self, held: bool) -> dict[str, Any]:
        """Return the info of the present state."""
        if self.task is None:
            return {"success": None}
        return {"success": held, "pose_distance": facts_distance(self.task.name, self._facts)}


def _control_range(model: Any, control: str) -> tuple[np.ndarray, np.ndarray]:
    """Return middle and half width of what the motors take, each of shape (17,)."""
    if control == "torque":
        return np.zeros(len(MOTORS)), np.full(len(MOTORS), CTRL_LIMIT)
    low, high = model.actuator_ctrlrange.T
    return (low + high) / 2, (high - low) / 2
