"""Policies that need no learning: an expert for every task, and worse ones for data of honest, mixed quality.

They look at the true state of the environment that they act in. ``BEHAVIOURS`` names them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from vlmreward.envs.mujoco.tabletop.constants import CUBES, TARGETS
from vlmreward.envs.mujoco.tabletop.env import TabletopEnv
from vlmreward.envs.mujoco.tabletop.goals import Goal
from vlmreward.envs.mujoco.tabletop.scripts import CLOSED, OPEN, Action, Flaw, Hand
from vlmreward.envs.mujoco.tabletop.tasks import GOALS, TASKS
from vlmreward.envs.task import find_task
from vlmreward.errors import ConfigError, UnknownNameError
from vlmreward.registry import suggest

_AIM_ERROR = 0.008  # m, spread of where it aims, at a noise of 1
_KEEP = 0.85  # share of the last action that a random one keeps
# about how many steps the expert needs for a kind of goal: those who give up do it before
_STEPS = {"push": 34, "lift": 18, "bin": 40, "stack": 34, "touch": 8, "open": 28, "close": 25}
_MISS = (0.045, 0.07)  # m, by which a failed attempt misses


class Policy(Protocol):
    """Acts in one environment, episode by episode."""

    def reset(self, env: Any) -> None:
        """Begin an episode; ``env`` was reset, and may be wrapped."""
        ...

    def act(self, env: Any) -> Action:
        """Return the next action, float32, shape (4,), within [-1, 1]."""
        ...


class Expert:
    """Does what a task asks for, by a script.

    Args:
        task: Name of the task.
        noise: Standard deviation of what is added to each action, 1 being the largest action; the places that are
            aimed at are off by 8 mm times this.
        rng: Source of the noise and of flaws.
        flaw: Draws what goes wrong in an episode, given the task's goal: a goal (perhaps another one), a flaw, and
            after how many steps to give up, or None.

    Raises:
        UnknownNameError: There is no such task.
        ConfigError: The noise is negative.
    """

    def __init__(
        self,
        task: str,
        noise: float = 0.0,
        rng: np.random.Generator | None = None,
        flaw: Callable[[Goal, np.random.Generator], tuple[Goal, Flaw, int | None]] | None = None,
    ) -> None:
        find_task(TASKS, task)
        if not noise >= 0:
            raise ConfigError(f"noise must be at least 0, got {noise}")
        self.task, self.noise = task, noise
        self._rng = rng if rng is not None else np.random.default_rng(0)
        self._flaw = flaw
        self._hand: Hand | None = None
        self._script: Iterator[Action] = iter(())
        self._left: int | None = None

    def reset(self, env: Any) -> None:
        """Begin an episode."""
        goal, flaw = GOALS[self.task], Flaw()
        self._left = None
        if self._flaw is not None:
            goal, flaw, self._left = self._flaw(goal, self._rng)
        elif self.noise:
            x, y = self._rng.normal(0.0, _AIM_ERROR * self.noise, 2)
            flaw = Flaw(aside=(float(x), float(y)))
        self._hand = Hand(unwrap(env), goal, flaw)
        self._script = self._hand.actions()

    def act(self, env: Any) -> Action:
        """Return the next action; once the script is through, one that stays.

        Raises:
            ConfigError: The episode was not begun with :meth:`reset`.
        """
        if self._hand is None:
            raise ConfigError("call reset(env) of the policy before its first action")
        if self._left is not None:
            if self._left == 0:  # gives up
                self._script = self._hand.stay()
            self._left -= 1
        action = next(self._script)
        if self.noise:
            action[:3] += self._rng.normal(0.0, self.noise, 3)
        return np.clip(action, -1.0, 1.0).astype(np.float32)


class RandomPolicy:
    """Moves at random, smoothly, and opens and closes now and then.

    Args:
        rng: Source of randomness.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._move = np.zeros(3)
        self._grip = OPEN

    def reset(self, env: Any) -> None:
        """Begin an episode."""
        self._move, self._grip = np.zeros(3), OPEN

    def act(self, env: Any) -> Action:
        """Return the next action."""
        self._move = _KEEP * self._move + np.sqrt(1 - _KEEP**2) * self._rng.normal(0.0, 0.7, 3)
        if self._rng.random() < 0.05:
            self._grip = CLOSED if self._grip == OPEN else OPEN
        return np.clip(np.append(self._move, self._grip), -1.0, 1.0).astype(np.float32)


