"""Which questions are worth asking, by what an ensemble says of them (RL-VLM-F and PEBBLE, arXiv 2106.05091)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vlmreward.rewards.learned import Sampling
from vlmreward.types import FloatArray

DRAWN = 10
"""Candidates for each question that is asked, where the choice is not uniform."""


def preference_probability(first: FloatArray, second: FloatArray) -> FloatArray:
    """Return the probability of the Bradley-Terry model that the second frame is preferred.

    Args:
        first: Rewards of frames, any shape.
        second: Rewards, the same shape.
    """
    return (1 / (1 + np.exp(first.astype(np.float64) - second))).astype(np.float32)


def rank_questions(sampling: Sampling, probability: FloatArray | None, count: int) -> npt.NDArray[np.int64]:
    """Return which candidates to ask about, the best first, shape (min(count, N),).

    Args:
        sampling: ``uniform`` takes them as they were drawn.
        probability: Of "yes", by each member of an ensemble, shape (E, N) with N >= 1; None: there is no ensemble yet,
            and they are taken as they were drawn.
        count: How many to ask about.
    """
    if probability is None or sampling == "uniform":
        return np.arange(count if probability is None else min(count, probability.shape[1]))
    if sampling == "disagreement":
        worth = probability.std(axis=0)
    else:
        p = np.clip(probability.mean(axis=0, dtype=np.float64), 1e-12, 1 - 1e-12)
        worth = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    return np.argsort(-worth, kind="stable")[:count]
