"""Reward models made of several others on the same frames; the formulas and their sources are in ``shaping``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from vlmreward.errors import ConfigError
from vlmreward.rewards.settings import check_number
from vlmreward.rewards.shaped import Reference, check_reference, initial_rewards, known_rewards
from vlmreward.rewards.shaping import LagrangeWeights, product, soft_and, unit_range
from vlmreward.rewards.transform import RewardTransform
from vlmreward.types import Context, FloatArray, FrameBatch, RewardBatch, RewardModel

_WIDTHS: tuple[Context, ...] = get_args(Context)  # from the narrowest to the widest


class CompositeReward(ABC):
    """A reward of several models' rewards of the same rows.

    Args:
        parts: The models by name, two or more.

    Attributes:
        parts: The same.
        context: The widest of the parts.
        causal: Whether all parts are.
        range: Smallest and largest possible reward, before scaling.
        needs: The batch fields that any part reads.

    Raises:
        ConfigError: There are fewer than two.
    """

    range: tuple[float, float]

    def __init__(self, parts: Mapping[str, RewardModel]) -> None:
        if len(parts) < 2:
            raise ConfigError(
                f"{type(self).__name__} combines two or more rewards, got {len(parts)}: repeat goal=..., one for each"
            )
        self.parts = dict(parts)
        models = list(self.parts.values())
        contexts: list[Context] = [model.context for model in models]
        self.context: Context = max(contexts, key=_WIDTHS.index)
        self.causal: bool = all(model.causal for model in models)
        needs = [field for model in models for field in model.needs]
        if any(model.context == "pair" for model in models):
            needs.append("previous")
        self.needs: tuple[str, ...] = tuple(dict.fromkeys(needs))

    @abstractmethod
    def _combine(self, rewards: FloatArray, batch: FrameBatch) -> FloatArray:
        """Return rewards, shape (N,), of the K parts' rewards, shape (K, N), NaN where one is not known."""

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        """Score every row of the batch.

        Args:
            batch: N rows with the fields that ``needs`` names.

        Returns:
            Rewards of N rows, and each part's in ``parts`` under its name. A row is valid where all parts are.

        Raises:
            FramesError: The batch lacks what a part needs.
        """
        scored = {name: model.compute_reward(batch) for name, model in self.parts.items()}
        rewards = np.stack([known_rewards(result) for result in scored.values()])
        combined = self._combine(rewards, batch)
        valid = np.isfinite(combined)
        reasons = dict.fromkeys(np.flatnonzero(~valid).tolist(), "no valid initial frame")
        for result in scored.values():
            reasons |= result.reasons
        return RewardBatch(combined, valid, parts=dict(zip(scored, rewards, strict=True)), reasons=reasons)


class SoftAndReward(CompositeReward):
    """How likely all rewards are good, as a logarithm; see ``shaping.soft_and``.

    Args:
        parts: The models by name, two or more.
        reference: Reward that is as good as not: ``"initial"``, the one that the episode began with, or a number.
        temperature: Difference of rewards that counts as one unit, > 0.

    Raises:
        ConfigError: A setting is out of range, there is one part, or a part can't score the initial frame.
    """

    def __init__(
        self, parts: Mapping[str, RewardModel], reference: Reference = "initial", temperature: float = 0.05
    ) -> None:
        super().__init__(parts)
        own = [field for model in parts.values() for field in check_reference("SoftAndReward", model, reference)]
        self.needs = tuple(dict.fromkeys((*self.needs, *own)))
        self.reference = reference
        self.temperature = check_number("temperature", temperature, 0, above=True)
        low, high = np.array([model.range for model in parts.values()]).T
        ends = np.array([low - high, high - low] if reference == "initial" else [low - reference, high - reference])
        least, most = soft_and(ends.T, 0.0, self.temperature)
        self.range = float(least), float(most)

    def _combine(self, rewards: FloatArray, batch: FrameBatch) -> FloatArray:
        if self.reference != "initial":
            return soft_and(rewards, self.reference, self.temperature)
        models = self.parts.values()
        against = [initial_rewards(model, batch, own) for model, own in zip(models, rewards, strict=True)]
        return soft_and(rewards, np.stack(against), self.temperature)


class ProductReward(CompositeReward):
    """Product of rewards, each mapped to [0, 1]: the hierarchical synthesis of VLM-RL with pictures alone.

    There (arXiv 2412.15544) the factors after the first are states of the simulator; ``shaping.driving_product`` is
    that formula. Here every factor is a reward model's, and the reward stays one that anyone with a camera can have.

    Args:
        parts: The models by name, two or more.
        low: Reward that is worth nothing.
        high: Reward from which on more adds nothing, > ``low``.

    Raises:
        ConfigError: ``high`` is not above ``low``, or there is one part.
    """

    def __init__(self, parts: Mapping[str, RewardModel], low: float = 0.0, high: float = 1.0) -> None:
        super().__init__(parts)
        self.low = check_number("low", low)
        self.high = check_number("high", high)
        if self.high <= self.low:
            raise ConfigError(f"high must be above low={low}, got {high}")
        self.range = 0.0, 1.0

    def _combine(self, rewards: FloatArray, batch: FrameBatch) -> FloatArray:
        return product(unit_range(rewards, self.low, self.high))


class ConstrainedReward(CompositeReward):
    """The first part, under the constraint that the means of the others reach thresholds; see ``LagrangeWeights``.

    The model's own reward is the first part. The others go beside it into the buffers, and the transform weighs them
    when rewards are used: weights that moved on since a frame was scored apply to it as well.

    Args:
        parts: The models by name, two or more; the first is maximised.
        thresholds: What the means of the others must reach: a number for all, or one for each.
        rate: Step of a multiplier for a transition that misses its threshold by 1, > 0.
        limit: Largest multiplier, > 0.

    Raises:
        ConfigError: A setting is out of range, a threshold can't be reached or missed, or there is one part.
    """

    def __init__(
        self,
        parts: Mapping[str, RewardModel],
        thresholds: float | Sequence[float] = 0.5,
        rate: float = 1e-4,
        limit: float = 10.0,
    ) -> None:
        super().__init__(parts)
        main, *others = self.parts
        self.thresholds, self.rate = thresholds, check_number("rate", rate, 0, above=True)
        self.limit = check_number("limit", limit, 0, above=True)
        several = list(thresholds) if isinstance(thresholds, Sequence) else [thresholds] * len(others)
        if isinstance(thresholds, str) or len(several) != len(others):
            raise ConfigError(
                f"thresholds must be a number or {len(others)} of them, one for each part after the first, got "
                f"{thresholds!r}"
            )
        for name, threshold in zip(others, several, strict=True):
            low, high = self.parts[name].range
            if not low < check_number("thresholds", threshold) < high:
                raise ConfigError(
                    f"threshold {threshold} of {name!r} must lie inside the range of its reward, {low:.3g} to "
                    f"{high:.3g}"
                )
        self.range = self.parts[main].range
        self._start = LagrangeWeights(
            tuple(others), tuple(float(t) for t in several), self.rate, self.limit, (0.0,) * len(others)
        )

    def make_transform(self, **settings: Any) -> RewardTransform:
        """Build the transform that weighs the parts; the multipliers are its state.

        Args:
            **settings: Those of RewardTransform.

        Raises:
            ConfigError: A setting is unknown or out of range.
        """
        return RewardTransform(**settings, weights=self._start)

    def _combine(self, rewards: FloatArray, batch: FrameBatch) -> FloatArray:
        return np.where(np.isnan(rewards).any(axis=0), np.float32(np.nan), rewards[0])
