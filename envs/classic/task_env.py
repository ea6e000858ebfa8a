"""What cart-pole and mountain car share: a task by name, its success by the true state, the size of the picture."""

from __future__ import annotations

from typing import Any, ClassVar, TypedDict

import gymnasium as gym

from vlmreward.envs.classic.canvas import Canvas
from vlmreward.envs.task import HoldCounter, Task, find_task
from vlmreward.errors import ConfigError


class Picture(TypedDict, total=False):
    """Arguments of :class:`TaskEnv` that its subclasses hand on."""

    width: int
    height: int
    quality: str
    render_mode: str | None


class TaskEnv(gym.Env):
    """Base of environments whose success is a predicate held for a while.

    Subclasses set ``TASKS``, ``DT`` and ``holds``, call ``begin_task`` in ``reset`` and ``update_task`` in ``step``.

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

    def holds(self, task: str) -> bool:
        """Return whether a task's predicate is true of the present state."""
        raise NotImplementedError

    def begin_task(self) -> dict[str, Any]:
        """Forget the last episode; return the info of a reset."""
        self._hold.reset()
        return {"success": False if self.task else None}

    def update_task(self) -> dict[str, Any]:
        """Look at the present state; return the info of a step."""
        if self.task is None:
            return {"success": None}
        return {"success": self._hold.update(self.holds(self.task.name))}
