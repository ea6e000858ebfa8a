"""States on the way from a start to a goal, made by hand and without physics: food for captions, audits and sweeps."""

from __future__ import annotations

import numpy as np

from vlmreward.envs.mujoco.tabletop.constants import (
    BIN,
    CABINET_FRONT,
    CABINET_X,
    CUBE_HALF,
    CUBE_SIZE,
    CUBES,
    CUBES_START,
    DRAWER,
    DRAWER_TRAVEL,
    FINGER_CLOSED,
    FINGER_HALF,
    FINGERS,
    GRIP,
    GRIPPER,
    HANDLE_REACH,
    HANDLE_Z,
    TARGETS,
    WORKSPACE,
    cube_slice,
    target_slice,
)
from vlmreward.envs.mujoco.tabletop.goals import KINDS, ON_TARGET, Goal
from vlmreward.envs.mujoco.tabletop.layouts import sample_layout
from vlmreward.envs.mujoco.tabletop.state import State

_UP = 0.14  # m, height at which the gripper travels
_DONE_SHARE = 0.35  # of the states on a way, those at its end
_RANDOM_SHARE = 0.4  # of the states of a task, those on the way to something else


class _Keys(list[State]):
    """States one after the other, each made from the one before."""

    def add(
        self, gripper: tuple[float, float, float] | None = None, closed: bool | None = None, width: float = 0.0
    ) -> State:
        """Append a state in which the gripper is elsewhere, or its fingers are, and return it.

        Args:
            gripper: Place of the gripper; None leaves it.
            closed: What the gripper is told; None leaves the fingers.
            width: Place of each finger, in metres from the middle.
        """
        state = self[-1].copy()
        if gripper is not None:
            state[GRIPPER] = gripper
        if closed is not None:
            state[GRIP], state[FINGERS] = float(not closed), width
        self.append(state)
        return state


def way(goal: Goal, start: State) -> list[State]:
    """Return the states that a careful hand would pass through from a start to a goal, the start first."""
    keys = _Keys([start.copy()])
    if goal.kind in ("open", "close"):
        _drawer_way(goal, start, keys)
    elif goal.kind == "push":
        _push_way(goal, start, keys)
    else:
        _cube_way(goal, start, keys)
    return keys


def _cube_way(goal: Goal, start: State, keys: _Keys) -> None:
    """Touch a cube, or grasp it, lift it, carry it and let it go."""
    number = CUBES.index(goal.cube)
    cube = cube_slice(number)
    x, y, z = (float(v) for v in start[cube])
    keys.add((x, y, _UP))
    if goal.kind == "touch":
        keys.add(closed=True, width=FINGER_CLOSED)
        keys.add((x, y, z + CUBE_HALF + FINGER_HALF[2] - 0.012))
        return
    keys.add((x, y, z))
    grasped = keys.add(closed=True, width=CUBE_HALF)
    orientation = slice(CUBES_START + CUBE_SIZE * number + 3, CUBES_START + CUBE_SIZE * (number + 1))
    grasped[orientation] = 1.0, 0.0, 0.0, 0.0  # the fingers turn it straight
    _carry(keys.add((x, y, _UP)), cube)
    if goal.kind == "lift":
        return
    if goal.kind == "bin":
        to_x, to_y, release, rest = *(float(v) for v in start[BIN]), 0.075, CUBE_HALF
    else:
        to_x, to_y, below = (float(v) for v in start[cube_slice(CUBES.index(goal.onto))])
        release = rest = below + 2 * CUBE_HALF
    for height in (_UP, release):
        _carry(keys.add((to_x, to_y, height)), cube)
    keys.add(closed=False, width=0.042)
    keys.add((to_x, to_y, _UP + 0.03))[cube] = to_x, to_y, rest


def _carry(state: State, cube: slice) -> None:
    state[cube] = state[GRIPPER]


