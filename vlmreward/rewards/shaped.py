"""Reward models that shape another one's rewards; the formulas and their sources are in ``shaping``.

None of them keeps state: what is compared with comes from the initial or the previous frame of the same episode, which
the wrappers hand over across the borders of rollouts, or from the rows of the episode where the inner model sees them
all. The first transition of an episode is compared with the frame of the reset.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vlmreward.errors import ConfigError, FramesError
from vlmreward.rewards.settings import check_number
from vlmreward.rewards.shaping import bounded_centred, clip_above, delta, potential, rewards_at
from vlmreward.rewards.transform import RewardTransform
from vlmreward.types import Context, FloatArray, FrameBatch, RewardBatch, RewardModel

Reference = float | Literal["initial"]
"""What a reward is centred on: a number, or the reward of the frame that its episode began with."""


def known_rewards(scored: RewardBatch) -> FloatArray:
    """Return the rewards of a batch, float32, shape (N,), with NaN for those that are not valid."""
    return np.where(scored.valid, scored.reward, np.nan).astype(np.float32)


def initial_rewards(model: RewardModel, batch: FrameBatch, rewards: FloatArray) -> FloatArray:
    """Return the reward of the frame that each row's episode began with, NaN where it is not known.

    Args:
        model: A model that :func:`check_reference` let through.
        batch: N rows.
        rewards: The model's rewards of them, NaN where not valid, shape (N,).

    Returns:
        float32, shape (N,).

    Raises:
        FramesError: The batch lacks the initial frames.
    """
    if model.context == "frame":
        return _score_frames(model, batch, "initial", batch.initial)
    return rewards_at(rewards, batch.episode, batch.step, 0)


def previous_rewards(model: RewardModel, batch: FrameBatch, rewards: FloatArray) -> FloatArray:
    """Return the reward of the frame before each row, NaN where it is not known; arguments as above."""
    if model.context == "frame":
        return _score_frames(model, batch, "previous", batch.previous)
    return rewards_at(rewards, batch.episode, batch.step, batch.step - 1)


def check_reference(name: str, model: RewardModel, reference: Reference) -> tuple[str, ...]:
    """Check what rewards are centred on, and return the batch fields that are needed beside the model's own.

    Args:
        name: Who centres, for the error message.
        model: Whose rewards are centred.
        reference: A number or ``"initial"``.

    Raises:
        ConfigError: It is neither, or the model gives a single frame no reward.
    """
    if reference != "initial":
        if isinstance(reference, str):
            raise ConfigError(f"reference must be a number or initial, got {reference!r}")
        check_number("reference", reference)
        return ()
    return _needs_other_frame(name, model, "initial")


def _needs_other_frame(name: str, model: RewardModel, field: str) -> tuple[str, ...]:
    """Return what must be handed over so that a model can score another frame of the episode."""
    if model.context == "pair" or (model.context == "frame" and "previous" in model.needs):
        raise ConfigError(
            f"{name} compares the rewards of two frames, and {type(model).__name__} needs two frames for one reward: "
            "choose a model that scores single frames or episodes so far"
        )
    if model.context == "frame" and "embeddings" not in model.needs:
        raise ConfigError(
            f"{name} compares the rewards of two frames, and {type(model).__name__} looks at pixels, which are not "
            "kept: choose a model on embeddings"
        )
    return (field,) if model.context == "frame" else ()


def _score_frames(
    model: RewardModel, batch: FrameBatch, name: str, embeddings: npt.NDArray[np.floating] | None
) -> FloatArray:
    if embeddings is None:
        raise FramesError(f"the batch lacks the {name} frames: give their embeddings, as the model's `needs` declares")
    return known_rewards(model.compute_reward(replace(batch, frames=None, embeddings=embeddings)))


class ShapedReward(ABC):
    """A function of another model's rewards.

    Args:
        of: The model whose rewards are shaped.

    Attributes:
        of: The same.
        context: What one row's reward depends on.
        causal: Whether no reward depends on a later frame.
        range: Smallest and largest possible reward, before scaling.
        needs: The batch fields the model reads.
    """

    range: tuple[float, float]
    missing: str
    """Why a row has no reward though its own frame has one."""

    def __init__(self, of: RewardModel) -> None:
        self.of = of
        self.context: Context = of.context
        self.causal: bool = of.causal
        self.needs: tuple[str, ...] = of.needs

    @abstractmethod
    def _shape(self, rewards: FloatArray, batch: FrameBatch) -> FloatArray:
        """Return the shaped rewards, NaN where one is not known, of the inner model's, shape (N,) both."""

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        """Score every row of the batch.

        Args:
            batch: N rows with the fields that ``needs`` names.

        Returns:
            Rewards of N rows; ``parts`` holds what the inner model said as ``unshaped`` beside the parts it reports
            itself. A row is invalid where the inner model has no reward for one of the frames compared.

        Raises:
            FramesError: The batch lacks what the model needs.
        """
        scored = self.of.compute_reward(batch)
        rewards = self._read(scored)
        shaped = self._shape(rewards, batch)
        valid = np.isfinite(shaped)
        reasons = {int(row): scored.reasons.get(int(row), self.missing) for row in np.flatnonzero(~valid)}
        return RewardBatch(shaped, valid, scored.success, {**scored.parts, "unshaped": rewards}, reasons)

    def _read(self, scored: RewardBatch) -> FloatArray:
        """Return what is shaped of what the inner model says, NaN where it is not known, shape (N,)."""
        return known_rewards(scored)

    def _compare_with_previous(self) -> None:
        """Declare that each frame is compared with the one before it."""
        self.needs = (*self.needs, *_needs_other_frame(type(self).__name__, self.of, "previous"))
        if self.context == "frame":
            self.context = "pair"


