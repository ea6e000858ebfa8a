"""From a model's raw reward to the number an agent learns from: normalise, scale, combine.

Raw rewards are what is stored; the transform is applied when they are used, so that statistics which moved on
since a frame was scored apply to it as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from vlmreward.errors import CheckpointError, ConfigError, NonFiniteError
from vlmreward.rewards.settings import check_choice, check_number
from vlmreward.rewards.shaping import LagrangeWeights
from vlmreward.types import FloatArray

Normalise = Literal["none", "running"]
Combine = Literal["replace", "add", "env"]

TRANSFORM_KEYS = ("scale", "normalise", "combine", "env_weight")
"""The settings of :class:`RewardTransform`, as they stand in ``configs/reward``."""

MIN_STD = 1e-3
"""Smallest standard deviation that rewards are divided by.

Encoding in bfloat16 moves a reward by up to about 1e-3 (``benchmarks/formula.py``), storing embeddings in float16 by up
to 1e-4. Rewards that spread less than this are mostly such noise, and must not be blown up to unit spread.
"""


@dataclass(frozen=True)
class RunningStats:
    """Count, mean and sum of squared deviations of every value seen.

    Attributes:
        count: Number of values.
        mean: Their mean; 0 when there are none.
        m2: Sum of squared deviations from the mean.
    """

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0

    def merged(self, values: npt.NDArray[np.float64]) -> RunningStats:
        """Return the statistics with more values taken in, shape (K,), K > 0.

        Two sets merge exactly (Chan, Golub and LeVeque 1979), so how values are cut into batches does not matter
        beyond rounding.
        """
        count = self.count + len(values)
        mean = float(values.mean())
        shift = mean - self.mean
        m2 = self.m2 + float(((values - mean) ** 2).sum()) + shift**2 * self.count * len(values) / count
        return RunningStats(count, self.mean + shift * len(values) / count, m2)

    @property
    def std(self) -> float:
        """Divisor of the rewards: the standard deviation, at least ``MIN_STD``; 1 while fewer than 2 values are in."""
        return max(math.sqrt(self.m2 / self.count), MIN_STD) if self.count >= 2 else 1.0


class RewardTransform:
    """Turn raw rewards into what the agent learns from: ``scale * normalise(raw) [+ env_weight * env_reward]``.

    ``combine="env"`` is the baseline to compare with: the environment's own hand-written reward takes the model's place
    and goes through the same normalisation and scale, so that the reward is the only difference between two runs.

    ``normalise="running"`` subtracts the mean and divides by the standard deviation of all valid rewards so far. A
    subtracted mean is harmless where episodes have a fixed length; where they can end early it changes what an
    episode's length is worth, and ``"none"`` keeps the model's own zero.

    Args:
        scale: Factor of the (normalised) model reward, > 0.
        normalise: ``"none"`` or ``"running"``.
        combine: ``"replace"`` drops the environment's own reward, ``"add"`` adds it, never normalised; ``"env"`` drops
            the model's reward and learns from the environment's own.
        env_weight: Factor of the environment's own reward in ``"add"``, >= 0.
        frozen: True for evaluation: :meth:`update` does nothing.
        weights: Weighs parts of the reward before all else, and learns how from the rows of :meth:`update`; None for
            rewards that are one number. Not used in ``combine="env"``.

    Raises:
        ConfigError: A setting is unknown or out of range.
    """

    def __init__(
        self,
        scale: float = 1.0,
        normalise: Normalise = "none",
        combine: Combine = "replace",
        env_weight: float = 1.0,
        frozen: bool = False,
        weights: LagrangeWeights | None = None,
    ) -> None:
        check_choice("normalise", normalise, get_args(Normalise))
        check_choice("combine", combine, get_args(Combine))
        self.scale = check_number("scale", scale, 0, above=True)
        self.normalise: Normalise = normalise
        self.combine: Combine = combine
        self.env_weight = check_number("env_weight", env_weight, 0)
        self.frozen = frozen
        # Immutable objects, replaced whole: a thread that applies while another updates sees matching numbers.
        self._stats = RunningStats()
        self._weights = None if combine == "env" else weights

    @property
    def stats(self) -> RunningStats:
        """Statistics of the raw rewards taken in so far."""
        return self._stats

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts of a reward that are weighed, K; they are stored beside the raw rewards."""
        return () if self._weights is None else self._weights.names

    def update(
        self,
        raw: npt.NDArray[np.floating],
        valid: npt.NDArray[np.bool_],
        env_reward: npt.NDArray[np.floating] | None = None,
        parts: npt.NDArray[np.floating] | None = None,
    ) -> None:
        """Take the valid rows into the weights and the running statistics; nothing when frozen.

        Args:
            raw: Rewards of the model, any shape.
            valid: False where a row could not be scored, same shape.
            env_reward: The environment's own rewards, same shape; needed by ``combine="env"`` alone.
            parts: The parts that are weighed, that shape and K behind it; needed where there are weights.

        Raises:
            ConfigError: ``combine="env"`` and there is no environment reward of that shape.
            NonFiniteError: A row that is marked valid is not finite.
        """
        if self.frozen:
            return
        rows = np.asarray(valid, dtype=bool)
        if self._weights is not None and rows.any():
            assert parts is not None
            self._weights = self._weights.updated(parts[rows])
        if self.normalise == "none":
            return
        source = self._env_reward(env_reward, np.shape(raw)) if self.combine == "env" else self._weighed(raw, parts)
        values = source[rows].astype(np.float64)
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            cure = "mend the environment's reward" if self.combine == "env" else "mark such rows invalid"
            raise NonFiniteError(f"{bad} of {values.size} rewards marked valid are not finite: {cure}")
        if values.size:
            self._stats = self._stats.merged(values)

    def restart(self) -> None:
        """Forget the running statistics, because rewards are labelled anew; nothing when frozen."""
        if not self.frozen:
            self._stats = RunningStats()

    def apply(
        self,
        raw: npt.NDArray[np.floating],
        env_reward: npt.NDArray[np.floating] | None = None,
        parts: npt.NDArray[np.floating] | None = None,
    ) -> FloatArray:
        """Return the rewards to learn from; the statistics stay as they are.

        Args:
            raw: Rewards of the model, any shape; NaN (not scored) stays NaN.
            env_reward: The environment's own rewards, same shape; needed by ``combine="add"`` and ``"env"``.
            parts: The parts that are weighed, that shape and K behind it; needed where there are weights.

        Returns:
            float32, the shape of ``raw``.

        Raises:
            ConfigError: There is no environment reward of that shape where it is needed.
        """
        reward = self._weighed(raw, parts)
        if self.combine == "env":  # a row that could not be scored is left out here as everywhere
            reward = np.where(np.isnan(reward), np.nan, self._env_reward(env_reward, reward.shape))
        if self.normalise == "running":
            stats = self._stats
            reward = (reward - stats.mean) / stats.std
        reward = self.scale * reward
        if self.combine == "add":
            reward = reward + self.env_weight * self._env_reward(env_reward, reward.shape)
        return reward.astype(np.float32)

    def _weighed(
        self, raw: npt.NDArray[np.floating], parts: npt.NDArray[np.floating] | None
    ) -> npt.NDArray[np.float64]:
        if self._weights is None:
            return np.asarray(raw, dtype=np.float64)
        assert parts is not None
        return self._weights.combine(raw, parts)

    def _env_reward(
        self, env_reward: npt.NDArray[np.floating] | None, shape: tuple[int, ...]
    ) -> npt.NDArray[np.float64]:
        if env_reward is None or np.shape(env_reward) != shape:
            got = "none" if env_reward is None else f"shape {np.shape(env_reward)}"
            raise ConfigError(
                f"combine={self.combine} needs the environment's own rewards of shape {shape}, got {got}: "
                "give them or set combine=replace"
            )
        return np.asarray(env_reward, dtype=np.float64)

    def frozen_copy(self) -> RewardTransform:
        """Return a frozen transform with the same settings and the statistics and weights of now, for evaluation."""
        copy = RewardTransform(
            self.scale, self.normalise, self.combine, self.env_weight, frozen=True, weights=self._weights
        )
        copy._stats = self._stats
        return copy

    def log_values(self) -> dict[str, float]:
        """Return what a log should hold, by key: the weight of each part."""
        if self._weights is None:
            return {}
        return {f"reward/weight/{name}": weight for name, weight in self._weights.shares().items()}

    def state_dict(self) -> dict[str, Any]:
        """Return statistics and multipliers as plain numbers; the settings are config, not state."""
        state: dict[str, Any] = asdict(self._stats)
        return state if self._weights is None else {**state, "multipliers": list(self._weights.multipliers)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned, also when frozen.

        Raises:
            CheckpointError: A number is missing, not finite or impossible.
        """
        weights = None if self._weights is None else self._weights.restored(state.get("multipliers"))
        try:
            stats = RunningStats(int(state["count"]), float(state["mean"]), float(state["m2"]))
        except (KeyError, TypeError, ValueError) as e:
            raise CheckpointError(f"reward statistics must hold numbers count, mean and m2, got {dict(state)}") from e
        if stats.count < 0 or not math.isfinite(stats.mean) or not math.isfinite(stats.m2) or stats.m2 < 0:
            raise CheckpointError(f"reward statistics are damaged: count, m2 >= 0 and all finite, got {dict(state)}")
        self._stats, self._weights = stats, weights
