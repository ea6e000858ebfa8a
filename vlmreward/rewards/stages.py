"""Stages of a task, found in demonstrations, and what tells each from the others: pure functions on features.

After Sermanet, Xu and Levine, "Unsupervised Perceptual Rewards for Imitation Learning" (arXiv 1612.06699); what differs
is told where it does. Work is done in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SHRINK = 0.1
"""Share of the mean variance of features that is added to each variance: frames of a short stage have hardly any."""


def scatter(x: Floats) -> Array:
    """Return how much the rows of each stretch differ: the sum of squared distances to their mean.

    Args:
        x: Features, shape (T, D).

    Returns:
        Shape (T + 1, T + 1); [i, j] is that of rows i to j - 1, and 0 where i >= j.
    """
    count = len(x)
    dots = np.zeros((count + 1, count + 1))
    dots[1:, 1:] = (np.asarray(x, np.float64) @ np.asarray(x, np.float64).T).cumsum(axis=0).cumsum(axis=1)
    whole = np.diagonal(dots)
    inside = whole[None, :] + whole[:, None] - dots - dots.T  # |sum of rows i to j - 1|^2
    squares = np.append(0.0, np.einsum("td,td->t", x, x, dtype=np.float64).cumsum())
    at = np.arange(count + 1)
    length = at[None, :] - at[:, None]
    cost = squares[None, :] - squares[:, None] - inside / np.maximum(length, 1)
    return np.where(length > 0, np.maximum(cost, 0.0), 0.0)


def best_borders(costs: Array, shortest: int = 1) -> tuple[Ints, float]:
    """Return where stages begin and end so that their costs add up to the least, by dynamic programming.

    Args:
        costs: [k, i, j] is what rows i to j - 1 cost as stage k, shape (K, T + 1, T + 1).
        shortest: Rows of a stage at least; K * shortest <= T.

    Returns:
        Borders, int64, shape (K + 1,), from 0 to T: stage k is rows ``borders[k]`` to ``borders[k + 1] - 1``; and
        their cost.
    """
    stages, size, _ = costs.shape
    at = np.arange(size)
    allowed = at[None, :] - at[:, None] >= shortest
    least = np.where(at == 0, 0.0, np.inf)  # of the rows before each border, by the stages so far
    came_from = np.zeros((stages, size), np.int64)
    for stage in range(stages):
        total = np.where(allowed, least[:, None] + costs[stage], np.inf)
        came_from[stage] = total.argmin(axis=0)
        least = total.min(axis=0)
    borders = np.full(stages + 1, size - 1, np.int64)
    for stage in range(stages - 1, -1, -1):
        borders[stage] = came_from[stage, borders[stage + 1]]
    return borders, float(least[-1])


def split_demos(demos: Sequence[Floats], stages: int, shortest: int = 1) -> list[Ints]:
    """Split every demonstration into the same stages, in the same order.

    What is made small is the sum of squared distances of frames to the mean of their stage over all demonstrations.
    Each demonstration counts less its own mean: where things stand differs between demonstrations and is no stage.
    Each is first split by itself, which is exact; then means and splits take turns, each the best for the other, until
    nothing gets smaller. For one demonstration that is the exact optimum; for several it is a split that no change of
    a single demonstration's borders betters under these means, and need not be the least of all.

    What differs from the paper: it splits each demonstration by itself, by a recursive search for the least mean
    standard deviation, and takes the i-th stages for the same.

    Args:
        demos: Features of each, shape (T, D).
        stages: Number of stages, K.
        shortest: Frames of a stage at least; ``K * shortest <= T`` for each demonstration.

    Returns:
        Borders of each, int64, shape (K + 1,); see :func:`best_borders`.
    """
    centred = [np.asarray(x, np.float64) - np.mean(x, axis=0, dtype=np.float64) for x in demos]
    alone = (scatter(x) for x in centred)
    splits = [best_borders(np.broadcast_to(cost, (stages, *cost.shape)), shortest)[0] for cost in alone]
    least = np.inf
    while True:
        stage = np.concatenate([np.repeat(np.arange(stages), np.diff(borders)) for borders in splits])
        means = np.stack([np.concatenate(centred)[stage == k].mean(axis=0) for k in range(stages)])
        moved = [best_borders(_distances(x, means), shortest) for x in centred]
        cost = sum(cost for _, cost in moved)
        if cost >= least * (1 - 1e-9):  # rounding is no gain
            return splits
        splits, least = [borders for borders, _ in moved], cost


def _distances(x: Array, means: Array) -> Array:
    """Return the summed squared distances of rows i to j - 1 to each stage's mean, shape (K, T + 1, T + 1)."""
    upto = np.stack([np.append(0.0, ((x - mean) ** 2).sum(axis=1).cumsum()) for mean in means])
    return upto[:, None, :] - upto[:, :, None]


