"""Pictures of the tabletop in many states under varied looks, with the facts that are true of them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from vlmreward.envs.mujoco.tabletop.constants import CUBES, TARGETS
from vlmreward.envs.mujoco.tabletop.facts import compute_facts
from vlmreward.envs.mujoco.tabletop.goals import Goal, progress
from vlmreward.envs.mujoco.tabletop.scene import DEFAULT_LOOK, TabletopScene, random_look
from vlmreward.envs.mujoco.tabletop.states import random_goal, sample_on_way


def all_goals() -> tuple[Goal, ...]:
    """Return every goal: of each kind, with each cube and each place."""
    return (
        *(Goal("push", cube, target) for cube in CUBES for target in TARGETS),
        *(Goal(kind, cube) for kind in ("lift", "bin", "touch") for cube in CUBES),
        *(Goal("stack", upper, lower) for upper in CUBES for lower in CUBES if upper != lower),
        Goal("open"),
        Goal("close"),
    )


_GOALS = all_goals()


def sample_tabletop(
    rng: np.random.Generator, width: int, height: int, varied: bool
) -> tuple[np.ndarray, dict[str, float]]:
    """Draw a picture of the tabletop.

    Args:
        rng: Source of the state and of the look.
        width: Pixels.
        height: Pixels.
        varied: False for the environment's own look and front camera.

    Returns:
        The picture, uint8, shape (height, width, 3), and the facts of ``facts.describe`` with ``to_<goal>`` in [0, 1]
        for every goal: one minus its progress.
    """
    state = sample_on_way(rng, random_goal(rng))
    scene = _scene(width, height)
    scene.apply(random_look(rng) if varied else DEFAULT_LOOK)
    facts = compute_facts(state)
    away = {f"to_{goal.name}": 1.0 - progress(goal, facts) for goal in _GOALS}
    return scene.render_state(state), facts | away


@lru_cache(maxsize=1)
def _scene(width: int, height: int) -> TabletopScene:
    return TabletopScene(width, height, "fast")