def _push_way(goal: Goal, start: State, keys: _Keys) -> None:
    """Go behind a cube and push it straight to its target."""
    cube = cube_slice(CUBES.index(goal.cube))
    here, there = start[cube][:2], start[target_slice(TARGETS.index(goal.onto))]
    along = (there - here) / max(1e-6, float(np.linalg.norm(there - here)))
    behind = here - 0.045 * along
    last = there - 0.045 * along
    keys.add((float(behind[0]), float(behind[1]), _UP))
    keys.add(closed=True, width=FINGER_CLOSED)
    keys.add((float(behind[0]), float(behind[1]), CUBE_HALF))
    keys.add((float(last[0]), float(last[1]), CUBE_HALF))[cube] = there[0], there[1], CUBE_HALF
    keys.add((float(last[0]), float(last[1]), _UP))


def _drawer_way(goal: Goal, start: State, keys: _Keys) -> None:
    """Pull the drawer open by its handle, or push it shut with the closed gripper."""
    handle = CABINET_FRONT - HANDLE_REACH + 0.009
    y = handle - float(start[DRAWER])
    if goal.kind == "open":
        end = DRAWER_TRAVEL
        keys.add((CABINET_X, y, _UP))
        keys.add((CABINET_X, y, HANDLE_Z))
        keys.add(closed=True, width=0.009)
        keys.add((CABINET_X, handle - end, HANDLE_Z))[DRAWER] = end
        keys.add(closed=False, width=0.042)
        keys.add((CABINET_X, handle - end, _UP))
        return
    keys.add(closed=True, width=FINGER_CLOSED)
    keys.add((CABINET_X, y - 0.03, _UP))
    keys.add((CABINET_X, y - 0.03, HANDLE_Z))
    keys.add((CABINET_X, handle - 0.022, HANDLE_Z))[DRAWER] = 0.0
    keys.add((CABINET_X, handle - 0.022, _UP))


def state_at(keys: list[State], share: float) -> State:
    """Return the state at a share of a way, from 0 at its start to 1 at its end; each leg counts the same."""
    place = min(max(share, 0.0), 1.0) * (len(keys) - 1)
    leg = min(int(place), len(keys) - 2)
    part = place - leg
    state = (1 - part) * keys[leg] + part * keys[leg + 1]
    state[GRIP] = keys[leg + 1 if part > 0 else leg][GRIP]
    return state


def sample_on_way(rng: np.random.Generator, goal: Goal) -> State:
    """Draw a state on the way from a random start to a goal; a third of them are at its end."""
    keys = way(goal, sample_layout(rng, goal))
    if rng.random() >= _DONE_SHARE:
        return state_at(keys, float(rng.uniform()))
    state = keys[-1].copy()
    if goal.kind != "lift":  # the gripper may be anywhere, once it has let go
        if goal.kind != "touch":
            state[GRIPPER] = _anywhere(rng)
    else:
        cube = cube_slice(CUBES.index(goal.cube))
        state[GRIPPER] = _anywhere(rng)
        state[cube] = state[GRIPPER]
    if goal.kind == "push":
        state[cube_slice(CUBES.index(goal.cube))][:2] += rng.uniform(-0.6, 0.6, 2) * ON_TARGET
    return state


def _anywhere(rng: np.random.Generator) -> tuple[float, float, float]:
    (x0, x1), (y0, y1), (_, z1) = WORKSPACE
    return float(rng.uniform(x0 + 0.05, x1 - 0.05)), float(rng.uniform(y0, y1)), float(rng.uniform(0.12, z1))


def random_goal(rng: np.random.Generator) -> Goal:
    """Draw a goal of any kind, with any cube and any place."""
    kind = KINDS[int(rng.integers(len(KINDS)))]
    if kind in ("open", "close"):
        return Goal(kind)
    first, second = (CUBES[i] for i in rng.permutation(len(CUBES))[:2])
    onto = {"push": TARGETS[int(rng.integers(len(TARGETS)))], "stack": second}.get(kind, "")
    return Goal(kind, first, onto)


def sample_states(rng: np.random.Generator, count: int, goal: Goal | None) -> np.ndarray:
    """Draw states: on the way to a goal, done, and on the way to others.

    Args:
        rng: Source of randomness.
        count: How many.
        goal: The goal that more than half of them have to do with; None for any.

    Returns:
        float64, shape (count, STATE_SIZE).
    """
    states = []
    for _ in range(count):
        other = goal is None or rng.random() < _RANDOM_SHARE
        states.append(sample_on_way(rng, random_goal(rng) if other or goal is None else goal))
    return np.stack(states)
