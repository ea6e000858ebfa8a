"""A reward model as judge: the frame with the higher reward is the better one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlmreward.errors import ConfigError
from vlmreward.rewards.annotators.answers import Answer, Rating
from vlmreward.rewards.settings import check_number
from vlmreward.types import Encoder, FloatArray, FrameBatch, RewardModel


class RewardAnnotator:
    """Compares and rates frames by the reward of a model that scores single frames.

    Args:
        model: With context ``"frame"``.
        margin: Difference of rewards below which a pair is ``unsure``.

    Raises:
        ConfigError: The model needs more than single frames, or the margin is negative.
    """

    calls_per_pair = calls_per_frame = 1
    privileged = False

    def __init__(self, model: RewardModel, margin: float = 0.0) -> None:
        if model.context != "frame" or not set(model.needs) <= {"embeddings", "frames"}:
            raise ConfigError(f"{type(model).__name__} scores no single frames: choose another reward as annotator")
        self.margin = check_number("margin", margin, 0)
        self._model = model
        self.calls = 0

    def compare(self, first: FrameBatch, second: FrameBatch) -> list[Answer]:
        """Return an answer for each pair."""
        self.calls += len(first)
        gain = self._score(second) - self._score(first)
        return [_choose(value, self.margin) for value in gain.tolist()]

    def rate(self, batch: FrameBatch) -> list[Rating]:
        """Return where in the model's range each frame's reward lies."""
        self.calls += len(batch)
        low, high = self._model.range
        share = np.clip((self._score(batch) - low) / (high - low), 0, 1)
        return [
            Rating(value) if value == value else Rating(None, "the reward is not finite") for value in share.tolist()
        ]

    def _score(self, batch: FrameBatch) -> FloatArray:
        scored = self._model.compute_reward(batch)
        return np.where(scored.valid, scored.reward, np.nan).astype(np.float32)


def _choose(gain: float, margin: float) -> Answer:
    if gain != gain:
        return Answer("invalid", "a reward is not finite")
    if abs(gain) <= margin:
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
