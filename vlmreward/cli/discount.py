"""A reward that discounts takes the agent's discount factor, and one that should is told of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmreward.errors import ConfigError


def settle_discount(reward: Mapping[str, Any], agent: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Put the agent's discount factor into a reward that has one.

    A difference of potentials leaves the best policies what they are for the agent's own gamma alone.

    Args:
        reward: The reward's settings; ``gamma``, where it is one of them, is null or the agent's.
        agent: The agent's settings.

    Returns:
        The reward's settings, and a note for the user or "".

    Raises:
        ConfigError: ``reward.gamma`` is another number, or the agent has none.
    """
    pays_for_staying = reward.get("name") == "clip_delta" and reward.get("delta") is True
    if "gamma" not in reward and not pays_for_staying:
        return dict(reward), ""

    from vlmreward.agents.sb3 import discount_factor  # loads torch

    gamma = discount_factor(agent)
    if pays_for_staying:
        note = f"gamma is {gamma}: discounted gains pay for staying where the reward is high, reward=potential does not"
        return dict(reward), note if gamma is not None and gamma != 1 else ""
    if gamma is None:
        raise ConfigError(
            f"reward={reward.get('name')} needs an agent with a discount factor, {agent['name']} has none: choose "
            "another agent or reward"
        )
    if reward["gamma"] not in (None, gamma):
        raise ConfigError(
            f"reward.gamma must be the agent's gamma={gamma}, got {reward['gamma']!r}: leave it out, or set agent.gamma"
        )
    return {**reward, "gamma": gamma}, ""
