"""Reward models, by name; a model's module is imported when its name is first used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmreward.registry import Registry
from vlmreward.rewards.transform import TRANSFORM_KEYS, RewardTransform
from vlmreward.types import Encoder, RewardModel

_REWARDS = Registry("reward")


def register_reward(name: str, target: str) -> None:
    """Add a reward model: a callable with a parameter named ``encoder`` and its own settings.

    Args:
        name: The name users write.
        target: ``"package.module:Class"``.

    Raises:
        ValueError: The name is taken, or the target has no colon.
    """
    _REWARDS.register(name, target)


def list_rewards() -> list[str]:
    """Return the name of every reward model, sorted."""
    return _REWARDS.names()


def make_reward(name: str, encoder: Encoder, /, **kwargs: Any) -> RewardModel:
    """Build a reward model.

    Args:
        name: One of :func:`list_rewards`.
        encoder: Frozen encoder of frames and prompts.
        **kwargs: The model's own settings: ``goal``, ``baseline``, ``alpha``, ...

    Returns:
        The reward model, its prompts encoded.

    Raises:
        UnknownNameError: The name is not registered.
        ConfigError: A setting is unknown, missing or out of range.
        PromptError: A prompt is empty, too long, or leaves no direction to reward.
    """
    return _REWARDS.make(name, {"encoder": encoder}, **kwargs)


def make_reward_from_config(
    config: Mapping[str, Any], encoder: Encoder, /, **prompts: Any
) -> tuple[RewardModel, RewardTransform]:
    """Build what a file of ``configs/reward`` describes.

    Args:
        config: ``name``, the model's own settings, and the settings of :class:`RewardTransform`.
        encoder: Frozen encoder of frames and prompts.
        **prompts: ``goal`` and ``baseline``, which stand outside the reward's group.

    Returns:
        The reward model and the transform of its rewards.

    Raises:
        UnknownNameError: The name is not registered.
        ConfigError: A setting is unknown, missing or out of range, or ``name`` is missing.
        PromptError: A prompt is empty, too long, or leaves no direction to reward.
    """
    own = {k: v for k, v in config.items() if k not in TRANSFORM_KEYS and k != "name"}
    transform = RewardTransform(**{k: config[k] for k in TRANSFORM_KEYS if k in config})
    return make_reward(_REWARDS.name_in(config), encoder, **prompts, **own), transform


register_reward("clip", "vlmreward.rewards.clip:ClipReward")
register_reward("contrastive", "vlmreward.rewards.contrastive:ContrastiveReward")
