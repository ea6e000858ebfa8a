"""Pictures of the humanoid in many poses under varied looks, with the facts that are true of them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vlmreward.envs.mujoco.humanoid.facts import describe
from vlmreward.envs.mujoco.humanoid.poses import sample_pose
from vlmreward.envs.mujoco.humanoid.scene import HumanoidScene
from vlmreward.envs.mujoco.humanoid.states import sample_between, sample_random_state
from vlmreward.envs.mujoco.humanoid.tasks import CRITERIA, OTHER_CRITERIA, facts_distance

_GOAL_SHARE, _BETWEEN_SHARE = 0.45, 0.3  # the rest are random states


def sample_humanoid(
    rng: np.random.Generator, width: int, height: int, varied: bool
) -> tuple[np.ndarray, dict[str, float]]:
    """Draw a picture of the humanoid.

    Args:
        rng: Source of the pose and of the look.
        width: Pixels.
        height: Pixels.
        varied: False for the environment's own look and camera.

    Returns:
        The picture, uint8, shape (height, width, 3), and ``to_<pose>`` in [0, 1] for each task and each other named
        pose: how far the state is from it.
    """
    tasks = list(CRITERIA)
    task = tasks[rng.integers(len(tasks))]
    draw = rng.random()
    if draw < _GOAL_SHARE:
        qpos = sample_pose(task, rng)
    elif draw < _GOAL_SHARE + _BETWEEN_SHARE:
        qpos = sample_between(task, rng)
    else:
        qpos = sample_random_state(rng)
    scene = _scene(width, height)
    if varied:
        scene.randomise(rng)
    else:
        scene.restore()
    facts = describe(qpos)
    distances = {f"to_{name}": facts_distance(name, facts) for name in (*CRITERIA, *OTHER_CRITERIA)}
    return scene.render_pose(qpos), distances


@lru_cache(maxsize=1)
def _scene(width: int, height: int) -> HumanoidScene:
    return HumanoidScene(width, height, "fast")
