"""Agents that learn from vision-language reward; importing this loads neither torch nor an algorithm."""

from vlmreward.agents.catalogue import AgentSpec, get_agent, list_agents

__all__ = ["AgentSpec", "get_agent", "list_agents"]