def unwrap(env: Any) -> TabletopEnv:
    """Return the tabletop under wrappers.

    Raises:
        ConfigError: It is another environment.
    """
    bare = getattr(env, "unwrapped", env)
    if not isinstance(bare, TabletopEnv):
        raise ConfigError(f"the scripted policies act in vlmreward/Tabletop-v0, got {type(bare).__name__}")
    return bare


def make_expert(task: str, noise: float = 0.0, rng: np.random.Generator | None = None) -> Expert:
    """Return the expert of a task; see :class:`Expert`."""
    return Expert(task, noise, rng)


def _noisy(task: str, rng: np.random.Generator) -> Policy:
    """Return an expert whose hand trembles, more or less."""
    return Expert(task, float(rng.uniform(0.2, 0.8)), rng)


def _failed(task: str, rng: np.random.Generator) -> Policy:
    """Return one that does the wrong thing, misses, drops, or gives up."""
    return Expert(task, 0.1, rng, _draw_failure)


def _near(task: str, rng: np.random.Generator) -> Policy:
    """Return one that does everything right and stops just before the end."""
    return Expert(task, 0.05, rng, _draw_near)


def _draw_failure(goal: Goal, rng: np.random.Generator) -> tuple[Goal, Flaw, int | None]:
    kinds = ["miss", "give up"]
    if goal.cube:
        kinds.append("wrong thing")
    if goal.kind in ("lift", "bin", "stack", "open"):
        kinds.append("drop")
    kind = kinds[int(rng.integers(len(kinds)))]
    if kind == "miss":
        x, y = rng.choice((-1, 1), 2) * rng.uniform(*_MISS, 2)  # along both axes: a push along one misses too
        if goal.kind in ("open", "close"):  # the cabinet is wide: only well beside it is a miss
            x, y = 0.10 + abs(x) / 2, 0.0
        return goal, Flaw(aside=(float(x), float(y))), None
    if kind == "give up":
        return goal, Flaw(), int(_STEPS[goal.kind] * rng.uniform(0.2, 0.7))
    if kind == "drop":
        return goal, Flaw(drop=float(rng.uniform(0.1, 0.5))), None
    return _wrong(goal, rng), Flaw(), None


def _wrong(goal: Goal, rng: np.random.Generator) -> Goal:
    """Return the same goal with another cube, or onto another thing."""
    others = [c for c in CUBES if c not in (goal.cube, goal.onto if goal.kind == "stack" else "")]
    if goal.kind == "push" and rng.random() < 0.5:
        return Goal("push", goal.cube, next(t for t in TARGETS if t != goal.onto))
    return Goal(goal.kind, others[int(rng.integers(len(others)))], goal.onto)


def _draw_near(goal: Goal, rng: np.random.Generator) -> tuple[Goal, Flaw, int | None]:
    return goal, Flaw(short=float(rng.uniform(0.35, 0.6))), None


BEHAVIOURS: dict[str, Callable[[str, np.random.Generator], Policy]] = {
    "expert": lambda task, rng: Expert(task, 0.0, rng),
    "noisy": _noisy,
    "random": lambda task, rng: RandomPolicy(rng),
    "failed": _failed,
    "near": _near,
}
"""Every behaviour by name: called with a task and a source of randomness, it gives a policy."""


def make_behaviour(name: str, task: str, rng: np.random.Generator) -> Policy:
    """Return a policy by name.

    Args:
        name: One of ``BEHAVIOURS``.
        task: Name of the task that it does, or fails to do.
        rng: Source of randomness.

    Raises:
        UnknownNameError: There is no such behaviour or task.
    """
    if name not in BEHAVIOURS:
        raise UnknownNameError(f"unknown behaviour {name!r}: {suggest(name, BEHAVIOURS)}")
    find_task(TASKS, task)
    return BEHAVIOURS[name](task, rng)
