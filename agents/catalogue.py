"""Which algorithms there are, and the way each one gets its reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlmreward.errors import ConfigError, UnknownNameError
from vlmreward.registry import suggest

Scoring = Literal["rollout", "replay", "step", "offline"]

HOW = {
    "rollout": "in batches, when a rollout is complete",
    "replay": "in batches, while the replay buffer fills",
    "step": "step by step, for the algorithm brings its own buffer or has none",
    "offline": "before, by vlmreward label: it learns from a dataset",
}


@dataclass(frozen=True)
class AgentSpec:
    """One algorithm.

    Attributes:
        name: What users write, e.g. ``"ppo"``.
        target: ``"package:Class"``; of an offline agent the class of its hyper-parameters.
        scoring: Where its reward is computed: ``rollout`` and ``replay`` score in batches inside our buffer classes,
            ``step`` scores every vectorised step in a wrapper, ``offline`` reads labels of a dataset.
        actions: Kinds of action space it takes.
        extra: The extra of this project that brings it, or "".
    """

    name: str
    target: str
    scoring: Scoring
    actions: tuple[str, ...]
    extra: str = ""

    @property
    def scored(self) -> str:
        """Return in words when the reward is computed."""
        return HOW[self.scoring]

    @property
    def is_offline(self) -> bool:
        """Return whether it learns from a dataset, without an environment."""
        return self.scoring == "offline"


_ANY = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
_SB3, _CONTRIB = "stable_baselines3", "sb3_contrib"

_AGENTS = {
    spec.name: spec
    for spec in (
        AgentSpec("a2c", f"{_SB3}:A2C", "rollout", _ANY),
        AgentSpec("ddpg", f"{_SB3}:DDPG", "replay", ("Box",)),
        AgentSpec("dqn", f"{_SB3}:DQN", "replay", ("Discrete",)),
        AgentSpec("ppo", f"{_SB3}:PPO", "rollout", _ANY),
        AgentSpec("sac", f"{_SB3}:SAC", "replay", ("Box",)),
        AgentSpec("td3", f"{_SB3}:TD3", "replay", ("Box",)),
        AgentSpec("bc", "vlmreward.agents.bc:BCSettings", "offline", ("Box", "Discrete")),
        AgentSpec("iql", "vlmreward.agents.iql:IQLSettings", "offline", ("Box", "Discrete")),
        AgentSpec("ars", f"{_CONTRIB}:ARS", "step", ("Box", "Discrete"), "contrib"),
        AgentSpec("crossq", f"{_CONTRIB}:CrossQ", "replay", ("Box",), "contrib"),
        AgentSpec("maskable_ppo", f"{_CONTRIB}:MaskablePPO", "step", _ANY[1:], "contrib"),
        AgentSpec("qrdqn", f"{_CONTRIB}:QRDQN", "replay", ("Discrete",), "contrib"),
        AgentSpec("recurrent_ppo", f"{_CONTRIB}:RecurrentPPO", "step", _ANY, "contrib"),
        AgentSpec("tqc", f"{_CONTRIB}:TQC", "replay", ("Box",), "contrib"),
        AgentSpec("trpo", f"{_CONTRIB}:TRPO", "rollout", _ANY, "contrib"),
    )
}


# What users look for and can't have: name -> why, and what to use instead.
_REFUSED = {
    "her": "it asks env.compute_reward for the rewards of other goals, and a reward from pictures is none of the "
    "environment's; use agent=sac, agent=tqc or agent=dqn",
}


def check_refused(name: str) -> None:
    """Refuse by name, with the reason, what can't learn from pictures.

    Raises:
        ConfigError: It is one of those.
    """
    if name.lower() in _REFUSED:
        raise ConfigError(f"agent={name} is not supported: {_REFUSED[name.lower()]}")


def get_agent(name: str) -> AgentSpec:
    """Return an algorithm's entry.

    Raises:
        UnknownNameError: There is no such algorithm.
        ConfigError: It can't learn from pictures.
    """
    check_refused(name)
    if name not in _AGENTS:
        raise UnknownNameError(f"unknown agent {name!r}: {suggest(name, _AGENTS)}")
    return _AGENTS[name]


def list_agents() -> list[str]:
    """Return the names of all algorithms, sorted."""
    return sorted(_AGENTS)
