"""Behaviour cloning: do what the dataset shows; of all of it, of its best episodes, or weighted by labelled progress.

The weights are those of RA-BC (SARM, arXiv 2509.25358, and its port in LeRobot): a step counts by how far the task
moves on after it. What differs from LeRobot's: a frame whose progress is not known has weight 0 here, and 1 there.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from vlmreward.agents.offline_agent import Batch, OfflineAgent, check_network
from vlmreward.agents.offline_data import OfflineData, Shape
from vlmreward.errors import ConfigError, DatasetError
from vlmreward.registry import suggest
from vlmreward.types import FloatArray

Episodes = Literal["all", "success", "top"]
Weights = Literal["none", "progress"]


@dataclass(frozen=True)
class BCSettings:
    """Hyper-parameters.

    Attributes:
        episodes: Which are imitated: ``all``, those of recorded ``success``, or the ``top`` ones by return.
        top: Share of the episodes that count as the top ones, in (0, 1].
        weights: ``progress`` weights steps by labelled progress (RA-BC).
        lookahead: Steps over which progress is looked at; for a policy that gives chunks of actions, their length.
        kappa: A gain of progress from which on a step counts in full.
        epsilon: Keeps divisions finite.
        learning_rate: Of the policy.
        batch_size: Rows of an update.
        hidden: Widths of the policy's hidden layers.
    """

    episodes: Episodes = "all"
    top: float = 0.25
    weights: Weights = "none"
    lookahead: int = 10
    kappa: float = 0.01
    epsilon: float = 1e-6
    learning_rate: float = 3e-4
    batch_size: int = 256
    hidden: tuple[int, ...] = (256, 256)

    def __post_init__(self) -> None:
        """Check the numbers and words."""
        object.__setattr__(self, "hidden", check_network(self.hidden, self.learning_rate))
        for name, value, words in (("episodes", self.episodes, Episodes), ("weights", self.weights, Weights)):
            if value not in get_args(words):
                raise ConfigError(f"unknown agent.{name}={value!r}: {suggest(str(value), get_args(words))}")
        if not 0 < self.top <= 1:
            raise ConfigError(f"agent.top of bc must be above 0 and at most 1, got {self.top!r}")
        if self.lookahead < 1 or self.kappa < 0 or self.epsilon <= 0:
            raise ConfigError(
                f"agent.lookahead must be at least 1, kappa at least 0 and epsilon above 0, got {self.lookahead!r}, "
                f"{self.kappa!r} and {self.epsilon!r}"
            )

    def weigh(self, data: OfflineData) -> FloatArray:
        """Return how much each row counts.

        Raises:
            VlmRewardError: The data lacks what the settings ask for, or no row is left.
        """
        if data.column and self.episodes != "top" and self.weights == "none":
            raise ConfigError(
                f"labels={data.column} is not used by agent=bc with episodes={self.episodes}: leave it out, or set "
                "agent.episodes=top or agent.weights=progress"
            )
        weights = np.ones(len(data), np.float32)
        if self.episodes == "success":
            weights *= _of_episodes(data, _find_successes(data))
        elif self.episodes == "top":
            weights *= _of_episodes(data, find_top(data, self.top)) * data.valid
        if self.weights == "progress":
            weights *= weigh_by_progress(data, self)
        if not (weights > 0).any():
            raise DatasetError("no row is left to imitate: take more episodes, another lookahead, or other labels")
        return weights

    def build(self, shape: Shape) -> BC:
        """Return the agent with fresh weights."""
        return BC(shape, self)


def find_top(data: OfflineData, share: float) -> list[int]:
    """Return the episodes of the highest returns, best first, at least one.

    A row without a label counts as the mean of the episode's others; an episode without any is left out.

    Args:
        data: The dataset.
        share: Of its episodes.

    Raises:
        DatasetError: There are no rewards.
    """
    if data.label is None:
        raise DatasetError("agent.episodes=top needs rewards, the dataset has none: name labels=reward_vlm")
    returns: dict[int, float] = {}
    for episode in range(data.episodes):
        rows = data.rows(episode)
        labels = data.label[rows][data.valid[rows]].astype(np.float64)
        if len(labels):
            returns[episode] = float(labels.mean()) * (rows.stop - rows.start)
    best = sorted(returns, key=lambda episode: -returns[episode])
    return best[: max(1, math.ceil(share * data.episodes))]


def progress_weights(
    progress: Sequence[FloatArray], lookahead: int, kappa: float = 0.01, epsilon: float = 1e-6
) -> list[FloatArray]:
    """Return RA-BC's weight of every frame.

    With ``r_t = p[min(t + D, last)] - p[t]``, ``mu = max(mean r, 0)`` and ``sd = max(std r, epsilon)`` over all frames:
    ``w = 1`` where ``r > kappa``, ``clip((r - (mu - 2 sd)) / (4 sd + epsilon), 0, 1)`` where ``0 <= r <= kappa``, and
    else 0.

    Args:
        progress: Of the frames of each episode, in [0, 1]; NaN where it is not known.
        lookahead: D, steps.
        kappa: A gain that counts in full.
        epsilon: Keeps divisions finite.

    Returns:
        For each episode as many weights as frames, float32 in [0, 1]; 0 where a progress is not known.
    """
    gains = []
    for episode in progress:
        p = np.asarray(episode, np.float64)
        later = np.minimum(np.arange(len(p)) + lookahead, len(p) - 1)
        gains.append(p[later] - p)
    every = np.concatenate(gains)
    known = every[~np.isnan(every)]
    if not len(known):
        return [np.zeros(len(gain), np.float32) for gain in gains]
    mean, std = max(float(known.mean()), 0.0), max(float(known.std()), epsilon)
    weights = []
    for gain in gains:
        soft = np.clip((gain - (mean - 2 * std)) / (4 * std + epsilon), 0.0, 1.0)
        weight = np.where(gain > kappa, 1.0, np.where(gain >= 0, soft, 0.0))
        weights.append(np.where(np.isnan(gain), 0.0, weight).astype(np.float32))
    return weights


def weigh_by_progress(data: OfflineData, settings: BCSettings) -> FloatArray:
    """Return RA-BC's weight of every row of a dataset whose labels are progress.

    The label of row t is the progress of frame t + 1, and what row t is weighted by begins at frame t: the first row of
    an episode has weight 0, for nobody labelled the frame before it.

    Raises:
        DatasetError: There are no labels, or they don't lie in [0, 1].
    """
    if data.label is None:
        raise DatasetError(
            "agent.weights=progress needs labels of progress: name their column, labels=reward_vlm_progress"
        )
    labels = data.label[data.valid]
    if len(labels) and not (labels.min() >= 0 and labels.max() <= 1):
        raise DatasetError(
            f"agent.weights=progress needs labels in [0, 1], {data.column or 'the recorded reward'} goes from "
            f"{labels.min():.3g} to {labels.max():.3g}: name a column of progress"
        )
    known = np.where(data.valid, data.label, np.nan)
    frames = []
    for episode in range(data.episodes):
        progress = np.concatenate([[np.nan], known[data.rows(episode)]])
        # without a frame after the last action, the last one there is is the one before it
        frames.append(progress if data.frames_end[episode] else progress[:-1])
    weights = progress_weights(frames, settings.lookahead, settings.kappa, settings.epsilon)
    rows = [weight[: data.rows(e).stop - data.rows(e).start] for e, weight in enumerate(weights)]
    flat = np.concatenate(rows)
    _warn_of(flat, labels)
    return flat


def _warn_of(weights: FloatArray, labels: FloatArray) -> None:
    unknown = float((weights == 0).mean())
    if len(labels) and labels.min() == labels.max():
        warnings.warn("labelled progress never changes: this is behaviour cloning without weights", stacklevel=3)
    elif unknown > 0.9:
        warnings.warn(f"{unknown:.0%} of the rows have weight 0: is this column progress?", stacklevel=3)


def _find_successes(data: OfflineData) -> list[int]:
    found = [episode for episode, success in enumerate(data.success) if success]
    if not found:
        known = sum(success is not None for success in data.success)
        raise DatasetError(
            f"agent.episodes=success finds no successful episode ({known} of {data.episodes} have a recorded outcome): "
            "use agent.episodes=top with rewards"
        )
    return found


def _of_episodes(data: OfflineData, episodes: Sequence[int]) -> FloatArray:
    chosen = np.zeros(len(data), np.float32)
    for episode in episodes:
        chosen[data.rows(episode)] = 1.0
    return chosen


def normalise_weights(weights: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return the weights of a batch so that they are 1 on average: ``w B / (sum w + epsilon)``."""
    return weights * len(weights) / (weights.sum() + epsilon)


class BC(OfflineAgent):
    """The agent.

    Args:
        shape: What its policy takes and gives.
        settings: Hyper-parameters.
    """

    def __init__(self, shape: Shape, settings: BCSettings) -> None:
        super().__init__(shape, settings.hidden)
        self.settings = settings
        self.optimisers["policy"] = torch.optim.Adam(self.policy.parameters(), lr=settings.learning_rate, fused=True)

    def update(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Take one step up the weighted likelihood of the recorded actions."""
        weights = normalise_weights(batch.weight, self.settings.epsilon)
        loss = -(weights * self.policy(batch.observation).log_prob(batch.action)).mean()
        optimiser = self.optimisers["policy"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return {"policy_loss": loss.detach(), "weight": batch.weight.mean()}
