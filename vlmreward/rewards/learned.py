"""Rewards that are learned from answers: preferences between frames (RL-VLM-F), or ratings of frames (ONI).

A small head on frozen embeddings is fitted to what an annotator says of frames, beside training
(``vlmreward.agents.online``) or beforehand, and is what the agent learns from. RL-VLM-F: arXiv 2402.03681; ONI: arXiv
2410.23022. What differs: heads on embeddings instead of networks on pictures, so that a replay buffer can be relabelled
without its pictures; until the first answers the reward is that of another model; both orders are asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from vlmreward.errors import ConfigError, FramesError
from vlmreward.registry import suggest
from vlmreward.rewards.annotators import make_annotator
from vlmreward.rewards.annotators.answers import BothOrders, Comparer, Rater
from vlmreward.rewards.head import Head
from vlmreward.rewards.head_net import HeadSettings, Input, Output
from vlmreward.rewards.settings import check_choice, check_number
from vlmreward.types import Context, Encoder, FrameBatch, RewardBatch, RewardModel

Sampling = Literal["uniform", "disagreement", "entropy", "k_center"]


@dataclass(frozen=True)
class Schedule:
    """How questions are put and heads are fitted while an agent is trained.

    Attributes:
        budget: Calls of the annotator in a whole run, never exceeded.
        batch: Questions that are put together.
        every: Steps of the environments between two batches.
        sampling: ``uniform``; ``disagreement``: where members of the ensemble differ most; ``entropy``: where they are
            least sure together; ``k_center``: as far as can be from one another and from what was answered.
        waiting: Batches that may wait for answers; one more is dropped, and counted.
        wait: Training waits for the answers: the same seed gives the same run. False: it never does.
        pool: Newest frames of the agent that questions are drawn from.
        keep_every: One of so many frames goes into the pool.
        input: What heads look at: ``embeddings``; or ``frames``, by convolutions, which needs ``vlmreward fit-reward``.
        members: Size of the ensemble.
        width: Of its hidden layers.
        fit_steps: Optimiser steps of a fit; each begins anew.
        lapses: Share of answers that is taken to be drawn at random (Christiano et al., arXiv 1706.03741).
    """

    budget: int = 2000
    batch: int = 40
    every: int = 1000
    sampling: Sampling = "uniform"
    waiting: int = 2
    wait: bool = False
    pool: int = 2000
    keep_every: int = 4
    input: Input = "embeddings"
    members: int = 3
    width: int = 64
    fit_steps: int = 150
    lapses: float = 0.1

    def __post_init__(self) -> None:
        """Check numbers and words."""
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.type == "int" and (type(value) is not int or value < 1):
                raise ConfigError(f"learning.{setting.name} must be a whole number >= 1, got {value!r}")
        if type(self.wait) is not bool:
            raise ConfigError(f"learning.wait must be true or false, got {self.wait!r}")
        check_choice("learning.sampling", self.sampling, get_args(Sampling))
        check_choice("learning.input", self.input, get_args(Input))
        check_number("learning.lapses", self.lapses, 0, 1)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Schedule:
        """Build one from the settings that are given.

        Raises:
            ConfigError: One is unknown or out of range.
        """
        known = [setting.name for setting in fields(cls)]
        for name in given:
            if name not in known:
                raise ConfigError(f"unknown setting 'reward.learning.{name}': {suggest(name, known)}")
        return cls(**given)


class LearnedReward:
    """The reward of a fitted head; until there is one, that of another model.

    Args:
        of: Whose rewards are given until the first fit: a model on embeddings of single frames.
        path: A fitted head; None: it is fitted while an agent is trained.
        annotator: Who answers: ``name`` and settings (see ``vlmreward.rewards.annotators``).
        learning: Settings of ``Schedule``.

    Raises:
        ConfigError: A setting is wrong, or the file was made for another encoder, reward or goal.
        WeightsError: The file can't be read.

    Attributes:
        head: The one that is in use, or None; replaced whole by :meth:`use`.
        schedule: What ``learning`` says.
    """

    context: Context = "frame"
    causal = True
    name: ClassVar[str]
    output: ClassVar[Output]

    def __init__(
        self,
        of: RewardModel,
        path: str | Path | None = None,
        annotator: Mapping[str, Any] | None = None,
        learning: Mapping[str, Any] | None = None,
    ) -> None:
        if of.context != "frame" or of.needs != ("embeddings",) or not hasattr(of, "encoder"):
            raise ConfigError(
                f"reward.of of {self.name!r} must score embeddings of single frames, got {type(of).__name__}: choose "
                "clip or contrastive"
            )
        prompted: Any = of
        self.of = of
        self.encoder: Encoder = prompted.encoder
        self.goal: tuple[str, ...] = prompted.goal
        self.annotator: Any = annotator or {"name": "reward"}
        self.learning = learning or {}
        self.schedule = Schedule.of(self.learning)
        self.needs: tuple[str, ...] = ("embeddings",)
        low, high = (-1.0, 1.0) if self.output == "tanh" else (0.0, 1.0)
        self.range: tuple[float, float] = (min(low, of.range[0]), max(high, of.range[1]))
        self.path = path
        self.head: Head | None = None
        if path is not None:
            self.use(Head.load(path))
            self.range = (low, high)

    @property
    def learns(self) -> bool:
        """Whether heads are to be fitted while an agent is trained."""
        return self.path is None

    @property
    def version(self) -> int:
        """Number of the head that is in use; 0 before the first."""
        head = self.head
        return 0 if head is None else head.version

    @property
    def settings(self) -> HeadSettings:
        """Shape of the heads that are fitted."""
        own = self.schedule
        return HeadSettings(self.encoder.dim, own.members, own.width, own.input, self.output)

    def use(self, head: Head) -> None:
        """Score with this head from now on.

        Raises:
            ConfigError: It was made for another encoder, reward or goal.
        """
        meta = head.meta
        for what, theirs, ours in (
            ("reward", meta.reward, self.name),
            ("encoder", meta.encoder, self.encoder.id),
            ("goal", meta.goal, self.goal),
        ):
            if theirs != ours:
                raise ConfigError(
                    f"the head was made for {what} {theirs}, got {ours}: choose that {what}, or make a new head"
                )
        self.head = head
        self.needs = (head.net.settings.input,)

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        """Score every row.

        Args:
            batch: N rows with ``embeddings`` or ``frames``.

        Returns:
            Rewards of N rows, with ``parts`` ``version``: of the head that scored them, 0 for the other model.

        Raises:
            FramesError: The batch has neither.
        """
        head = self.head  # once: another may take its place while this runs
        if head is None:
            scored = self.of.compute_reward(batch)
            version = np.zeros(len(batch), np.float32)
            return RewardBatch(scored.reward, scored.valid, None, {"version": version}, scored.reasons)
        x = batch.frames if head.net.settings.input == "frames" else batch.embeddings
        if x is None and batch.frames is not None:
            x = self.encoder.encode_images(batch.frames)
        if x is None:
            raise FramesError("the batch has neither embeddings nor frames: give one of them")
        reward = head.score(x)
        valid = np.isfinite(reward)
        reasons = dict.fromkeys(np.flatnonzero(~valid).tolist(), "embedding is not finite")
        parts = {"version": np.full(len(batch), head.version, np.float32)}
        return RewardBatch(reward, valid, None, parts, reasons)  # a rating of how well is no probability of done


class PreferenceReward(LearnedReward):
    """How much a frame is preferred, in [-1, 1]: the mean of an ensemble of Bradley-Terry models.

    Args:
        of: As for LearnedReward.
        path: As for LearnedReward.
        annotator: Who compares.
        learning: As for LearnedReward.
        both_orders: Ask about every pair in both orders, and drop it where the answers disagree.
        alike: Do not ask about pairs where at most this share of the pixels differs.

    Raises:
        ConfigError: As for LearnedReward.
    """

    name = "preference"
    output = "tanh"

    def __init__(
        self,
        of: RewardModel,
        path: str | Path | None = None,
        annotator: Mapping[str, Any] | None = None,
        learning: Mapping[str, Any] | None = None,
        both_orders: bool = True,
        alike: float = 0.01,
    ) -> None:
        super().__init__(of, path, annotator, learning)
        if type(both_orders) is not bool:
            raise ConfigError(f"both_orders must be true or false, got {both_orders!r}")
        self.both_orders, self.alike = both_orders, check_number("alike", alike, 0, 1)

    def make_comparer(self) -> Comparer:
        """Build who compares.

        Raises:
            ConfigError: The annotator does not compare pairs, or a setting of it is wrong.
        """
        made = make_annotator(self.annotator, self.encoder, self.goal)
        if not isinstance(made, Comparer):
            raise ConfigError(f"reward 'preference' needs an annotator that compares, got {self.annotator['name']!r}")
        return BothOrders(made) if self.both_orders else made


class DistilledReward(LearnedReward):
    """How well a frame shows the goal, in [0, 1], as an annotator that rates single frames would say."""

    name = "distilled"
    output = "sigmoid"

    def make_rater(self) -> Rater:
        """Build who rates.

        Raises:
            ConfigError: The annotator does not rate frames, or a setting of it is wrong.
        """
        made = make_annotator(self.annotator, self.encoder, self.goal)
        if not isinstance(made, Rater):
            raise ConfigError(
                f"reward 'distilled' needs an annotator that rates frames, got {self.annotator['name']!r}: choose "
                "reward (with reward.annotator.of=..., e.g. of.name=rubric for a judge) or scripted"
            )
        return made
