"""Resolve a composed config into the settings of one run: plain values, nothing left to choose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args

from vlmreward.agents.catalogue import get_agent
from vlmreward.cli.discount import settle_discount
from vlmreward.cli.environments import EnvFactory, find_spec, find_tasks
from vlmreward.cli.goals import Goal, as_prompts, settle_goal
from vlmreward.cli.offline_settings import NO_ENV, check_dataset
from vlmreward.cli.values import flag, whole
from vlmreward.encoders.store_folder import Dtype
from vlmreward.errors import CheckpointError, ConfigError
from vlmreward.registry import suggest
from vlmreward.wrappers.action_repeat import check_repeat
from vlmreward.wrappers.frame_gate import check_threshold

DEFAULT_TIMESTEPS = 100_000
DEFAULT_UPDATES = 20_000  # of an agent that learns from a dataset
RUNTIME = "encoder.runtime"
# What may differ between a run and its resumption: nothing that changes, beyond rounding, what is learned from a state.
MAY_CHANGE = ("total_timesteps", "device", "threads", "checkpoint_every", "eval", RUNTIME)
NOT_KEPT = ("run_dir", "experiment", "audit")  # settings of train that a run's config does not hold


@dataclass(frozen=True)
class EvalSettings:
    """When and how training evaluates.

    Attributes:
        every: Steps between two evaluations that choose the best checkpoint; None for none.
        episodes: Episodes of each, and of the evaluation at the end.
        seed: First seed of the selection episodes; the final ones start 10,000 later.
    """

    every: int | None = None
    episodes: int = 20
    seed: int = 10_000

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.every is not None:
            _settle(self, every=whole("eval.every", self.every, 1))
        _settle(self, episodes=whole("eval.episodes", self.episodes, 1), seed=whole("eval.seed", self.seed, 0))


@dataclass(frozen=True)
class EnvSettings:
    """The environment of a run.

    Attributes:
        name: Name of its config.
        id: Gymnasium id.
        kwargs: Its arguments, without the task.
        task: The task whose true success is reported, or None.
        has_tasks: Whether its constructor takes ``task``.
        action_repeat: Steps of the environment an action.
    """

    name: str
    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    has_tasks: bool = False
    action_repeat: int = 1

    def __post_init__(self) -> None:
        """Check the number."""
        check_repeat(self.action_repeat)

    @property
    def time_limit(self) -> int | None:
        """Return the actions after which Gymnasium truncates an episode; None for never."""
        limit = self.kwargs.get("max_episode_steps") or find_spec(self.id).max_episode_steps
        return None if limit in (-1, None) else math.ceil(limit / self.action_repeat)

    def factory(self, **changes: Any) -> EnvFactory:
        """Return what builds the environment, with some arguments changed."""
        task = {"task": self.task} if self.has_tasks else {}
        return EnvFactory(self.id, {**self.kwargs, **task, **changes}, self.action_repeat)


@dataclass(frozen=True)
class TrainSettings:
    """Everything that one training run depends on; ``config.yaml`` of its folder.

    The fields are the keys of ``configs/train.yaml``, with every choice made.
    """

    env: EnvSettings
    encoder: dict[str, Any]
    reward: dict[str, Any]
    agent: dict[str, Any]
    goal: tuple[str, ...]
    baseline: tuple[str, ...]
    seed: int
    device: str
    threads: str | int
    total_timesteps: int
    n_envs: int
    subprocess: bool
    encode_batch: int
    normalise_obs: bool
    checkpoint_every: int
    eval: EvalSettings
    cache: str | None = None  # with their usual values for runs from before these were there
    cache_dtype: Dtype = "float16"
    frame_gate: float | None = None
    dataset: str | None = None
    labels: str | None = None

    def __post_init__(self) -> None:
        """Check the numbers and words."""
        for name in ("total_timesteps", "n_envs", "encode_batch", "checkpoint_every"):
            _settle(self, **{name: whole(name, getattr(self, name), 1)})
        _settle(self, seed=whole("seed", self.seed, 0))
        if self.threads != "auto":
            _settle(self, threads=whole("threads", self.threads, 1))
        for name in ("subprocess", "normalise_obs"):
            flag(name, getattr(self, name))
        check_cache_dtype(self.cache_dtype)
        if self.frame_gate is not None:
            check_threshold(self.frame_gate)

    def to_config(self) -> dict[str, Any]:
        """Return nested plain values, as they are written to ``config.yaml``."""
        config = asdict(self)
        return {**config, "goal": list(self.goal), "baseline": list(self.baseline)}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TrainSettings:
        """Read what ``to_config`` wrote.

        Raises:
            CheckpointError: It is not such a config.
        """
        try:
            return cls(
                **{
                    **config,
                    "env": EnvSettings(**config["env"]),
                    "eval": EvalSettings(**config["eval"]),
                    "goal": tuple(config["goal"]),
                    "baseline": tuple(config["baseline"]),
                }
            )
        except (KeyError, TypeError) as e:
            raise CheckpointError(f"config.yaml of the run is damaged or of another version ({e})") from e


def resolve(composed: Mapping[str, Any]) -> tuple[TrainSettings, str]:
    """Make every choice that a composed config leaves open.

    Args:
        composed: What ``compose`` returned for ``train``.

    Returns:
        The settings, and a note for the user or "".

    Raises:
        VlmRewardError: A setting is unknown, out of range, or does not fit another one.
    """
    env = composed["env"]
    for group, key in (("env", "name"), ("env", "id"), ("agent", "name")):
        if (composed[group] or {}).get(key) is None:
            raise ConfigError(f"the config of the {group} lacks {key!r}: write {key}: ... into its YAML file")
    spec = get_agent(str(composed["agent"]["name"]))
    check_dataset(spec, composed)
    tasks = {} if env["name"] == NO_ENV else find_tasks(str(env["id"]))
    task = None if env.get("task") is None else str(env["task"])
    if env["name"] == NO_ENV:
        goal = Goal((), (), None)
    else:
        goal = settle_goal(tasks, composed["goal"], composed["baseline"], task, env.get("default_task"))
    # measured for this environment, under whatever the user or an experiment sets
    measured = dict((env.get("agents") or {}).get(spec.name) or {})
    timesteps = _given(composed["total_timesteps"], measured.pop("total_timesteps", None))
    timesteps = _given(timesteps, DEFAULT_UPDATES if spec.is_offline else DEFAULT_TIMESTEPS)
    n_envs = _given(composed["n_envs"], measured.pop("n_envs", 1))
    normalise_obs = _given(composed["normalise_obs"], measured.pop("normalise_obs", False))
    timesteps = whole("total_timesteps", timesteps, 1)
    agent = _merge(measured, composed["agent"])
    reward, discount_note = settle_discount(composed["reward"], agent)
    settings = TrainSettings(
        env=settle_env(env, goal.task, bool(tasks)),
        encoder=dict(composed["encoder"]),
        reward=reward,
        agent=agent,
        goal=goal.goal,
        baseline=goal.baseline,
        seed=composed["seed"],
        device=str(composed["device"]),
        threads=composed["threads"],
        total_timesteps=timesteps,
        n_envs=n_envs,
        subprocess=composed["subprocess"],
        encode_batch=composed["encode_batch"],
        normalise_obs=normalise_obs,
        checkpoint_every=_given(composed["checkpoint_every"], max(1, timesteps // 10)),
        eval=EvalSettings(**composed["eval"]),
        # absolute: the run may be resumed from another folder
        cache=None if composed["cache"] is None else str(Path(composed["cache"]).absolute()),
        cache_dtype=composed["cache_dtype"],
        frame_gate=composed["frame_gate"],
        dataset=None if composed["dataset"] is None else str(Path(composed["dataset"]).expanduser().absolute()),
        labels=None if composed["labels"] is None else str(composed["labels"]),
    )
    unused = composed["baseline"] is not None and (key := _unused_baseline(reward))
    notes = [goal.note, f"the baseline is not used: {key} is 0" if unused else "", discount_note]
    return settings, "; ".join(note for note in notes if note)


def check_cache_dtype(dtype: Any) -> None:
    """Check in which form embeddings are to be stored.

    Raises:
        ConfigError: There is no such form.
    """
    if dtype not in get_args(Dtype):
        raise ConfigError(f"cache_dtype must be {' or '.join(get_args(Dtype))}, got {dtype!r}")


def settle_env(page: Mapping[str, Any], task: str | None, has_tasks: bool) -> EnvSettings:
    """Return the environment that a file of ``configs/env`` describes, with a task.

    Raises:
        ConfigError: Its arguments are no mapping, or the task is among them.
    """
    kwargs = page.get("kwargs") or {}
    if not isinstance(kwargs, Mapping):
        raise ConfigError(f"env.kwargs must hold <name>: <value>, got {kwargs!r}")
    _refuse_task_among(kwargs, has_tasks)
    return EnvSettings(str(page["name"]), str(page["id"]), dict(kwargs), task, has_tasks, page.get("action_repeat", 1))


def _given(asked: Any, otherwise: Any) -> Any:
    """Return what the user asked for, or ``otherwise`` where that is null; 0 and false are answers."""
    return otherwise if asked is None else asked


def change_goal(settings: TrainSettings, asked: Mapping[str, Any]) -> tuple[TrainSettings, str]:
    """Return a run's settings with another goal, baseline, task or environment arguments, for an evaluation.

    Args:
        settings: The run's.
        asked: ``goal``, ``baseline`` and ``env`` (``task``, ``kwargs``) of an evaluation's config.

    Returns:
        The settings, and a note for the user or "".

    Raises:
        ConfigError: Actions would be held for another number of steps than the agent has learned with, or the task is
            given in the wrong place.
    """
    env = asked["env"]
    if "action_repeat" in env:
        raise ConfigError("env.action_repeat belongs to the run and can't change: leave it out")
    _refuse_task_among(env.get("kwargs") or {}, settings.env.has_tasks)
    kwargs = {**settings.env.kwargs, **(env.get("kwargs") or {})}
    goal, baseline, task, note = settings.goal, settings.baseline, settings.env.task, ""
    if asked["goal"] is not None or asked["baseline"] is not None or env.get("task") is not None:
        tasks = find_tasks(settings.env.id)
        wanted, named = asked["goal"], env.get("task")
        if wanted is None and named is None:  # another baseline for the same goal
            wanted, named = settings.goal, settings.env.task
        scene = as_prompts(asked["baseline"]) or settings.baseline or None
        settled = settle_goal(tasks, wanted, scene, named, settings.env.task)
        goal, baseline, task, note = settled.goal, settled.baseline, settled.task, settled.note
    changed = replace(settings.env, kwargs=kwargs, task=task)
    return TrainSettings(**{**_fields(settings), "env": changed, "goal": goal, "baseline": baseline}), note


def change_runtime(encoder: Mapping[str, Any], runtime: Any) -> dict[str, Any]:
    """Return an encoder's settings with another engine, which keeps its id; None for its own."""
    return {**encoder} if runtime is None else {**encoder, "runtime": str(runtime)}


