"""Rollout buffers for on-policy algorithms whose rewards are scored when the rollout is complete."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from vlmreward.errors import ConfigError, RenderingError
from vlmreward.types import BoolArray, FloatArray
from vlmreward.wrappers.scorer import Scorer

_TENSORS = ("observations", "actions", "values", "log_probs", "advantages", "returns")

# What the mixin stands on; at run time it stands beside the class of Stable-Baselines3, in front of it.
if TYPE_CHECKING:
    _Base = RolloutBuffer
else:
    _Base = object


def compute_gae(
    rewards: FloatArray,
    values: FloatArray,
    episode_starts: FloatArray,
    valid: BoolArray,
    last_values: FloatArray,
    dones: np.ndarray,
    gamma: float,
    gae_lambda: float,
) -> FloatArray:
    """Return advantages by generalised advantage estimation, cut at rows whose reward is unknown.

    Nothing is carried over an invalid row: the row before it ends its segment and bootstraps with the value of its
    next state, as at the end of a rollout. An invalid row has advantage 0 and must not be learned from.

    Args:
        rewards: Shape (n, n_envs); a time limit's bootstrap is already added.
        values: Values of the states, shape (n, n_envs).
        episode_starts: 1 where a state is the first of its episode, shape (n, n_envs).
        valid: False where the reward is unknown, shape (n, n_envs).
        last_values: Values of the states after the last row, shape (n_envs,).
        dones: True where the last row ended an episode, shape (n_envs,).
        gamma: Discount factor.
        gae_lambda: 0 for one-step, 1 for Monte-Carlo estimates.

    Returns:
        float32, shape (n, n_envs).
    """
    advantages = np.zeros_like(values)
    carried = np.zeros_like(last_values)
    next_values, running = last_values, 1.0 - dones.astype(np.float32)
    for row in reversed(range(len(rewards))):
        delta = rewards[row] + gamma * next_values * running - values[row]
        carried = np.where(valid[row], delta + gamma * gae_lambda * running * carried, np.float32(0))
        advantages[row] = carried
        next_values, running = values[row], 1.0 - episode_starts[row]
    return advantages


class ScoredRolloutMixin(_Base):
    """Adds the scored rewards to what an on-policy algorithm has put into its rollout buffer.

    What the algorithm passes to :meth:`add` as reward is only the bootstrap of time limits, because the environment's
    step reward is the placeholder 0. The rewards are scored in :meth:`compute_returns_and_advantage`, the statistics
    of the transform are updated once per rollout, before they are applied, and rows that could not be scored never
    appear in :meth:`get`.

    Args:
        *args: As for the class of Stable-Baselines3.
        scorer: The scorer of the algorithm's VecCaptureFrames.
        **kwargs: As for the class of Stable-Baselines3.
    """

    def __init__(self, *args: Any, scorer: Scorer, **kwargs: Any) -> None:
        self.scorer = scorer
        self._newest = scorer.last_ticket
        super().__init__(*args, **kwargs)
        scorer.require_history(self.buffer_size)

    def reset(self) -> None:
        """Empty the buffer."""
        super().reset()
        shape = (self.buffer_size, self.n_envs)
        self.tickets = np.full(self.buffer_size, -1, dtype=np.int64)
        self.raw: FloatArray = np.zeros(shape, np.float32)
        self.valid: BoolArray = np.zeros(shape, bool)
        self._bootstraps: FloatArray | None = None

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add the transitions of one vec step; see Stable-Baselines3.

        Raises:
            ConfigError: The scorer has not seen a step since the last call.
        """
        ticket = self.scorer.last_ticket
        if ticket <= self._newest:
            raise ConfigError(
                f"{type(self).__name__} got a step that its scorer has not seen: give the algorithm the "
                "VecCaptureFrames that was built with this scorer"
            )
        self.tickets[self.pos] = self._newest = ticket
        super().add(*args, **kwargs)

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: np.ndarray) -> None:
        """Score the rollout's frames, then compute advantages and returns.

        Args:
            last_values: Values of the states after the last row, one per environment.
            dones: True where the last row ended an episode, one per environment.

        Raises:
            ConfigError: Rows of a running episode have no reward yet (context ``"episode"``).
            RenderingError: No row could be scored.
        """
        if self._bootstraps is None:
            self._bootstraps = self.rewards.copy()
            self.rewards = self._bootstraps + self._score()
        values = last_values.detach().cpu().numpy().flatten()
        self.advantages = compute_gae(
            self.rewards, self.values, self.episode_starts, self.valid, values, dones, self.gamma, self.gae_lambda
        )
        self.returns = self.advantages + self.values

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Yield the valid rows once, in random order, in minibatches.

        Args:
            batch_size: Rows per minibatch; None for all in one.
        """
        assert self.full, "a rollout is learned from when it is complete"
        rows = np.random.permutation(np.flatnonzero(self.swap_and_flatten(self.valid)))
        if not self.generator_ready:
            for name in _TENSORS:
                value = getattr(self, name)
                if isinstance(value, dict):
                    setattr(self, name, {key: self.swap_and_flatten(array) for key, array in value.items()})
                else:
                    setattr(self, name, self.swap_and_flatten(value))
            self.generator_ready = True
        size = batch_size or len(rows)
        for start in range(0, len(rows), size):
            yield self._get_samples(rows[start : start + size])

    def _score(self) -> FloatArray:
        """Return what is learned for each row, shape (buffer_size, n_envs); 0 where it is not valid."""
        first, last = int(self.tickets[0]), int(self.tickets[-1])
        scores = self.scorer.scores(first, last)
        rows = self.tickets - first
        missing = int((~scores.scored[rows]).sum())
        if missing:
            name = type(self.scorer.reward_model).__name__
            raise ConfigError(
                f"{missing} rows of the rollout belong to running episodes, which {name} scores at their end: make "
                "n_steps a multiple of a fixed episode length, or use an off-policy algorithm"
            )
        self.raw, self.valid = scores.raw[rows], scores.valid[rows]
        if not self.valid.any():
            reasons = ", ".join(self.scorer.stats()["reasons"]) or "unknown reason"
            raise RenderingError(
                f"none of the rollout's {self.valid.size} frames could be scored ({reasons}): look at what the "
                "environment renders"
            )
        env_reward, parts = scores.env_reward[rows], scores.parts[rows]
        self.scorer.transform.update(self.raw, self.valid, env_reward, parts)
        learned = self.scorer.transform.apply(self.raw, env_reward, parts)
        return np.where(self.valid, learned, np.float32(0))


class ScoredRolloutBuffer(ScoredRolloutMixin, RolloutBuffer):
    """Rollout buffer with scored rewards; give it as ``rollout_buffer_class``, and the scorer in its kwargs."""


class ScoredDictRolloutBuffer(ScoredRolloutMixin, DictRolloutBuffer):
    """The same for dictionary observations."""


def choose_rollout_buffer(observation_space: spaces.Space) -> type[ScoredRolloutMixin]:
    """Return the class for these observations."""
    return ScoredDictRolloutBuffer if isinstance(observation_space, spaces.Dict) else ScoredRolloutBuffer
