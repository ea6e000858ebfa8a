"""What cart-pole and mountain car share: a task by name, its success by the true state, the size of the picture."""

from __future__ import annotations

from typing import Any, ClassVar, TypedDict

import gymnasium as gym
import numpy as np

from vlmreward.envs.classic.canvas import Canvas
from vlmreward.envs.task import HoldCounter, Task, find_task
from vlmreward.errors import ConfigError
from vlmreward.types import Sweep


class Picture(TypedDict, total=False):
    """Arguments of :class:`TaskEnv` that its subclasses hand on."""

    width: int
    height: int
    quality: str
    render_mode: str | None


class TaskEnv(gym.Env):
    """Base of environments whose success is a predicate held for a while.

    Subclasses set ``TASKS`` and ``DT``, define ``holds``, ``progress``, ``sample_states`` and ``sweeps``, call
    ``begin_task`` in ``reset`` and ``update_task`` in ``step``. The environment's own reward is ``progress``.

    Args:
        task: Name of a task in ``TASKS``; None for a goal that has no true success.
        width: Picture width in pixels.
        height: Picture height in pixels.
        quality: ``"fast"`` or ``"fine"``.
        render_mode: ``"rgb_array"``.

    Raises:
        UnknownNameError: There is no such task.
        ConfigError: The render mode is not ``"rgb_array"`` or None.
    """

    TASKS: ClassVar[dict[str, Task]] = {}
    DT: ClassVar[float] = 0.0
    metadata: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        "render_modes": ["rgb_array"],
        "render_fps": 50,
        "never_terminates": True,
    }

    def __init__(
        self,
        task: str | None,
        width: int = 64,
        height: int = 64,
        quality: str = "fast",
        render_mode: str | None = "rgb_array",
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode must be 'rgb_array', got {render_mode!r}")
        self.task = find_task(self.TASKS, task)
        self.width, self.height, self.quality = width, height, quality
        self.render_mode = render_mode
        self._hold = HoldCounter(self.task.hold_seconds if self.task else 0.0, self.DT)
        self._canvas: Canvas | None = None
        self.state = np.zeros(0)

    def holds(self, task: str) -> bool:
        """Return whether a task's predicate is true of the present state."""
        raise NotImplementedError

    def progress(self, task: str) -> float:
        """Return how near the present state is to a task's goal; higher is nearer."""
        raise NotImplementedError

    def sample_states(self, rng: np.random.Generator, count: int, task: str | None) -> np.ndarray:
        """Draw states; see :class:`vlmreward.types.Surveyable`."""
        raise NotImplementedError

    def sweeps(self, task: str | None) -> tuple[Sweep, ...]:
        """Return lines and planes through the states; see :class:`vlmreward.types.Surveyable`."""
        raise NotImplementedError

    def set_state(self, state: np.ndarray) -> None:
        """Put the environment into a state; what was held before is forgotten."""
        self.state = np.array(state, np.float64)
        self.begin_task()

    def judge(self, task: str) -> tuple[bool, float]:
        """Return whether a task's predicate is true of the present state, and its progress."""
        return self.holds(task), self.progress(task)

    def env_reward(self) -> float:
        """Return the environment's own reward of the present state: the task's progress, 0 without a task."""
        return self.progress(self.task.name) if self.task else 0.0

    def begin_task(self) -> dict[str, Any]:
        """Forget the last episode; return the info of a reset."""
        self._hold.reset()
        return {"success": False if self.task else None}

    def update_task(self) -> dict[str, Any]:
        """Look at the present state; return the info of a step."""
        if self.task is None:
            return {"success": None}
        return {"success": self._hold.update(self.holds(self.task.name))}