def change_for_resume(settings: TrainSettings, asked: Mapping[str, Any]) -> TrainSettings:
    """Return a run's settings with those changes that a resumption may make.

    Args:
        settings: The run's.
        asked: Key (of ``MAY_CHANGE``) to value; ``eval`` holds its changed keys only.

    Raises:
        ConfigError: Another key is asked for.
    """
    own = _fields(settings)
    for key in asked:
        if (head := key.partition(".")[0]) not in (*own, *NOT_KEPT):
            raise ConfigError(f"unknown setting {key!r}: {suggest(head, own)}")
        if key not in MAY_CHANGE:
            raise ConfigError(
                f"{key} can't change when a run is resumed, only {', '.join(MAY_CHANGE)} can: start a new run for that"
            )
    changed = {**own, **{key: value for key, value in asked.items() if key != RUNTIME}}
    changed["encoder"] = change_runtime(settings.encoder, asked.get(RUNTIME))
    if "eval" in asked:
        known = {f"eval.{f.name}" for f in fields(EvalSettings)}
        if not isinstance(asked["eval"], Mapping):
            names = ", ".join(sorted(known))
            raise ConfigError(f"eval is a group of settings, got {asked['eval']!r}: write eval.<name>=<value>: {names}")
        for key in asked["eval"]:
            if f"eval.{key}" not in known:
                raise ConfigError(f"unknown setting 'eval.{key}': {suggest(f'eval.{key}', known)}")
        changed["eval"] = EvalSettings(**{**asdict(settings.eval), **asked["eval"]})
    return TrainSettings(**changed)


def _unused_baseline(reward: Mapping[str, Any], at: str = "reward") -> str:
    """Return the key by which a reward, or the one that it shapes, makes no use of a baseline; "" if it does."""
    inner = reward.get("of")
    if isinstance(inner, Mapping) and not reward.get("parts"):
        return _unused_baseline(inner, f"{at}.of")
    return f"{at}.alpha" if reward.get("name") == "clip" and reward.get("alpha", 0) == 0 else ""


def _fields(settings: TrainSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in TrainSettings.__dataclass_fields__}


def _settle(settings: Any, **values: Any) -> None:
    """Put checked values in the place of those given, in a frozen dataclass that is being made."""
    for name, value in values.items():
        object.__setattr__(settings, name, value)


def _refuse_task_among(kwargs: Mapping[str, Any], has_tasks: bool) -> None:
    """Refuse a task that would be overridden; an environment of another project may well have such an argument.

    Raises:
        ConfigError: There is one.
    """
    if has_tasks and "task" in kwargs:
        raise ConfigError(f"the task is no argument of its own: write env.task={kwargs['task']}, not env.kwargs.task")


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        mine = merged.get(key)
        merged[key] = _merge(mine, value) if isinstance(mine, Mapping) and isinstance(value, Mapping) else value
    return merged
