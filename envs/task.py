"""What an environment can be asked to do, in words, and what counts as done in its true state."""

from __future__ import annotations

from dataclasses import dataclass


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
