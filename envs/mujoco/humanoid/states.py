"""States that a learning humanoid gets into: falling, lying, crouching, and half-way poses."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmreward.envs.mujoco.gl import import_mujoco
from vlmreward.envs.mujoco.humanoid.model import CTRL_LIMIT, ROOT, load_model
from vlmreward.envs.mujoco.humanoid.poses import Pose, interpolate, mirror, put_on_ground, sample_pose, start_pose
from vlmreward.envs.mujoco.humanoid.tasks import TASKS

mujoco = import_mujoco()

_TIME_STEP = 0.005  # s; coarser than the environment's: these states only have to look right
_SNAPSHOTS = 8  # states taken from one rollout
_MOST_STEPS = 80  # between two of them, 0.4 s
_SHARE_START = 0.3  # share of half-way poses that come from the start pose
_SHARE_BETWEEN = 0.3  # share of half-way poses among random states
_MAX_OFFSET = 0.6  # m; farther from the start the robot leaves the fixed camera's picture


def sample_random_states(rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
    """Draw states at random: snapshots of rollouts with random torques, and poses half-way between two others.

    Rollouts start standing, in a reference pose, or dropped from the air with random joint angles and orientation, so
    falling, lying on every side, sitting, kneeling and crouching all occur.

    Args:
        rng: Source of randomness.
        count: How many.

    Returns:
        ``qpos``, float64, shape (count, 24), in random order.
    """
    states: list[Pose] = []
    while len(states) < count:
        states.extend(_rollout(rng, min(_SNAPSHOTS, count)))
    chosen = [states[i] for i in rng.permutation(len(states))[:count]]
    for i in np.flatnonzero(rng.random(count) < _SHARE_BETWEEN):
        origin = chosen[i] if rng.random() < 0.5 else start_pose()
        chosen[i] = interpolate(origin, _goal(rng), rng.uniform())
    return np.stack(chosen)


def sample_random_state(rng: np.random.Generator) -> Pose:
    """Draw one state at random; many at once are cheaper (:func:`sample_random_states`).

    Returns:
        ``qpos``, float64, shape (24,).
    """
    return sample_random_states(rng, 1)[0]


def sample_between(task: str, rng: np.random.Generator) -> Pose:
    """Draw a pose on the way to a task's goal.

    Args:
        task: Name of the task.
        rng: Source of randomness.

    Returns:
        ``qpos``, shape (24,), resting on the ground; its share of the way from the start pose or from a random state is
        uniform.

    Raises:
        UnknownNameError: There is no such task.
    """
    goal = sample_pose(task, rng)
    origin = start_pose() if rng.random() < _SHARE_START else _rollout(rng, 1)[0]
    return interpolate(origin, goal, rng.uniform())


def _goal(rng: np.random.Generator) -> Pose:
    """Return a reference pose of any task."""
    return sample_pose(str(rng.choice(list(TASKS))), rng)


def _rollout(rng: np.random.Generator, count: int) -> list[Pose]:
    """Return states of one rollout, 0 to 0.4 s apart; a single one comes from anywhere in it."""
    model = _fast_model()
    data = mujoco.MjData(model)
    data.qpos[:] = _rollout_start(rng)
    data.qvel[:] = rng.normal(0, 0.3, model.nv)
    strength = rng.uniform(0, 1) ** 2  # mostly weak: strong random torques make everything look like a seizure
    skipped = int(rng.integers(_SNAPSHOTS)) if count == 1 else 0
    states = []
    for i in range(skipped + count):
        data.ctrl[:] = rng.uniform(-1, 1, model.nu) * CTRL_LIMIT * strength
        mujoco.mj_step(model, data, int(rng.integers(1, _MOST_STEPS)))
        if i < skipped:
            continue
        qpos = data.qpos.copy()
        qpos[:2] = np.clip(qpos[:2], -_MAX_OFFSET, _MAX_OFFSET)
        states.append(mirror(qpos) if rng.random() < 0.5 else qpos)
    return states


def _rollout_start(rng: np.random.Generator) -> Pose:
    """Return a pose to start from: standing, a reference pose, or limp in the air."""
    kind = rng.integers(3)
    if kind == 0:
        return start_pose()
    if kind == 1:
        return _goal(rng)
    qpos = np.zeros(24)
    limits = load_model().jnt_range[1:]
    qpos[ROOT:] = rng.uniform(limits[:, 0], limits[:, 1])
    quat = rng.standard_normal(4)
    qpos[3:7] = quat / np.linalg.norm(quat)
    qpos = put_on_ground(qpos)
    qpos[2] += rng.uniform(0, 0.5)
    return qpos


@cache
def _fast_model() -> Any:
    """Return the model with a coarse time step."""
    model = copy.copy(load_model())
    model.opt.timestep = _TIME_STEP
    model.opt.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    return model
