"""Movements of a scripted hand: generators that look at the true state and give one action after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmreward.envs.mujoco.tabletop.constants import (
    CUBE_HALF,
    CUBES,
    DRAWER_TRAVEL,
    FINGER_HALF,
    HANDLE_Z,
    TARGETS,
    cube_slice,
    target_slice,
)
from vlmreward.envs.mujoco.tabletop.env import MAX_DELTA, TabletopEnv
from vlmreward.envs.mujoco.tabletop.goals import LIFTED, ON_TARGET, TOUCHING, Goal, holds, offset
from vlmreward.envs.mujoco.tabletop.layouts import free_orders

Action = npt.NDArray[np.float32]
Point = tuple[float, float, float]

OPEN, CLOSED = -1.0, 1.0  # of the last number of an action
_GAIN = 0.5  # share of the way to a point that one step asks for; more overshoots, because the gripper lags a step
_NEAR = 0.006  # m, that counts as having arrived
_TRAVEL = 0.115  # m, height at which the gripper moves over things
_BEHIND = CUBE_HALF + 0.013 + 0.016  # m, from the middle of a cube to where a push begins
_LEG_END = 0.005  # m, that a push may stop short
_OFF_MIDDLE = 0.008  # m, from the middle of a cube's side, that it may be pushed at
_FINGER_TOP = FINGER_HALF[2] - 0.012  # m, from the gripper's point down to the tips


@dataclass(frozen=True)
class Flaw:
    """What a script does wrong; nothing by default.

    Attributes:
        aside: Added to every place that is aimed at, x and y in metres.
        short: Share of the last movement that is left out, in [0, 1]; with more than 0 nothing that is held is let go.
        drop: Share of the way of a carried cube at which it is let fall, or None.
    """

    aside: tuple[float, float] = (0.0, 0.0)
    short: float = 0.0
    drop: float | None = None


class Hand:
    """Writes the actions of one episode.

    Args:
        env: Where; it is read, never changed.
        goal: What is to be done.
        flaw: What goes wrong.
    """

    def __init__(self, env: TabletopEnv, goal: Goal, flaw: Flaw) -> None:
        self._env, self._goal, self._flaw = env, goal, flaw
        self._grip = OPEN

    def actions(self) -> Iterator[Action]:
        """Yield the actions of an episode without end: once the script is through, the gripper stays where it is."""
        kind = self._goal.kind
        scripts = {"push": self._push, "touch": self._touch, "open": self._open, "close": self._close}
        for _ in range(3):  # what slipped is tried again
            yield from scripts.get(kind, self._carry)()
            if self._flaw != Flaw() or holds(self._goal, self._facts):
                break
        yield from self.stay()

    def stay(self) -> Iterator[Action]:
        """Yield actions that keep the gripper where it is now, without end."""
        place = self._env.state[:3]
        while True:
            yield self._act(_GAIN * (place - self._env.state[:3]))

    @property
    def _facts(self) -> dict[str, float]:
        return self._env.facts()

    def _cube(self, name: str) -> np.ndarray:
        return self._env.state[cube_slice(CUBES.index(name))]

    def _act(self, delta: npt.ArrayLike) -> Action:
        """Return the action that moves the gripper by metres in this step."""
        move = np.clip(np.asarray(delta, np.float64) / MAX_DELTA, -1.0, 1.0)
        return np.array((*move, self._grip), np.float32)

    def _move(self, point: Point, steps: int = 45, near: float = _NEAR, speed: float = 1.0) -> Iterator[Action]:
        """Go to a point."""
        for _ in range(steps):
            off = np.asarray(point) - self._env.state[:3]
            if np.abs(off).max() < near:
                return
            yield self._act(np.clip(_GAIN * off, -speed * MAX_DELTA, speed * MAX_DELTA))

    def _wait(self, steps: int) -> Iterator[Action]:
        for _ in range(steps):
            yield self._act((0.0, 0.0, 0.0))

    def _rise(self, height: float = _TRAVEL) -> Iterator[Action]:
        x, y, z = self._env.state[:3]
        if z < height - 0.02:
            yield from self._move((x, y, height), near=0.02)

    def _aim(self, x: float, y: float) -> tuple[float, float]:
        return x + self._flaw.aside[0], y + self._flaw.aside[1]

    def _carry(self) -> Iterator[Action]:
        """Grasp a cube, lift it, and put it where it belongs."""
        goal, flaw = self._goal, self._flaw
        self._grip = OPEN
        yield from self._rise()
        x, y, z = self._cube(goal.cube)
        x, y = self._aim(x, y)
        yield from self._move((x, y, max(_TRAVEL, z + 0.06)), near=0.012)
        yield from self._move((x, y, max(z, 0.023)))
        self._grip = CLOSED
        yield from self._wait(4)
        if goal.kind == "lift":
            height = (LIFTED + 0.03) * (1.0 - flaw.short)
            yield from self._move((x, y, z + height), near=0.004)
            if flaw.drop is not None:
                self._grip = OPEN
                yield from self._wait(4)
            return
        yield from self._move((x, y, _TRAVEL + 0.02), near=0.015)
        if goal.kind == "bin":
            facts = self._facts
            to_x, to_y, height = facts["bin_x"], facts["bin_y"], 0.075
        else:
            to_x, to_y, below = self._cube(goal.onto)
            height = below + 2 * CUBE_HALF + 0.003
        if flaw.drop is not None:
            yield from self._move((x + flaw.drop * (to_x - x), y + flaw.drop * (to_y - y), _TRAVEL + 0.02), near=0.015)
            self._grip = OPEN
            yield from self._wait(6)
            return
        over = _TRAVEL + 0.02
        yield from self._move((to_x, to_y, over), near=0.004)
        low = height + flaw.short * (over - height)
        yield from self._move((to_x, to_y, low), near=0.004, speed=0.6)
        if flaw.short:
            return
        yield from self._wait(2)
        self._grip = OPEN
        yield from self._wait(4)
        yield from self._move((to_x, to_y, 0.15), near=0.02)

    def _push(self) -> Iterator[Action]:
        """Push a cube along one axis of the table and then along the other."""
        goal = self._goal
        cube, target = CUBES.index(goal.cube), TARGETS.index(goal.onto)
        self._grip = CLOSED
        order = (free_orders(self._env.state, cube, target) or ["xy"])[0]
        for axis in order:
            if not self._is_short():
                yield from self._push_along("xy".index(axis), target)

    def _is_short(self) -> bool:
        """Return whether a flawed push is as near to its target as it goes: 1 to 3 cm short of what counts."""
        return bool(self._flaw.short) and offset(self._goal, self._facts) <= ON_TARGET + 0.01 + 0.02 * self._flaw.short

    def _push_along(self, axis: int, target: int) -> Iterator[Action]:
        cube = self._cube(self._goal.cube)
        goal = self._env.state[target_slice(target)][axis]
        way = goal - cube[axis]
        if abs(way) < _LEG_END:
            return
        sign = float(np.sign(way))
        yield from self._rise()
        behind = self._beside(cube, axis, -sign * _BEHIND)
        yield from self._move((behind[0], behind[1], _TRAVEL), near=0.012)
        behind = self._beside(self._cube(self._goal.cube), axis, -sign * _BEHIND)
        yield from self._move((behind[0], behind[1], CUBE_HALF), near=0.008)
        across = 1 - axis
        line = self._cube(self._goal.cube)[across]
        for _ in range(45):
            cube = self._cube(self._goal.cube)
            left = sign * (goal - cube[axis])
            if left < _LEG_END or self._is_short():
                break
            here = self._env.state[:3]
            move = np.append(self._aim(cube[0], cube[1]), CUBE_HALF) - here
            # friction drags the cube along sideways: steer it back to the line, and never leave its middle
            move[across] = np.clip(line - cube[across], move[across] - _OFF_MIDDLE, move[across] + _OFF_MIDDLE)
            move[axis] = sign * min(0.014, max(0.003, 0.35 * left))
            yield self._act(move)
        here = self._env.state[:3]
        back = here.copy()
        back[axis] -= sign * 0.02
        yield from self._move((back[0], back[1], back[2]), near=0.008)
        yield from self._rise()

    def _beside(self, cube: np.ndarray, axis: int, off: float) -> np.ndarray:
        point = np.array(self._aim(cube[0], cube[1]))
        point[axis] += off
        return point

    def _touch(self) -> Iterator[Action]:
        """Bring the closed fingers down onto a cube."""
        self._grip = CLOSED
        x, y, z = self._cube(self._goal.cube)
        x, y = self._aim(x, y)
        yield from self._rise(0.09)
        yield from self._move((x, y, 0.10), near=0.012)
        top = z + CUBE_HALF + _FINGER_TOP
        yield from self._move((x, y, top + self._flaw.short * (0.12 - top)), near=TOUCHING / 2, speed=0.6)

    def _open(self) -> Iterator[Action]:
        """Pull the drawer by its handle."""
        self._grip = OPEN
        facts = self._facts
        x, y = self._aim(facts["handle_x"], facts["handle_y"])
        yield from self._rise()
        yield from self._move((x, y, 0.13), near=0.012)
        yield from self._move((x, y, HANDLE_Z))
        self._grip = CLOSED
        yield from self._wait(4)
        if self._flaw.drop is not None:
            self._grip = OPEN
            yield from self._wait(2)
        way = DRAWER_TRAVEL * (1.0 - self._flaw.short)
        for _ in range(40):
            if self._facts["drawer_open"] >= way - 0.006 or self._env.state[1] < y - way:
                break
            yield self._act((0.0, -0.012, 0.0))
        yield from self._wait(2)
        self._grip = OPEN
        yield from self._wait(3)
        yield from self._rise(0.14)

    def _close(self) -> Iterator[Action]:
        """Push the drawer shut with the closed fingers."""
        self._grip = CLOSED
        facts = self._facts
        x, y = self._aim(facts["handle_x"], facts["handle_y"] - 0.045)
        yield from self._rise()
        yield from self._move((x, y, 0.13), near=0.012)
        yield from self._move((x, y, HANDLE_Z), near=0.01)
        start = facts["drawer_open"]
        for _ in range(40):
            if self._facts["drawer_open"] <= 0.002 + self._flaw.short * start or self._env.state[1] > y + start + 0.06:
                break
            yield self._act((0.0, 0.012, 0.0))
        x, y, z = self._env.state[:3]
        yield from self._move((x, y - 0.03, z), near=0.01)
        yield from self._rise(0.14)
