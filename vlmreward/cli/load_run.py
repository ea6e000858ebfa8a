"""Bring back what a run has learned, or a trivial policy in its place, for an evaluation or a video."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from vlmreward.agents.catalogue import get_agent
from vlmreward.agents.checkpoint_state import restore_policy
from vlmreward.agents.offline_agent import OfflinePolicy, check_fits, restore_agent
from vlmreward.agents.policies import POLICIES, AgentPolicy, HoldPolicy, Policy, RandomPolicy, ZeroPolicy
from vlmreward.agents.sb3 import make_algorithm
from vlmreward.cli.arguments import Arguments
from vlmreward.cli.build import policy_device
from vlmreward.cli.calibration import is_int8
from vlmreward.cli.compose import compose
from vlmreward.cli.groups import list_groups
from vlmreward.cli.offline_settings import NO_ENV, check_offline_agent
from vlmreward.cli.run_folder import RunFolder
from vlmreward.cli.settings import EnvSettings, TrainSettings, change_goal, change_runtime, resolve
from vlmreward.cli.values import flag, number, whole
from vlmreward.errors import ConfigError
from vlmreward.registry import suggest

# Settings of a run that evaluate and record read under the same name.
_GOAL_KEYS = ("goal", "baseline", "env", "encoder")


@dataclass(frozen=True)
class Subject:
    """What is to be evaluated.

    Attributes:
        settings: The run's settings, with the goal and the environment arguments of the evaluation.
        options: The evaluation's own settings.
        run: The run's folder; None for a trivial policy without one.
        note: What the user should know, or "".
        trained: The run's settings as it was trained; None without a run.
        default_task: The environment's task when neither goal nor task is given.
        usual: The command's own settings as they are when nothing is given.
        asked: What the user asked for besides the goal: ``baseline`` and ``env.kwargs.<name>``.
    """

    settings: TrainSettings
    options: dict[str, Any]
    run: RunFolder | None
    note: str = ""
    trained: TrainSettings | None = None
    default_task: str | None = None
    usual: dict[str, Any] = field(default_factory=dict)
    asked: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path | None:
        """Return the run's folder; None without a run."""
        return None if self.run is None else self.run.path


def find_subject(command: str, arguments: Arguments) -> Subject:
    """Read what a command is to evaluate: a run, or an environment with a trivial policy.

    Args:
        command: ``evaluate`` or ``record``.
        arguments: What the user gave.

    Raises:
        VlmRewardError: The run or a setting is wrong.
    """
    groups = list_groups(arguments.config_dir)
    chosen = [o.split("=", 1)[0] for o in arguments.overrides if o.split("=", 1)[0] in groups]
    if arguments.path("run") is not None:
        if chosen:
            raise ConfigError(f"{chosen[0]} belongs to the run and can't change: leave it out")
        options = compose(command, arguments)
        run, settings = RunFolder.open(str(options["run"]))
        if settings.env.name == NO_ENV:
            raise ConfigError(
                f"run {run.path} has no environment to act in: train with env=<name> to measure the agent"
            )
        trained = settings
        default_task = _default_task(settings.env.name, arguments.config_dir, groups)
        asked = {f"env.kwargs.{key}": value for key, value in (options["env"].get("kwargs") or {}).items()}
        if others := sorted(options["encoder"].keys() - {"runtime"}):
            raise ConfigError(f"encoder.{others[0]} belongs to the run, only encoder.runtime can change: leave it out")
        settings, note = change_goal(settings, options)
        settings = replace(settings, encoder=change_runtime(settings.encoder, options["encoder"]["runtime"]))
    else:
        if not chosen:
            compose(command, arguments)  # a misspelt setting is the better thing to complain about
            raise ConfigError("run is not given: write run=<run folder>, or env=<name> and policy=random, zero or hold")
        known = compose(command, Arguments())
        own = [key for key in known if key not in _GOAL_KEYS]
        mine, rest = arguments.take(own)
        options = compose(command, mine)
        if options["policy"] == "agent":
            raise ConfigError("an agent needs run=<run folder>: without one write policy=random, zero or hold")
        run = None
        composed = compose("train", rest)
        settings, note = resolve(composed)
        if is_int8(settings):
            raise ConfigError("precision int8 is calibrated by train: give its run=<run folder>, or another precision")
        trained, default_task = None, composed["env"].get("default_task")
        keys = [key.split(".")[:3] for key in arguments.keys() if key.startswith("env.kwargs.")]  # noqa: SIM118
        asked = {".".join(key): settings.env.kwargs[key[-1]] for key in keys}
    if "baseline" in arguments.literals:
        asked["baseline"] = settings.baseline
    if options["policy"] not in POLICIES:
        raise ConfigError(f"unknown policy {options['policy']!r}: {suggest(str(options['policy']), POLICIES)}")
    options = _check(options)
    changed = {key: options[key] for key in ("threads", "encode_batch", "cache", "cache_dtype")}
    changed["frame_gate"] = options.get("frame_gate")  # record has none: it encodes every frame
    settings = TrainSettings(**{**vars(settings), **changed, "device": str(options["device"])})
    return Subject(settings, options, run, note, trained, default_task, compose(command, Arguments()), asked)


