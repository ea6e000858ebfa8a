"""Build any Stable-Baselines3 or sb3-contrib algorithm so that it learns from vision-language reward.

Scoring lives in the buffers: an algorithm with SB3's rollout or replay buffer gets ours in its place and is otherwise
untouched. One that brings its own buffer, or has none, gets its rewards step by step from a wrapper.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from vlmreward.agents.catalogue import AgentSpec, get_agent, list_agents
from vlmreward.agents.hyperparameters import build_action_noise, check_hyperparameters, list_hyperparameters
from vlmreward.agents.last_step import LastStep
from vlmreward.errors import ConfigError
from vlmreward.optional import require_package
from vlmreward.wrappers.checks import check_vec_env
from vlmreward.wrappers.replay_buffer import choose_replay_buffer
from vlmreward.wrappers.rollout_buffer import choose_rollout_buffer
from vlmreward.wrappers.scorer import Scorer
from vlmreward.wrappers.vec_replace_reward import VecReplaceReward


def load_algorithm(spec: AgentSpec) -> Any:
    """Import an algorithm's class; of an offline agent, that of its hyper-parameters.

    Raises:
        DependencyNotInstalled: It belongs to an extra that is not installed.
    """
    package, _, name = spec.target.partition(":")
    module = require_package(package, spec.extra) if spec.extra else importlib.import_module(package)
    return getattr(module, name)


def discount_factor(config: Mapping[str, Any]) -> Any:
    """Return the discount factor that an algorithm learns with: as it is set, else its default; None if it has none.

    Args:
        config: ``name`` and the hyper-parameters, not checked yet.

    Raises:
        UnknownNameError: There is no such algorithm.
        DependencyNotInstalled: The algorithm's package is not installed.
    """
    algorithm = load_algorithm(get_agent(str(config["name"])))
    return config.get("gamma", list_hyperparameters(algorithm).get("gamma"))


def prepare_env(vec_env: VecEnv, spec: AgentSpec, normalise_obs: bool) -> VecEnv:
    """Put the wrappers around a ``VecCaptureFrames`` that an algorithm needs.

    Args:
        vec_env: The ``VecCaptureFrames``.
        spec: The algorithm.
        normalise_obs: Keep a running mean and variance of the observations.
    """
    vec_env = LastStep(vec_env)
    if spec.scoring == "step":
        vec_env = VecReplaceReward(vec_env)
    if normalise_obs:
        vec_env = VecNormalize(vec_env, norm_obs=True, norm_reward=False)
    return vec_env


def make_algorithm(
    config: Mapping[str, Any], vec_env: VecEnv, scorer: Scorer | None, seed: int, device: str = "cpu"
) -> BaseAlgorithm:
    """Build an algorithm.

    Args:
        config: ``name`` and the hyper-parameters: arguments of the algorithm's constructor.
        vec_env: What ``prepare_env`` returned.
        scorer: Scores the frames of ``vec_env``; None builds an algorithm that only acts, with no room to learn.
        seed: Seeds networks, exploration and environments.
        device: Where the policy lives.

    Raises:
        UnknownNameError: There is no such algorithm.
        ConfigError: A hyper-parameter is unknown or out of range, or the algorithm does not fit the environment.
        DependencyNotInstalled: The algorithm's package is not installed.
    """
    spec = get_agent(str(config["name"]))
    algorithm = load_algorithm(spec)
    given = {key: value for key, value in config.items() if key != "name"}
    hyperparameters = check_hyperparameters(spec.name, algorithm, given)
    _check_actions(spec, vec_env.action_space)
    check_vec_env(vec_env)
    if isinstance(vec_env.observation_space, gym.spaces.Dict) and hyperparameters.get("policy") == "MlpPolicy":
        hyperparameters["policy"] = "MultiInputPolicy"
    if hyperparameters.get("action_noise") is not None:
        shape = vec_env.action_space.shape or ()
        hyperparameters["action_noise"] = build_action_noise(float(hyperparameters["action_noise"]), shape)
    hyperparameters |= _buffer_arguments(spec, vec_env.observation_space, scorer, hyperparameters)
    try:
        with warnings.catch_warnings():
            # n_steps reaches our buffer through its own arguments, so SB3's "n_steps is ignored" is not true here
            warnings.filterwarnings("ignore", message=r".*`n_steps=\d+` is ignored.*")
            if scorer is None:  # it only acts, in another number of environments than it has learned in
                warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
            return algorithm(env=vec_env, seed=seed, device=device, **hyperparameters)
    except (ValueError, AssertionError, TypeError, NotImplementedError) as e:
        if isinstance(e, ConfigError):
            raise
        raise ConfigError(f"{spec.name} refuses these settings: {' '.join(str(e).split())}") from e


def _buffer_arguments(
    spec: AgentSpec, space: gym.Space, scorer: Scorer | None, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the constructor's arguments that put our buffer in."""
    if scorer is None:
        return {"buffer_size": 1, "replay_buffer_kwargs": {}} if spec.scoring == "replay" else {}
    if spec.scoring == "rollout":
        return {"rollout_buffer_class": choose_rollout_buffer(space), "rollout_buffer_kwargs": {"scorer": scorer}}
    if spec.scoring == "step":
        return {}
    n_steps = int(given.get("n_steps", 1))
    own = {**(given.get("replay_buffer_kwargs") or {}), "scorer": scorer}
    if n_steps > 1:
        own |= {"n_steps": n_steps, "gamma": float(given.get("gamma", 0.99))}
    return {"replay_buffer_class": choose_replay_buffer(space, n_steps), "replay_buffer_kwargs": own}


def _check_actions(spec: AgentSpec, space: gym.Space) -> None:
    kind = type(space).__name__
    if kind not in spec.actions:
        others = (get_agent(name) for name in list_agents())
        fitting = [other.name for other in others if kind in other.actions and not other.is_offline]
        raise ConfigError(
            f"{spec.name} takes {' or '.join(spec.actions)} actions, the environment has {kind}: "
            f"choose agent={fitting[0] if fitting else 'ppo'}"
            + (f" (or {', '.join(fitting[1:])})" if len(fitting) > 1 else "")
        )
