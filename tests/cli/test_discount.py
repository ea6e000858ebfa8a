from __future__ import annotations

from typing import Any

import pytest

from vlmreward.agents.sb3 import discount_factor
from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose
from vlmreward.cli.discount import settle_discount
from vlmreward.cli.settings import TrainSettings, resolve
from vlmreward.errors import ConfigError


def settle(*argv: str) -> tuple[TrainSettings, str]:
    return resolve(compose("train", parse_arguments(["env=cartpole", *argv])))


@pytest.mark.parametrize(
    ("agent", "gamma"),
    [
        ("agent=a2c", 0.99),  # the algorithm's own default
        ("agent=ppo", 0.97),  # measured for the environment
        ("agent.gamma=0.5", 0.5),  # the user's, for the environment's algorithm
    ],
)
def test_potential_takes_the_agents_gamma(agent: str, gamma: float) -> None:
    settings, note = settle("reward=potential", agent)
    assert discount_factor(settings.agent) == settings.reward["gamma"] == gamma
    assert note == ""
    assert settle("reward=potential", agent, f"reward.gamma={gamma}")[0] == settings


def test_other_gamma_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"reward\.gamma must be the agent's gamma=0\.97, got 0\.9: leave it out"):
        settle("reward=potential", "agent=ppo", "reward.gamma=0.9")


def test_agent_without_discount_is_refused() -> None:
    pytest.importorskip("sb3_contrib")
    with pytest.raises(ConfigError, match="reward=potential needs an agent with a discount factor, ars has none"):
        settle("reward=potential", "agent=ars")
    assert settle("reward=clip_delta", "agent=ars")[1] == ""


def test_discounted_gains_are_told() -> None:
    assert "gamma is 0.97: discounted gains pay for staying" in settle("reward=clip_delta", "agent=ppo")[1]
    assert settle("reward=clip_delta", "agent=ppo", "agent.gamma=1")[1] == ""
    assert settle("reward=clip_delta", "agent=ppo", "reward.delta=false", "reward.clip_at=0.3")[1] == ""


def test_other_rewards_are_left_as_they_are() -> None:
    reward: dict[str, Any] = {"name": "clip", "alpha": 0.5}
    assert settle_discount(reward, {"name": "no such agent"}) == (reward, "")  # it is not even looked up