def _check(options: dict[str, Any]) -> dict[str, Any]:
    """Return a command's own settings with their kinds checked; which there are depends on the command."""
    checked = dict(options)
    for key, low in (("episodes", 1), ("seed", 0), ("n_envs", 1), ("size", 0)):
        if key in options:
            checked[key] = whole(key, options[key], low)
    for key in ("deterministic", "score"):
        if key in options:
            checked[key] = flag(key, options[key])
    if "fps" in options:
        checked["fps"] = number("fps", options["fps"], 1)
    if options.get("frame_gate") is not None and not checked["score"]:
        raise ConfigError("frame_gate skips frames that are scored, and score=false scores none: leave one of them out")
    return checked


def _default_task(env: str, config_dir: str | None, groups: dict[str, list[str]]) -> str | None:
    """Return the task of an environment when none is named; None where its file is not at hand."""
    if env not in groups["env"]:
        return None
    return compose("train", Arguments(overrides=(f"env={env}",), config_dir=config_dir))["env"].get("default_task")


def load_policy(subject: Subject, n_envs: int, env: gym.Env) -> tuple[Policy, dict[str, Any]]:
    """Return the policy, and what a result says about it.

    Args:
        subject: What is evaluated.
        n_envs: Environments side by side.
        env: One of them; its spaces are looked at.

    Raises:
        CheckpointError: The checkpoint is missing, damaged or does not fit.
    """
    name = subject.options["policy"]
    if name == "random":
        return RandomPolicy(env.action_space, n_envs), {"policy": name}
    if name == "zero":
        return ZeroPolicy(env.action_space, n_envs), {"policy": name}
    if name == "hold":
        return HoldPolicy(env, n_envs), {"policy": name}
    assert subject.run is not None, "find_subject() wants a run for the agent"
    path = subject.run.checkpoints.find(str(subject.options["checkpoint"]))
    state, meta, _ = subject.run.checkpoints.load(path, with_shared=False)
    about = {"policy": name, "checkpoint": subject.options["checkpoint"], "timesteps": meta["num_timesteps"]}
    if get_agent(subject.settings.agent["name"]).is_offline:
        agent = restore_agent(check_offline_agent(subject.settings.agent), state["model"])
        check_fits(agent.shape, env)
        deterministic = bool(subject.options["deterministic"])
        return OfflinePolicy(agent, env.action_space, subject.settings.seed, deterministic), about
    model = build_actor(subject.settings, env)
    restore_policy(model, state["model"])
    return AgentPolicy(model, n_envs, bool(subject.options["deterministic"])), about


def load_agent(path: str | None, env: EnvSettings, built: gym.Env, checkpoint: str = "last") -> Policy:
    """Return a run's trained agent, for one environment.

    Args:
        path: The run's folder.
        env: The environment that it is to act in.
        built: The same, built.
        checkpoint: ``"last"``, ``"best"`` or a step number.

    Raises:
        ConfigError: There is no run, or it is of another environment.
        CheckpointError: The checkpoint is missing, damaged or does not fit.
    """
    if path is None:
        raise ConfigError("policy=agent needs run=<run folder>")
    run, trained = RunFolder.open(path)
    if trained.env.id != env.id:
        raise ConfigError(f"the run is of {trained.env.id}, not of {env.id}: give a run of the same")
    options = {"policy": "agent", "checkpoint": checkpoint, "deterministic": True}
    return load_policy(Subject(trained, options, run), 1, built)[0]


def build_actor(settings: TrainSettings, env: gym.Env) -> BaseAlgorithm:
    """Build a run's algorithm to act with, without room to learn."""
    vec_env: VecEnv = DummyVecEnv([lambda: _Spaces(env)])
    if settings.normalise_obs:
        vec_env = VecNormalize(vec_env, training=False, norm_reward=False)
    return make_algorithm(settings.agent, vec_env, None, settings.seed, policy_device(settings))


class _Spaces(gym.Env):
    """Has the spaces of an environment and nothing else: building an algorithm must not touch the real one."""

    def __init__(self, env: gym.Env) -> None:
        self.observation_space, self.action_space = env.observation_space, env.action_space
