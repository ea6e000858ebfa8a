"""What ``vlmreward train`` is asked when an agent learns from a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vlmreward.agents.catalogue import AgentSpec, get_agent, list_agents
from vlmreward.cli.arguments import Arguments
from vlmreward.errors import ConfigError
from vlmreward.registry import suggest

if TYPE_CHECKING:
    from vlmreward.agents.offline_agent import OfflineSettings

NO_ENV = "none"
ACTIONS = ("auto", "numbers", "choices")
# Settings of train that say how an environment is learned in, with what they are when nobody sets them.
_OF_ENVIRONMENTS = {"n_envs": None, "subprocess": False, "normalise_obs": None, "frame_gate": None}


def add_no_env(arguments: Arguments) -> Arguments:
    """Return the arguments with ``env=none`` where a dataset is given and no environment."""
    if arguments.path("dataset") is None or "env" in arguments.keys():  # noqa: SIM118
        return arguments
    return replace(arguments, overrides=("env=none", *arguments.overrides))


def check_dataset(spec: AgentSpec, composed: Mapping[str, Any]) -> None:
    """Check that agent, dataset, labels and environment go together.

    Args:
        spec: The agent.
        composed: What ``compose`` returned for ``train``.

    Raises:
        ConfigError: They don't.
    """
    offline = " or ".join(f"agent={name}" for name in list_agents() if get_agent(name).is_offline)
    if not spec.is_offline:
        for key in ("dataset", "labels"):
            if composed[key] is not None:
                raise ConfigError(
                    f"{key} is not used by agent={spec.name}, which learns in an environment: use {offline}"
                )
        if composed["env"]["name"] == NO_ENV:
            raise ConfigError(f"env=none is for agents that learn from a dataset, got agent={spec.name}: use {offline}")
        return
    if composed["dataset"] is None:
        raise ConfigError(
            f"agent={spec.name} learns from a dataset: write dataset=<folder or file of recorded episodes>"
        )
    for key, usual in _OF_ENVIRONMENTS.items():
        if composed[key] != usual:
            raise ConfigError(f"{key} is not used by agent={spec.name}, which learns from a dataset: leave it out")
    if composed["eval"]["every"] is not None:
        raise ConfigError(f"eval.every is not used by agent={spec.name}, the last checkpoint counts: leave it out")
    if composed["audit"] not in ("warn", "off", False):
        raise ConfigError("audit looks at a reward before training, labels are looked at by vlmreward label: audit=off")
    if composed["env"]["name"] == NO_ENV and composed["goal"] is not None:
        raise ConfigError("goal is what an agent is measured by in an environment: give env=<name>, or leave it out")


def check_offline_agent(agent: Mapping[str, Any]) -> OfflineSettings:
    """Return an agent's hyper-parameters, checked.

    Args:
        agent: Its config.

    Raises:
        ConfigError: One is unknown, of another kind, or out of range.
    """
    from vlmreward.agents.hyperparameters import check_hyperparameters
    from vlmreward.agents.sb3 import load_algorithm

    spec = get_agent(str(agent["name"]))
    settings = load_algorithm(spec)
    given = {key: value for key, value in agent.items() if key not in ("name", "actions")}
    return settings(**check_hyperparameters(spec.name, settings, given))


def check_actions(agent: Mapping[str, Any]) -> str:
    """Return the setting ``agent.actions``.

    Raises:
        ConfigError: There is no such kind.
    """
    asked = str(agent.get("actions", "auto"))
    if asked not in ACTIONS:
        raise ConfigError(f"unknown agent.actions={asked!r}: {suggest(asked, ACTIONS)}")
    return asked