class ParReward(ShapedReward):
    """Bounded, centred reward: ``sigmoid((r - reference) / temperature)``, see ``shaping.bounded_centred``.

    The references of PAR are rewards of what the untrained policy does with the same prompt. Here it is the reward of
    the frame that the episode began with, which no policy has touched, or a number.

    Args:
        of: The model whose rewards are shaped.
        reference: ``"initial"`` or a number.
        temperature: Difference of rewards that counts as one unit, > 0.

    Raises:
        ConfigError: A setting is out of range, or the model can't score the initial frame.
    """

    missing = "no valid initial frame"

    def __init__(self, of: RewardModel, reference: Reference = "initial", temperature: float = 0.05) -> None:
        super().__init__(of)
        self.needs = tuple(dict.fromkeys((*of.needs, *check_reference("ParReward", of, reference))))
        self.reference = reference
        self.temperature = check_number("temperature", temperature, 0, above=True)
        low, high = of.range
        ends = np.array([low - high, high - low] if reference == "initial" else [low - reference, high - reference])
        least, most = bounded_centred(ends, 0.0, self.temperature)
        self.range = float(least), float(most)

    def _shape(self, rewards: FloatArray, batch: FrameBatch) -> FloatArray:
        against = initial_rewards(self.of, batch, rewards) if self.reference == "initial" else self.reference
        return bounded_centred(rewards, against, self.temperature)


class ClipDeltaReward(ShapedReward):
    """Rewards cut off above a threshold, and their gain from frame to frame; see ``clip_above`` and ``delta``.

    With both, an episode's sum is how much closer to the threshold it ended than it began: neither staying nor going
    past the threshold pays.

    Args:
        of: The model whose rewards are shaped.
        clip_at: Reward that is good enough; None: no limit.
        delta: True: the difference to the frame before; False: the (clipped) reward itself.

    Raises:
        ConfigError: A setting is out of range, there is nothing to do, or the model can't score the previous frame.
    """

    missing = "no valid previous frame"

    def __init__(self, of: RewardModel, clip_at: float | None = None, delta: bool = True) -> None:
        super().__init__(of)
        if not isinstance(delta, bool):
            raise ConfigError(f"delta must be true or false, got {delta!r}")
        if clip_at is None and not delta:
            raise ConfigError("clip_at is null and delta is false, which shapes nothing: set one of them")
        low, high = of.range
        self.clip_at, self.delta = clip_at, delta
        if clip_at is not None:
            self.clip_at = check_number("clip_at", clip_at)
            if self.clip_at <= low:
                raise ConfigError(
                    f"clip_at={clip_at} is not above the least reward {low:.3g}, so nothing is left: raise it"
                )
            low, high = low - self.clip_at, min(high - self.clip_at, 0.0)
        if delta:
            self._compare_with_previous()
            low, high = low - high, high - low
        self.range = low, high

    def _shape(self, rewards: FloatArray, batch: FrameBatch) -> FloatArray:
        now = self._clip(rewards)
        if not self.delta:
            return now
        return delta(now, self._clip(previous_rewards(self.of, batch, rewards)))

    def _clip(self, rewards: FloatArray) -> FloatArray:
        return rewards if self.clip_at is None else clip_above(rewards, self.clip_at)


