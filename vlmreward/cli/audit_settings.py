"""Settle what ``vlmreward audit`` is asked: the frames, and every way of scoring them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlmreward.cli.arguments import Arguments
from vlmreward.cli.audit_parts import other_goals
from vlmreward.cli.compose import compose, set_literals
from vlmreward.cli.environments import find_tasks
from vlmreward.cli.goals import as_prompts, settle_goal
from vlmreward.cli.settings import EnvSettings, check_cache_dtype, settle_env
from vlmreward.cli.values import flag, whole
from vlmreward.cli.variants import spread
from vlmreward.errors import ConfigError

_ENV_KEYS = ("env", "experiment")

_VARIED = ("goal", "baseline", "reward", "encoder", "env.kwargs")
"""Settings, or groups of them, that give another way of scoring the same moments."""


@dataclass(frozen=True)
class Scorer:
    """One way of scoring.

    Attributes:
        name: What differs from the others, in words; the goal if nothing does.
        chosen: The varied settings.
        encoder: Config of the encoder.
        reward: Config of the reward.
        goal: Prompts.
        baseline: Prompts, may be none.
        env_kwargs: Arguments of the environment, which give the look.
    """

    name: str
    chosen: Mapping[str, Any]
    encoder: Mapping[str, Any]
    reward: Mapping[str, Any]
    goal: tuple[str, ...]
    baseline: tuple[str, ...]
    env_kwargs: Mapping[str, Any]

    @property
    def look(self) -> str:
        """Return a key of the look."""
        return json.dumps(dict(self.env_kwargs), sort_keys=True)


@dataclass(frozen=True)
class AuditSettings:
    """Everything that an audit depends on.

    Attributes:
        env: The environment, with the task whose truth labels the frames; None where they come from a folder.
        frames: The labelled folder, or None.
        scorers: Every way of scoring.
        mismatched: Prompts of other goals.
        options: The command's own settings, checked.
        note: What the user should know, or "".
    """

    env: EnvSettings | None
    frames: Path | None
    scorers: tuple[Scorer, ...]
    mismatched: tuple[str, ...]
    options: Mapping[str, Any]
    note: str


def settle_audit(arguments: Arguments) -> AuditSettings:
    """Make every choice that a command line leaves open.

    Raises:
        VlmRewardError: A setting is unknown, out of range or contradicts another.
    """
    combinations = spread(arguments)
    named_env, table = any(c.arguments.take(("env",))[0].overrides for c in combinations), arguments.path("frames")
    if named_env == (table is not None):
        what = "both env and frames are given" if named_env else "none of env, frames and dataset is given"
        raise ConfigError(
            f"{what}: write env=<name>, frames=<CSV file> for pictures with labels of your own, or dataset=<recorded "
            "episodes>"
        )
    scorers = []
    env: EnvSettings | None = None
    goal = None
    options: dict[str, Any] = {}
    composed: dict[tuple, dict[str, Any]] = {}
    for combination in combinations:
        around, own = combination.arguments.take(_ENV_KEYS)
        options = _compose("audit", own, composed)
        page = _compose("train", around, composed)["env"] if around.overrides else None
        tasks = find_tasks(str(page.get("id"))) if page else {}
        # the first one's goal says which truth the frames are labelled with
        named = goal.task if goal is not None else page.get("task") if page else None
        settled = settle_goal(
            tasks, options["goal"], options["baseline"], named, page.get("default_task") if page else None
        )
        goal = goal or settled
        this = settle_env(page, goal.task, bool(tasks)) if page else None
        env = env or this
        kwargs = dict(this.kwargs) if this else {}
        name = ", ".join(describe_choice(k, v) for k, v in combination.chosen.items()) or " / ".join(settled.goal)
        scorers.append(
            Scorer(
                name, combination.chosen, options["encoder"], options["reward"], settled.goal, settled.baseline, kwargs
            )
        )
    for key in combinations[0].chosen:
        if not any(key == head or key.startswith(f"{head}.") for head in _VARIED):
            raise ConfigError(
                f"an audit can't vary {key}: it compares {', '.join(_VARIED)} on the same moments; run two"
            )
    assert goal is not None
    if env is None and options["run"] is not None:
        raise ConfigError("run gives episodes of an environment: write env=<name> instead of frames, or leave run out")
    given = [prompt for scorer in scorers for prompt in (*scorer.goal, *scorer.baseline)]
    others = as_prompts(options["mismatched"]) or other_goals(env, given)
    return AuditSettings(
        env, None if table is None else Path(table), tuple(scorers), others, _check(options), goal.note if env else ""
    )


def _compose(command: str, arguments: Arguments, known: dict[tuple, dict[str, Any]]) -> dict[str, Any]:
    """Compose a config; Hydra is asked once for combinations that differ in prompts and paths alone."""
    key = (command, arguments.overrides)
    if key not in known:
        known[key] = compose(command, replace(arguments, literals={}))
    return set_literals(deepcopy(known[key]), arguments.literals)


def _check(options: Mapping[str, Any]) -> dict[str, Any]:
    checked = dict(options)
    for name, low in (("count", 2), ("seed", 0), ("replicates", 0)):
        checked[name] = whole(name, options[name], low)
    check_cache_dtype(options["cache_dtype"])
    checked["landscapes"] = flag("landscapes", options["landscapes"])
    return checked


def describe_choice(key: str, value: Any) -> str:
    """Return a varied setting in few words."""
    if isinstance(value, str) and key in ("goal", "baseline"):
        return value if key == "goal" else f"baseline {value}"
    return f"{key.rpartition('.')[2]} {value}"


def names_of(values: Sequence[str]) -> list[str]:
    """Return names, with a number behind those that stand there twice."""
    seen: dict[str, int] = {}
    names = []
    for value in values:
        seen[value] = seen.get(value, 0) + 1
        names.append(value if seen[value] == 1 else f"{value} ({seen[value]})")
    return names
