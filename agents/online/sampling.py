"""Which questions are worth asking, by what an ensemble says of them (RL-VLM-F and PEBBLE, arXiv 2106.05091).

What differs: for ``k_center`` a pair is the sum and the difference of its embeddings, whichever of them comes first.
"""

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
        sampling: ``uniform`` takes them as they were drawn; not ``k_center``, for which there is :func:`k_center`.
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


def k_center(candidates: FloatArray, taken: FloatArray, count: int) -> npt.NDArray[np.int64]:
    """Return candidates that are far from one another, greedily: each time the one whose nearest neighbour is farthest.

    Args:
        candidates: Shape (N, F), N >= 1.
        taken: Chosen before, from which they are to be far too, shape (M, F); M may be 0, and then the first candidate
            is the first choice.
        count: How many to choose.

    Returns:
        Their rows in the order of the choice, shape (min(count, N),).
    """
    apart = np.full(len(candidates), np.inf)
    for other in taken:
        apart = np.minimum(apart, np.linalg.norm(candidates - other, axis=1))
    chosen: list[int] = []
    for _ in range(min(count, len(candidates))):
        best = int(np.argmax(apart))
        chosen.append(best)
        apart = np.minimum(apart, np.linalg.norm(candidates - candidates[best], axis=1))
        apart[best] = -1
    return np.array(chosen, np.int64)


def place_questions(embeddings: npt.NDArray[np.floating]) -> FloatArray:
    """Return where questions lie, float32, shape (N, F): a frame at its embedding, a pair at what has no order.

    Args:
        embeddings: Of single frames, shape (N, 1, D), or of pairs, shape (N, 2, D).
    """
    x = embeddings.astype(np.float32)
    return x[:, 0] if x.shape[1] == 1 else np.concatenate([x[:, 0] + x[:, 1], np.abs(x[:, 0] - x[:, 1])], axis=1)
