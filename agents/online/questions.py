"""What an annotator is asked while an agent is trained, and what its answers teach: pairs, or single frames."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmreward.agents.online.frame_pool import FramePool
from vlmreward.agents.online.sampling import DRAWN, k_center, place_questions, preference_probability, rank_questions
from vlmreward.rewards.annotators.answers import Comparer, Rater
from vlmreward.rewards.head import Head
from vlmreward.rewards.head_net import Input
from vlmreward.rewards.learned import DistilledReward, LearnedReward, PreferenceReward, Sampling
from vlmreward.types import BoolArray, FloatArray, FrameBatch, Frames

CHANGED = 8
"""Levels by which some channel of a pixel must differ for it to count as another one."""


@dataclass(frozen=True)
class Examples:
    """Answers that a head is fitted to.

    Attributes:
        x: What was asked about: embeddings, float16, shape (M, K, D), or frames, uint8, shape (M, K, H, W, 3); K is 2
            for pairs, 1 for single frames.
        target: Share of "the second" or of "yes", float32, shape (M,).
    """

    x: npt.NDArray[Any]
    target: FloatArray

    def __len__(self) -> int:
        """Return M."""
        return len(self.target)

    def joined(self, more: Examples) -> Examples:
        """Return these and more."""
        if not len(self):
            return more
        return Examples(np.concatenate([self.x, more.x]), np.concatenate([self.target, more.target]))


NOTHING = Examples(np.empty((0, 0, 0), np.float16), np.empty(0, np.float32))


@dataclass(frozen=True)
class Query:
    """Questions that are put together: single frames, or pairs.

    Attributes:
        frames: One batch, or two of the same length.
    """

    frames: tuple[FrameBatch, ...]

    def __len__(self) -> int:
        """Return the number of questions."""
        return len(self.frames[0])


@dataclass(frozen=True)
class Told:
    """What came back for a query.

    Attributes:
        examples: What is to be learned from it.
        answers: How often each kind of answer came.
        reasons: Why answers were invalid, and how often.
    """

    examples: Examples = NOTHING
    answers: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


class Questions(ABC):
    """Draws questions, asks them, and keeps what is to be learned from.

    Args:
        sampling: Which questions are asked.
        looks: What examples hold: ``embeddings`` or ``frames``.

    Attributes:
        cost: The most calls that one question takes.
        privileged: Whether who answers reads more than the frames.
    """

    cost: int
    privileged: bool

    def __init__(self, sampling: Sampling, looks: Input) -> None:
        self.sampling: Sampling = sampling
        self.looks: Input = looks

    @property
    @abstractmethod
    def annotator(self) -> Comparer | Rater:
        """Who answers."""

    @property
    def calls(self) -> int:
        """Calls of the annotator so far."""
        return self.annotator.calls

    @abstractmethod
    def draw(
        self, pool: FramePool, head: Head | None, rng: np.random.Generator, count: int, known: Examples = NOTHING
    ) -> Query | None:
        """Draw up to ``count`` questions about the frames of a pool; None where there is nothing to ask.

        Args:
            pool: The frames.
            head: The present one, or None.
            rng: Draws.
            count: Most questions.
            known: What was answered before.
        """

    @abstractmethod
    def ask(self, query: Query) -> Told:
        """Put questions."""

    def candidates(self, head: Head | None, count: int) -> int:
        """Return how many questions to draw for ``count`` that are asked."""
        chooses = self.sampling == "k_center" or (self.sampling != "uniform" and head is not None)
        return DRAWN * count if chooses else count

    def choose(
        self, drawn: tuple[FrameBatch, ...], probability: FloatArray | None, count: int, known: Examples
    ) -> Query:
        """Return the questions that are worth most.

        Args:
            drawn: N questions, N >= 1.
            probability: Of "yes", by each member of an ensemble, shape (E, N), or None.
            count: How many to ask.
            known: What was answered before.
        """
        if self.sampling != "k_center":
            best = rank_questions(self.sampling, probability, min(count, len(drawn[0])))
        else:
            x = np.stack([batch.embeddings for batch in drawn if batch.embeddings is not None], axis=1)
            places = place_questions(x)
            answered = place_questions(known.x) if len(known) and self.looks == "embeddings" else places[:0]
            best = k_center(places, answered, count)
        return Query(tuple(rows_of(batch, best) for batch in drawn))


class PairQuestions(Questions):
    """Which of two frames is nearer to the goal?

    Args:
        comparer: Who answers.
        sampling: Which pairs are asked about.
        alike: Pairs are skipped where at most this share of the pixels differs.
        looks: What examples hold: ``embeddings`` or ``frames``.

    Attributes:
        skipped: Number of pairs that were alike.
    """

    def __init__(self, comparer: Comparer, sampling: Sampling, alike: float, looks: Input = "embeddings") -> None:
        super().__init__(sampling, looks)
        self.comparer, self.alike = comparer, alike
        self.cost, self.privileged = comparer.calls_per_pair, comparer.privileged
        self.skipped = 0

    @property
    def annotator(self) -> Comparer:
        """Who compares."""
        return self.comparer

    def draw(
        self, pool: FramePool, head: Head | None, rng: np.random.Generator, count: int, known: Examples = NOTHING
    ) -> Query | None:
        """Draw pairs of frames that differ."""
        if len(pool) < 2 or count < 1:
            return None
        wanted = self.candidates(head, count)
        one = rng.integers(0, len(pool), 2 * wanted)  # twice as many as are wanted: some are alike
        other = (one + rng.integers(1, len(pool), len(one))) % len(pool)
        first, second = pool.take(one), pool.take(other)
        assert first.frames is not None
        assert second.frames is not None
        differ = np.flatnonzero(~are_alike(first.frames, second.frames, self.alike))
        differ = differ[:wanted]
        drawn = int(differ[-1]) + 1 if len(differ) == wanted else len(one)
        self.skipped += drawn - len(differ)
        if not len(differ):
            return None
        first, second = rows_of(first, differ), rows_of(second, differ)
        probability = None
        if head is not None:
            probability = preference_probability(
                head.members(looked_at(head, first)), head.members(looked_at(head, second))
            )
        return self.choose((first, second), probability, count, known)

    def ask(self, query: Query) -> Told:
        """Compare; pairs that are unsure or invalid teach nothing."""
        answers = self.comparer.compare(*query.frames)
        told = np.array([a.choice in ("first", "second") for a in answers], bool)
        target = np.array([a.choice == "second" for a in answers], np.float32)
        reasons = Counter(a.reason for a in answers if a.choice == "invalid")
        return Told(examples_of(query, told, target, self.looks), Counter(a.choice for a in answers), reasons)


class FrameQuestions(Questions):
    """How well does a frame show the goal?

    Args:
        rater: Who answers.
        sampling: Which frames are asked about.
        looks: What examples hold: ``embeddings`` or ``frames``.
    """

    def __init__(self, rater: Rater, sampling: Sampling, looks: Input = "embeddings") -> None:
        super().__init__(sampling, looks)
        self.rater = rater
        self.cost, self.privileged = rater.calls_per_frame, rater.privileged

    @property
    def annotator(self) -> Rater:
        """Who rates."""
        return self.rater

    def draw(
        self, pool: FramePool, head: Head | None, rng: np.random.Generator, count: int, known: Examples = NOTHING
    ) -> Query | None:
        """Draw different frames."""
        if not len(pool) or count < 1:
            return None
        wanted = self.candidates(head, count)
        frames = pool.take(rng.permutation(len(pool))[:wanted])
        probability = None if head is None else head.members(looked_at(head, frames))
        return self.choose((frames,), probability, count, known)

    def ask(self, query: Query) -> Told:
        """Rate; frames without an answer teach nothing."""
        ratings = self.rater.rate(query.frames[0])
        told = np.array([r.value is not None for r in ratings], bool)
        target = np.array([0.0 if r.value is None else r.value for r in ratings], np.float32)
        counts = Counter("invalid" if r.value is None else "rated" for r in ratings)
        reasons = Counter(r.reason for r in ratings if r.value is None)
        return Told(examples_of(query, told, target, self.looks), counts, reasons)


def make_questions(model: LearnedReward) -> Questions:
    """Build what a reward's annotator is asked.

    Raises:
        ConfigError: The annotator answers no such questions, or a setting of it is wrong.
    """
    sampling, looks = model.schedule.sampling, model.schedule.input
    if isinstance(model, PreferenceReward):
        return PairQuestions(model.make_comparer(), sampling, model.alike, looks)
    assert isinstance(model, DistilledReward)
    return FrameQuestions(model.make_rater(), sampling, looks)


def are_alike(first: Frames, second: Frames, share: float) -> BoolArray:
    """Return which pairs of pictures, uint8, shape (N, H, W, 3), differ in at most a share of their pixels, (N,)."""
    differs = np.abs(first.astype(np.int16) - second).max(axis=-1) > CHANGED
    return differs.mean(axis=(1, 2)) <= share


def looked_at(head: Head, batch: FrameBatch) -> npt.NDArray[Any]:
    """Return what a head looks at."""
    x = batch.frames if head.net.settings.input == "frames" else batch.embeddings
    assert x is not None
    return x


def rows_of(batch: FrameBatch, rows: npt.NDArray[np.int64]) -> FrameBatch:
    """Return some rows of a pool's batch."""
    assert batch.frames is not None
    assert batch.embeddings is not None
    assert batch.env_reward is not None
    return FrameBatch(
        batch.episode[rows],
        batch.step[rows],
        batch.instruction,
        frames=batch.frames[rows],
        embeddings=batch.embeddings[rows],
        env_reward=batch.env_reward[rows],
    )


def examples_of(query: Query, told: BoolArray, target: FloatArray, looks: Input) -> Examples:
    """Return the questions that have an answer, with it; shape (N,) both."""
    return Examples(np.stack([getattr(batch, looks)[told] for batch in query.frames], axis=1), target[told])
