"""Implicit Q-learning: the best of what a dataset shows, without asking for the value of an action that isn't in it.

Kostrikov, Nair and Levine (2021), "Offline reinforcement learning with implicit Q-learning", arXiv 2110.06169; original
code https://github.com/ikostrikov/implicit_q_learning. What differs from it:

- rewards are divided by the standard deviation of the dataset's labels (and never shifted, which would change what is
  best where episodes end by themselves): VLM rewards may all lie within 0.05, and beta is in units of reward;
- actions that are choices have a categorical policy and a Q network with one output an action;
- the policy's learning rate is constant;
- rows without a valid label, and rows that nobody knows the next observation of, are not learned from.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vlmreward.agents.offline_agent import Batch, OfflineAgent, check_network, make_mlp
from vlmreward.agents.offline_data import OfflineData, Shape
from vlmreward.errors import ConfigError, DatasetError
from vlmreward.types import FloatArray


@dataclass(frozen=True)
class IQLSettings:
    """Hyper-parameters.

    Attributes:
        gamma: Discount factor.
        expectile: Of the values of recorded actions, in (0, 1): 0.5 is their mean, towards 1 their best.
        beta: How sharply better actions are preferred, per standard deviation of reward.
        most_weight: Largest weight of an action.
        tau: Share of the Q networks that their targets take over an update.
        learning_rate: Of all networks.
        batch_size: Rows of an update.
        hidden: Widths of the networks' hidden layers.
    """

    gamma: float = 0.99
    expectile: float = 0.7
    beta: float = 3.0
    most_weight: float = 100.0
    tau: float = 0.005
    learning_rate: float = 3e-4
    batch_size: int = 256
    hidden: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        """Check the numbers."""
        object.__setattr__(self, "hidden", check_network(self.hidden, self.learning_rate))
        for name, value, low, high in (
            ("expectile", self.expectile, 0.0, 1.0),
            ("beta", self.beta, 0.0, float("inf")),
            ("most_weight", self.most_weight, 0.0, float("inf")),
        ):
            if not low < value < high:
                raise ConfigError(f"agent.{name} of iql must be above {low:g} and below {high:g}, got {value!r}")

    def weigh(self, data: OfflineData) -> FloatArray:
        """Return 1 for every row with a label and a known next observation.

        Raises:
            DatasetError: There is no reward, or no such row.
        """
        if data.label is None:
            raise DatasetError(
                "iql learns from rewards, the dataset has none: name a column of labels, labels=reward_vlm"
            )
        kept = data.valid & data.followed
        if not kept.any():
            raise DatasetError(f"none of the {len(data)} rows has a label that is valid: label the dataset again")
        return kept.astype(np.float32)

    def build(self, shape: Shape) -> IQL:
        """Return the agent with fresh weights."""
        return IQL(shape, self)


def expectile_loss(difference: torch.Tensor, expectile: float) -> torch.Tensor:
    """Return ``mean(|expectile - 1(u < 0)| u^2)`` of differences u."""
    return (torch.abs(expectile - (difference < 0).float()) * difference**2).mean()


def advantage_weights(advantage: torch.Tensor, beta: float, most: float) -> torch.Tensor:
    """Return ``min(exp(beta u), most)`` of advantages u."""
    return torch.exp(beta * advantage).clamp(max=most)


class Q(nn.Module):
    """Values of actions.

    Args:
        shape: What the policy takes and gives.
        hidden: Widths of the hidden layers.
    """

    def __init__(self, shape: Shape, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self._discrete = shape.discrete
        inputs = shape.observation if shape.discrete else shape.observation + shape.actions
        self.net = make_mlp(inputs, hidden, shape.actions if shape.discrete else 1)

    def forward(self, observation: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Return the value of each action in its state, shape (B,)."""
        if self._discrete:
            return self.net(observation).gather(1, action[:, None])[:, 0]
        return self.net(torch.cat([observation, action], dim=1))[:, 0]


class IQL(OfflineAgent):
    """The agent.

    Args:
        shape: What its policy takes and gives.
        settings: Hyper-parameters.
    """

    def __init__(self, shape: Shape, settings: IQLSettings) -> None:
        super().__init__(shape, settings.hidden)
        self.settings = settings
        self.value = make_mlp(shape.observation, settings.hidden, 1)
        self.q = nn.ModuleList([Q(shape, settings.hidden) for _ in range(2)])
        self.target = copy.deepcopy(self.q).requires_grad_(False)
        for name in ("policy", "value", "q"):
            parameters = getattr(self, name).parameters()
            self.optimisers[name] = torch.optim.Adam(parameters, lr=settings.learning_rate, fused=True)

    def update(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Take one step of all networks.

        Value: ``L_V = E |expectile - 1(u < 0)| u^2`` with ``u = min Q_target(s, a) - V(s)``. Policy:
        ``L_pi = E min(exp(beta u), most_weight) (-log pi(a | s))``. Q:
        ``L_Q = E (r + gamma (1 - d) V(s') - Q(s, a))^2``, with d at true ends only.
        """
        s = self.settings
        with torch.no_grad():
            best = torch.minimum(*(q(batch.observation, batch.action) for q in self.target))

        value = self.value(batch.observation)[:, 0]
        value_loss = expectile_loss(best - value, s.expectile)
        self._step("value", value_loss)

        with torch.no_grad():
            advantage = best - self.value(batch.observation)[:, 0]
            following = self.value(batch.next_observation)[:, 0]
            wanted = batch.reward + s.gamma * (1 - batch.terminated) * following

        weights = advantage_weights(advantage, s.beta, s.most_weight)
        policy_loss = -(weights * self.policy(batch.observation).log_prob(batch.action)).mean()
        self._step("policy", policy_loss)

        losses = [F.mse_loss(q(batch.observation, batch.action), wanted) for q in self.q]
        q_loss = torch.stack(losses).sum()
        self._step("q", q_loss)

        with torch.no_grad():
            for kept, new in zip(self.target.parameters(), self.q.parameters(), strict=True):
                kept.lerp_(new, s.tau)
        return {
            "value_loss": value_loss.detach(),
            "policy_loss": policy_loss.detach(),
            "q_loss": q_loss.detach() / 2,
            "value": value.detach().mean(),
            "weight": weights.mean(),
        }

    def _step(self, name: str, loss: torch.Tensor) -> None:
        self.optimisers[name].zero_grad(set_to_none=True)
        loss.backward()
        self.optimisers[name].step()
