"""A report card of labels before they are written: do rewards rise along episodes, and tell success from failure?

Every figure stands beside what needs no encoder: the time index, which rises along every episode and tells the outcome
only by how long it took, and another instruction. Intervals are percentile bootstraps over episodes, for the frames of
one are dependent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmreward.audit.progress_metrics import auroc, voc

REPLICATES = 1000
END_SHARE = 0.1
"""The last tenth of an episode is what its outcome is judged by."""
LEAST_OF_EACH = 3
"""Successes and failures below which no separation is computed."""
LEAST_EPISODES = 5
"""Episodes below which there is no interval: drawn from one alone, all samples are alike, and from few nearly so."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ScoredEpisode:
    """One episode of the sample.

    Attributes:
        reward: For its own instruction, float, shape (F,); NaN where invalid.
        control: For an instruction that is not its own, shape (F,); NaN where invalid.
        success: Its recorded outcome, if there is one.
    """

    reward: npt.NDArray[np.floating]
    control: npt.NDArray[np.floating]
    success: bool | None


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval; NaN where it can't be computed, or for an interval of too few episodes."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return ``.71 (.60 to .80)``, or ``.71`` where there is no interval."""
        return f"{self.value:.2f}" + (f" ({self.low:.2f} to {self.high:.2f})" if self.has_interval else "")

    @property
    def has_interval(self) -> bool:
        """Whether there were enough episodes for an interval."""
        return bool(np.isfinite([self.low, self.high]).all())


@dataclass(frozen=True)
class ReportCard:
    """What a sample says about labels.

    Attributes:
        episodes: In the sample.
        successes: Recorded as successful; None where no outcome is recorded.
        rise: Mean over episodes of the Spearman correlation of reward and time, in [-1, 1]. Time itself has 1, a
            constant 0.
        rise_of_control: The same for the other instruction.
        rise_beyond_control: Mean of the difference.
        separation: Share of pairs of a success and a failure in which the success ends higher; None without outcomes.
            A constant has 0.5.
        separation_by_length: The same for the episodes' lengths, what the time index knows of the outcome.
        separation_of_control: The same for the other instruction.
        spread: Standard deviation of all rewards.
    """

    episodes: int
    successes: int | None
    rise: Figure
    rise_of_control: Figure
    rise_beyond_control: Figure
    separation: Figure | None
    separation_by_length: Figure | None
    separation_of_control: Figure | None
    spread: float

    @property
    def is_enough(self) -> bool:
        """Whether the sample has enough episodes to judge labels by."""
        return self.separation is not None or self.rise.has_interval

    @property
    def refusal(self) -> str | None:
        """Why labels like these should not be written, with the figure; None where nothing speaks against it."""
        if not self.spread > 1e-6:
            return f"the reward is constant (standard deviation {self.spread:.1e})"
        if self.separation is not None:
            if not self.separation.low > 0.5:
                return (
                    f"successes don't end with higher rewards than failures: separation {self.separation}, chance is "
                    f"0.5, episodes' lengths have {self.separation_by_length}"
                )
            return None
        if self.is_enough and not self.rise.low > 0:
            return f"rewards don't rise along episodes: mean rank correlation with time {self.rise}, chance is 0"
        return None

    def to_json(self) -> dict[str, Any]:
        """Return plain values; None for what can't be computed."""

        def plain(figure: Figure | None) -> list[float | None] | None:
            if figure is None:
                return None
            return [round(v, 4) if np.isfinite(v) else None for v in (figure.value, figure.low, figure.high)]

        return {
            "episodes": self.episodes,
            "successes": self.successes,
            "is_enough": self.is_enough,
            **{
                name: plain(getattr(self, name))
                for name in (
                    "rise",
                    "rise_of_control",
                    "rise_beyond_control",
                    "separation",
                    "separation_by_length",
                    "separation_of_control",
                )
            },
            "spread": self.spread,
            "refusal": self.refusal,
        }


def report_card(episodes: Sequence[ScoredEpisode], seed: int = 0) -> ReportCard:
    """Judge a sample of labels.

    Args:
        episodes: At least one.
        seed: Of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(episodes), size=(REPLICATES, len(episodes)))
    own = np.array([rise(e.reward) for e in episodes])
    control = np.array([rise(e.control) for e in episodes])
    known = [e for e in episodes if e.success is not None]
    outcomes = np.array([bool(e.success) for e in known], bool)
    three: list[Figure | None] = [None, None, None]
    if min(outcomes.sum(), (~outcomes).sum()) >= LEAST_OF_EACH:
        ends = ([_end(e.reward) for e in known], [len(e.reward) for e in known], [_end(e.control) for e in known])
        three = [_separation(np.array(values, float), outcomes, rng) for values in ends]
    rewards = np.concatenate([e.reward for e in episodes])
    return ReportCard(
        episodes=len(episodes),
        successes=int(outcomes.sum()) if known else None,
        rise=_mean(own, draws),
        rise_of_control=_mean(control, draws),
        rise_beyond_control=_mean(own - control, draws),
        separation=three[0],
        separation_by_length=three[1],
        separation_of_control=three[2],
        spread=float(np.nanstd(rewards)) if np.isfinite(rewards).any() else 0.0,
    )


def rise(reward: npt.NDArray[np.floating]) -> float:
    """Return the Spearman correlation of reward and time, average ranks for ties, in [-1, 1].

    Args:
        reward: float, shape (F,); NaN where invalid, which are left out.

    Returns:
        0 for a constant reward: it says nothing of time. NaN with fewer than two valid frames.
    """
    if np.isfinite(reward).sum() < 2:
        return float("nan")
    return float(np.nan_to_num(voc(reward)))


def _end(reward: npt.NDArray[np.floating]) -> float:
    """Return the mean of the last tenth of an episode, NaN where none of it is valid."""
    last = reward[-max(1, round(END_SHARE * len(reward))) :]
    last = last[np.isfinite(last)]
    return float(last.mean()) if len(last) else float("nan")


def _mean(values: Array, draws: npt.NDArray[np.int64]) -> Figure:
    among = int(np.isfinite(values).sum())
    if among < LEAST_EPISODES:
        return Figure(float(np.nanmean(values)) if among else float("nan"), float("nan"), float("nan"))
    drawn = values[draws]
    known = np.isfinite(drawn)
    means = np.where(known, drawn, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    low, high = np.quantile(means[known.any(axis=1)], (0.025, 0.975))
    return Figure(float(np.nanmean(values)), float(low), float(high))


def _separation(values: Array, outcomes: npt.NDArray[np.bool_], rng: np.random.Generator) -> Figure | None:
    known = np.isfinite(values)
    values, outcomes = values[known], outcomes[known]
    good, bad = np.flatnonzero(outcomes), np.flatnonzero(~outcomes)
    if min(len(good), len(bad)) < LEAST_OF_EACH:
        return None
    drawn = []
    for _ in range(REPLICATES):  # each kind by itself: every draw has both
        rows = np.concatenate([rng.choice(good, len(good)), rng.choice(bad, len(bad))])
        drawn.append(auroc(values[rows], outcomes[rows]))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Figure(auroc(values, outcomes), float(low), float(high))
