"""Resamples of one sample, and the sums that metrics are made of, each worked out once for all who ask."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from vlmreward.audit.pairs import agreement, make_ladder
from vlmreward.audit.ranks import RankStatistics, Weights, rank_statistics
from vlmreward.audit.sample import Array, IntArray, Sample
from vlmreward.types import BoolArray

ROUNDING = 1e-12
"""Smallest variance relative to the mean square that is not taken for rounding of a constant."""


def ratio(numerator: Array, denominator: Array) -> Array:
    """Divide where the denominator is positive; NaN elsewhere."""
    shape = np.broadcast_shapes(np.shape(numerator), np.shape(denominator))
    return np.divide(numerator, denominator, out=np.full(shape, np.nan), where=np.asarray(denominator) > 0)


class Draws:
    """B replicates of a sample, each with a count of how often it holds each group.

    A metric is a function of this object that returns one number per replicate and sweep, shape (B, S): the metric of
    the sample in which the frames of group g stand ``counts[b, g]`` times.

    Args:
        sample: N > 0 frames without NaN (a part of :meth:`Sample.split`).
        counts: Whole numbers >= 0, shape (B, G).
    """

    def __init__(self, sample: Sample, counts: IntArray) -> None:
        self.sample = sample
        self.counts = counts
        self.starts = np.flatnonzero(np.diff(sample.group, prepend=-1))  # the first row of each group that is here
        self.sizes = np.diff(self.starts, append=len(sample.group))
        self._here = counts[:, sample.group[self.starts]].astype(np.float64)  # (B, groups that are here)
        self._narrow = counts.astype(np.int32)
        self._agreement: dict[float, Array] = {}

    @property
    def scores(self) -> Array:
        """Return the scores, shape (N, S)."""
        return self.sample.scores

    @property
    def success(self) -> BoolArray:
        """Return the success labels, shape (N,)."""
        assert self.sample.success is not None, "a metric that needs success was asked for without it"
        return self.sample.success

    def label(self, name: str) -> Array:
        """Return ``"success"`` as 0 and 1, or a label, shape (N,)."""
        return self.success.astype(np.float64) if name == "success" else self.sample.labels[name]

    def weights(self, replicate: int) -> Weights:
        """Return how often each frame stands in a replicate, int32, shape (N,)."""
        return self._narrow[replicate][self.sample.group]

    def group_sums(self, values: Array) -> Array:
        """Sum over the frames of each group that is here: (N, ...) to (groups, ...)."""
        return np.add.reduceat(values, self.starts, axis=0)

    def total_of_groups(self, values: Array) -> Array:
        """Sum over groups, as often as each stands in a replicate: (groups,) to (B, 1), (groups, K) to (B, K)."""
        return self._here @ (values[:, None] if values.ndim == 1 else values)

    def total(self, values: Array) -> Array:
        """Sum over frames, as often as each stands in a replicate: (N,) to (B, 1), (N, K) to (B, K)."""
        return self.total_of_groups(self.group_sums(values))

    @cached_property
    def n(self) -> Array:
        """Number of frames of each replicate, shape (B, 1)."""
        return self.total_of_groups(self.sizes.astype(np.float64))

    @cached_property
    def centred_scores(self) -> Array:
        """Scores less their mean over the sample, shape (N, S): sums of squares then lose little to rounding."""
        return self.scores - self.scores.mean(axis=0)

    @cached_property
    def score_sum(self) -> Array:
        """Sum of the centred scores, shape (B, S)."""
        return self.total(self.centred_scores)

    @cached_property
    def score_deviation(self) -> Array:
        """Sum of squared deviations of the scores from their mean, shape (B, S)."""
        return self.deviation(self.total(self.centred_scores**2), self.score_sum, self.n)

    @staticmethod
    def deviation(squares: Array, sums: Array, n: Array) -> Array:
        """Return the sum of squared deviations from the mean; exactly 0 where it is only rounding."""
        out = squares - ratio(sums**2, n)
        return np.where(out > ROUNDING * squares, out, 0.0)

    @cached_property
    def ranks(self) -> RankStatistics:
        """Statistics of ranks and order."""
        s = self.sample
        return rank_statistics(s.scores, s.success, s.labels, self.weights, len(self.counts))

    def agreement(self, margin: float) -> Array:
        """Return the agreement in pairs of frames whose progress differs by more than the margin, shape (B, S)."""
        if margin not in self._agreement:
            ladder = make_ladder(self.label("progress"), margin)
            self._agreement[margin] = agreement(self.scores, ladder, self.sample.group, self.counts)
        return self._agreement[margin]
