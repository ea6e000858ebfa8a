"""Settle what the agent is told and what counts as its true success."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vlmreward.envs.task import Task
from vlmreward.errors import ConfigError
from vlmreward.registry import suggest


@dataclass(frozen=True)
class Goal:
    """A settled goal.

    Attributes:
        goal: Prompts of the goal.
        baseline: Prompts of the scene without the goal; empty if there is none.
        task: Name of the environment's task whose predicate is the true success, or None.
        note: What the user should know, or "".
    """

    goal: tuple[str, ...]
    baseline: tuple[str, ...]
    task: str | None
    note: str = ""


def settle_goal(
    tasks: Mapping[str, Task],
    goal: str | Sequence[str] | None,
    baseline: str | Sequence[str] | None,
    task: str | None,
    default_task: str | None,
) -> Goal:
    """Fill in what was not said.

    Args:
        tasks: The environment's tasks by name.
        goal: Prompts given for the goal; None takes the task's.
        baseline: Prompts given for the baseline; None takes the task's.
        task: The task named by the user, or None. It decides about success whatever the goal says.
        default_task: The environment's task when neither goal nor task is given.

    Raises:
        ConfigError: The task is unknown, or there is no goal at all.
    """
    if task is not None and task not in tasks:
        hint = suggest(task, tasks) if tasks else "this environment has none, leave env.task out"
        raise ConfigError(f"unknown env.task {task!r}: {hint}")
    given, scene = as_prompts(goal), as_prompts(baseline)
    named = task if task is not None else _find_task(tasks, given)
    if not given and named is None:
        if default_task is None or default_task not in tasks:
            raise ConfigError('goal is not given, and this environment has none of its own: write goal="..."')
        named = default_task
    goals = given if given or named is None else (tasks[named].goal,)
    likely = named if named is not None else default_task
    if not scene and likely is not None and likely in tasks:
        scene = (tasks[likely].baseline,)
    note = ""
    if named is None:
        known = f"; env.task={'|'.join(tasks)} names the task whose success to count" if tasks else ""
        note = f"no true success is known for this goal, it is reported as null{known}"
    return Goal(goals, scene, named, note)


def as_prompts(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return one prompt or several as a tuple."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(prompt) for prompt in value)


def _find_task(tasks: Mapping[str, Task], goals: Sequence[str]) -> str | None:
    """Return the task whose goal is among the prompts, whatever their case and spaces."""
    said = {_plain(goal) for goal in goals}
    return next((name for name, task in tasks.items() if _plain(task.goal) in said), None)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
