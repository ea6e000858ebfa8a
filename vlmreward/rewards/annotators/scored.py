"""A reward model as judge: the frame with the higher reward is the better one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlmreward.errors import ConfigError
from vlmreward.rewards.annotators.answers import Answer, Rating
from vlmreward.rewards.settings import check_number
from vlmreward.types import Encoder, FrameBatch, RewardModel


class RewardAnnotator:
    """Compares and rates frames by the reward of a model that scores single frames.

    Args:
        model: With context ``"frame"``.
        margin: Difference of rewards below which a pair is ``unsure``.

    Attributes:
        of: The model.

    Raises:
        ConfigError: The model needs more than single frames, or the margin is negative.
    """

    calls_per_frame = 1

    def __init__(self, model: RewardModel, margin: float = 0.0) -> None:
        if model.context != "frame" or not set(model.needs) <= {"embeddings", "frames"}:
            raise ConfigError(f"{type(model).__name__} scores no single frames: choose another reward as annotator")
        self.margin = check_number("margin", margin, 0)
        self.of = model
        judge = getattr(model, "judge", None)
        self.privileged = judge is not None and judge.privileged
        self.calls_per_pair = 1 if judge is None else 2  # a judge is asked about both frames
        self.calls = 0

    def compare(self, first: FrameBatch, second: FrameBatch) -> list[Answer]:
        """Return an answer for each pair."""
        self.calls += self.calls_per_pair * len(first)
        pairs = zip(self._score(first), self._score(second), strict=True)
        return [self._choose(one, other) for one, other in pairs]

    def rate(self, batch: FrameBatch) -> list[Rating]:
        """Return where in the model's range each frame's reward lies."""
        self.calls += len(batch)
        low, high = self.of.range
        return [
            Rating(None, scored) if isinstance(scored, str) else Rating(min(max((scored - low) / (high - low), 0), 1))
            for scored in self._score(batch)
        ]

    def _score(self, batch: FrameBatch) -> list[float | str]:
        """Return the reward of each frame, or why it has none."""
        scored = self.of.compute_reward(batch)
        return [
            reward if valid and np.isfinite(reward) else scored.reasons.get(row, "the reward is not finite")
            for row, (reward, valid) in enumerate(zip(scored.reward.tolist(), scored.valid.tolist(), strict=True))
        ]

    def _choose(self, first: float | str, second: float | str) -> Answer:
        for reward in (first, second):
            if isinstance(reward, str):
                return Answer("invalid", reward)
        gain = float(second) - float(first)
        if abs(gain) <= self.margin:
            return Answer("unsure", f"the rewards differ by {abs(gain):.3g}")
        return Answer("second" if gain > 0 else "first")


def make_reward_annotator(
    encoder: Encoder, goal: tuple[str, ...], of: Mapping[str, Any] | None = None, margin: float = 0.0
) -> RewardAnnotator:
    """Compares and rates frames by another reward, ``of``: ``clip`` if none is given.

    Args:
        encoder: Of frames and prompts.
        goal: What the other reward gets as its goal.
        of: Its config.
        margin: As for RewardAnnotator.
    """
    from vlmreward.rewards import make_reward_from_config

    model, _ = make_reward_from_config(of or {"name": "clip"}, encoder, goal=list(goal))
    return RewardAnnotator(model, margin)
