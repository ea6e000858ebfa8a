"""What an environment can be asked to do, in words, and what counts as done in its true state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vlmreward.errors import UnknownNameError
from vlmreward.registry import suggest


@dataclass(frozen=True)
class Task:
    """One goal of an environment.

    Attributes:
        name: Short name, e.g. ``"upright"``.
        goal: The goal as a text prompt.
        baseline: The scene without the goal, the baseline prompt of goal-baseline regularisation.
        hold_seconds: For how long the predicate must have held without a break, up to now, to count as success.
        success: The true-state predicate in one sentence.
    """

    name: str
    goal: str
    baseline: str
    hold_seconds: float
    success: str


class HoldCounter:
    """Tells whether a predicate has held for the last ``hold_seconds`` without a break. Never sticky.

    Args:
        hold_seconds: For how long it must have held, in seconds.
        dt: Time between two updates, in seconds.
    """

    def __init__(self, hold_seconds: float, dt: float) -> None:
        self.needed = max(1, round(hold_seconds / dt))
        self._held = 0

    def reset(self) -> None:
        """Start an episode."""
        self._held = 0

    def update(self, holds: bool) -> bool:
        """Count one step; return whether the last ``needed`` steps all held."""
        self._held = self._held + 1 if holds else 0
        return self._held >= self.needed


def find_task(tasks: Mapping[str, Task], name: str | None) -> Task | None:
    """Return a task by name, or None for None.

    Raises:
        UnknownNameError: There is no such task.
    """
    if name is None:
        return None
    if name not in tasks:
        raise UnknownNameError(f"unknown task {name!r}: {suggest(name, tasks)}")
    return tasks[name]
