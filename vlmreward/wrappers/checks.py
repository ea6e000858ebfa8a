"""Refuse combinations that would learn from placeholder rewards, or can't be scored."""

from __future__ import annotations

from collections.abc import Iterator

from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from vlmreward.errors import ConfigError
from vlmreward.types import RewardModel
from vlmreward.wrappers.vec_capture_frames import VecCaptureFrames
from vlmreward.wrappers.vec_replace_reward import VecReplaceReward


def find_capture(vec_env: VecEnv) -> VecCaptureFrames | None:
    """Return the VecCaptureFrames among a vector environment's wrappers, or None."""
    return next((layer for layer in _layers(vec_env) if isinstance(layer, VecCaptureFrames)), None)


def check_vec_env(vec_env: VecEnv) -> None:
    """Refuse wrappers that would use the placeholder rewards of a deferred scoring.

    Args:
        vec_env: The vector environment that an algorithm is given.

    Raises:
        ConfigError: ``VecNormalize(norm_reward=True)`` would normalise zeros.
    """
    layers = list(_layers(vec_env))
    if find_capture(vec_env) is None or any(isinstance(layer, VecReplaceReward) for layer in layers):
        return  # rewards are not scored later
    for layer in layers:
        if isinstance(layer, VecNormalize) and layer.norm_reward:
            raise ConfigError(
                "VecNormalize(norm_reward=True) sees only placeholders where rewards are scored later: "
                "set norm_reward=False and reward.normalise=running"
            )


def check_supported(buffer_class: type | str | None) -> None:
    """Refuse replay buffers that recompute rewards by themselves.

    Args:
        buffer_class: What the user wants as ``replay_buffer_class``: the class, or its name as text.

    Raises:
        ConfigError: It is HerReplayBuffer or derived from it.
    """
    if isinstance(buffer_class, type):
        name, is_her = buffer_class.__name__, issubclass(buffer_class, HerReplayBuffer)
    else:
        name = str(buffer_class).rpartition(".")[2]
        is_her = name == HerReplayBuffer.__name__
    if is_her:
        raise ConfigError(
            f"{name} is not supported: it asks env.compute_reward for the reward of another goal when sampling, and a "
            "reward from pictures is none of the environment's; use ScoredReplayBuffer, as vlmreward train does by "
            "itself"
        )


def check_context(reward_model: RewardModel, n_steps: int, episode_length: int | None) -> None:
    """Refuse a reward model of whole episodes for rollouts that end inside episodes.

    Args:
        reward_model: The model to train on.
        n_steps: Steps of each environment in a rollout of the on-policy algorithm.
        episode_length: Steps in every episode, if that is fixed; None if episodes can end early.

    Raises:
        ConfigError: Context ``"episode"``, and ``n_steps`` is not a multiple of a fixed episode length.
    """
    if reward_model.context != "episode" or (episode_length is not None and n_steps % episode_length == 0):
        return
    length = "episodes can end early" if episode_length is None else f"episodes have {episode_length} steps"
    raise ConfigError(
        f"{type(reward_model).__name__} scores whole episodes, n_steps={n_steps} and {length}: each rollout must hold "
        "whole episodes; set n_steps to a multiple of a fixed episode length, or use an off-policy algorithm"
    )


def _layers(vec_env: VecEnv) -> Iterator[VecEnvWrapper]:
    """Yield the wrappers, outermost first."""
    layer = vec_env
    while isinstance(layer, VecEnvWrapper):
        yield layer
        layer = layer.venv