class PotentialReward(ShapedReward):
    """Difference of potentials, ``gamma F(s') - F(s)``, see ``shaping.potential``; F is another model's reward.

    It only guides: which policies are best is up to the rest of the reward. That is the environment's own
    (``reward.combine=add``), or ``success_at``: 1 for each frame with ``F(s') >= success_at``, as Robo-Dopamine has it
    (arXiv 2512.23703, with .95 and a progress in [0, 1]).

    Args:
        of: The model whose reward is the potential.
        gamma: The agent's discount factor, in [0, 1].
        success_at: Potential from which on a frame is paid 1 beside the difference; None: never.

    Raises:
        ConfigError: A setting is out of range, or the model can't score the previous frame.
    """

    missing = "no valid previous frame"

    def __init__(self, of: RewardModel, gamma: float = 0.99, success_at: float | None = None) -> None:
        super().__init__(of)
        if gamma is None:
            raise ConfigError("gamma must be the agent's discount factor, got null: give the agent's, e.g. gamma=0.99")
        self.gamma = check_number("gamma", gamma, 0, 1)
        self.success_at = None if success_at is None else check_number("success_at", success_at)
        self._compare_with_previous()
        self.needs = (*self.needs, "terminated")
        low, high = of.range
        bonus = 0.0 if self.success_at is None else 1.0
        self.range = self.gamma * min(low, 0.0) - high, self.gamma * max(high, 0.0) - low + bonus

    def make_transform(self, **settings: Any) -> RewardTransform:
        """Build the transform of the rewards.

        Args:
            **settings: Those of RewardTransform.

        Raises:
            ConfigError: They would leave no difference of potentials, or nothing but one.
        """
        transform = RewardTransform(**settings)
        if transform.combine != "env" and transform.normalise != "none":
            raise ConfigError(
                f"reward 'potential' needs normalise=none, got {transform.normalise!r}, which shifts every reward and "
                "with it what is best: set reward.normalise=none and, for its size, reward.scale"
            )
        if transform.combine == "replace" and self.success_at is None:
            raise ConfigError(
                "reward 'potential' alone pays every policy the same: set reward.combine=add to guide the "
                "environment's own reward, or reward.success_at=<potential>"
            )
        return transform

    def _shape(self, rewards: FloatArray, batch: FrameBatch) -> FloatArray:
        if batch.terminated is None:
            raise FramesError("the batch does not say which rows are true ends: give `terminated`")
        before = previous_rewards(self.of, batch, rewards)
        shaped = potential(rewards, before, batch.terminated, self.gamma)
        if self.success_at is not None:
            shaped += rewards >= self.success_at
        return shaped


class SuccessReward(ShapedReward):
    """The probability that the task is done, which another model gives beside its rewards; or 1 where it is enough.

    Args:
        of: A model that gives a success probability, e.g. ``critic``.
        at: Probability from which on a frame is paid 1, and 0 below; None: the probability itself.

    Raises:
        ConfigError: ``at`` is not in (0, 1]; in ``compute_reward``: the model gives no success probability.
    """

    missing = "no success probability"
    range = (0.0, 1.0)

    def __init__(self, of: RewardModel, at: float | None = None) -> None:
        super().__init__(of)
        self.at = None if at is None else check_number("at", at, 0, 1)
        if self.at == 0:
            raise ConfigError("at=0 pays every frame 1: set a probability above 0, or null for the probability itself")

    def _read(self, scored: RewardBatch) -> FloatArray:
        if scored.success is None:
            raise ConfigError(
                f"SuccessReward needs a success probability, and {type(self.of).__name__} gives none: "
                "choose a model that does, e.g. reward.of.name=critic"
            )
        return np.where(scored.valid, scored.success, np.nan).astype(np.float32)

    def _shape(self, rewards: FloatArray, batch: FrameBatch) -> FloatArray:
        if self.at is None:
            return rewards
        return np.where(np.isnan(rewards), np.nan, rewards >= self.at).astype(np.float32)