@dataclass(frozen=True)
class Marks:
    """What frames look like before a stage and from it on, in the features that tell these two best.

    Attributes:
        features: Numbers of the M features, int64, shape (M,).
        mean: Before and from it on, shape (2, M).
        variance: The same, > 0.
    """

    features: Ints
    mean: Array
    variance: Array

    def reached(self, x: Floats) -> Array:
        """Return how likely the stage is reached: ``sigmoid(mean_j log N(x_j; from it on) / N(x_j; before))``.

        Naive Bayes on normal distributions with equal odds, but with the mean over features for their sum: features of
        one picture go together, and a sum would take each for news.

        Args:
            x: Features, shape (N, D).

        Returns:
            In [0, 1], shape (N,); NaN where a feature is.
        """
        chosen = np.asarray(x, np.float64)[:, None, self.features]
        surprise = ((chosen - self.mean) ** 2 / self.variance + np.log(self.variance)).mean(axis=2)  # (N, 2)
        odds = (surprise[:, 0] - surprise[:, 1]) / 2
        return (1 + np.tanh(odds / 2)) / 2


def find_marks(demos: Sequence[Floats], splits: Sequence[Ints], features: int) -> list[Marks]:
    """Find what tells frames of each stage and later ones from earlier ones; of the first stage there is nothing.

    The features taken are those with the largest ``(m - m')^2 / (v + v')``, means and variances of the frames from the
    stage on and of those before. What differs from the paper: it takes features by ``a |m - m'| - (s + s')``, standard
    deviations with a factor set by hand, and tells a stage from all other frames. Here a stage stays reached in later
    ones, so that rewards add up along a demonstration instead of each going again.

    Args:
        demos: Features of each demonstration, shape (T, D).
        splits: Borders of their stages, shape (K + 1,) each.
        features: How many are taken, M; all where there are fewer.

    Returns:
        K - 1 of them, of stages 2 to K.
    """
    x = np.concatenate(demos).astype(np.float64)
    stages = len(splits[0]) - 1
    stage = np.concatenate([np.repeat(np.arange(stages), np.diff(borders)) for borders in splits])
    least = SHRINK * x.var(axis=0).mean()
    marks = []
    for number in range(1, stages):
        parts = x[stage < number], x[stage >= number]
        mean = np.stack([part.mean(axis=0) for part in parts])
        variance = np.stack([part.var(axis=0) for part in parts]) + least
        ratio = (mean[1] - mean[0]) ** 2 / variance.sum(axis=0)
        chosen = np.sort(np.argsort(-ratio, kind="stable")[:features])
        marks.append(Marks(chosen, mean[:, chosen], variance[:, chosen]))
    return marks


def combine_stages(reached: Floats) -> Array:
    """Return ``sum_k 2^k s_k / sum_k 2^k``: later stages weigh more, and all of them reached make 1.

    The paper's sum over stages 2 to K has the same weights and no divisor.

    Args:
        reached: How likely stages 2 to K are reached, in [0, 1], shape (K - 1, N).

    Returns:
        In [0, 1], shape (N,).
    """
    weights = 2.0 ** np.arange(len(reached))
    return weights / weights.sum() @ reached


def arrival(embeddings: Floats) -> int:
    """Return the frame from which on an episode stays where it is.

    The change point of a two-phase regression (Hinkley 1971): frames before it are fitted by a straight line in time,
    those from it on by their mean, all dimensions of the embedding together, and the best fit in least squares is
    taken. A film that moves evenly to its end arrives there.

    Args:
        embeddings: Shape (F, D), F > 1.

    Returns:
        A number in [1, F - 1]; F - 1 where nothing moves at all, or where F < 4.
    """
    count = len(embeddings)
    values = np.asarray(embeddings, np.float64)
    values = values - values.mean(axis=0)
    if count < 4 or not values.any():
        return count - 1
    nothing = np.zeros((1, values.shape[1]))
    sums = np.concatenate([nothing, values.cumsum(axis=0)])
    timed = np.concatenate([nothing, (values * np.arange(count)[:, None]).cumsum(axis=0)])
    border = np.arange(2, count)[:, None]  # frames before the change point
    slope = timed[2:count] - (border - 1) / 2 * sums[2:count]
    line = sums[2:count] ** 2 / border + slope**2 / (border * (border**2 - 1) / 12)
    rest = (sums[count] - sums[2:count]) ** 2 / (count - border)
    return int(np.argmax((line + rest).sum(axis=1))) + 2


def reference_frames(embeddings: Floats, count: int) -> Floats:
    """Return ``count`` evenly spaced frames of an episode, the first and the last among them, shape (count, D)."""
    return embeddings[np.rint(np.linspace(0, len(embeddings) - 1, count)).astype(int)]
