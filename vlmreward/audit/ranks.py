"""Statistics of ranks and order under integer weights, from one sort of each sweep.

A bootstrap replicate is the sample with every frame repeated ``w`` times, w = 0, 1, 2, ... Ranks, thresholds and
quantiles of the repeated frames follow from running sums of ``w`` in the order of the scores, so that a replicate
costs one pass and no sort. Running sums are integers: nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmreward.audit.sample import Array
from vlmreward.types import BoolArray

Weights = npt.NDArray[np.int32]

QUANTILES = (0.05, 0.95)
"""The span of scores between these is what a sweep uses of its range: a few strange frames do not widen it."""

BLOCK = 50_000
"""Scores worked on at a time: their weights, running sums and order stay in a core's second-level cache."""


@dataclass(frozen=True)
class RankStatistics:
    """What rank metrics are made of, for B replicates and S sweeps.

    The place of a frame is ``(weight below - weight above)``, twice its mid-rank less the mean rank; frames of equal
    score share one place.

    Attributes:
        success_places: Sum of the places of success frames, shape (B, S); None without success labels.
        average_precision: Shape (B, S), NaN without a success frame; None without success labels.
        label_products: Sum of place by score times place by label, each of shape (B, S).
        label_squares: Sum of squared places by label, each of shape (B,).
        label_ties: Sum over groups of equal labels of their squared weight, each of shape (B,).
        squares: Sum of squared places by score, shape (B, S).
        ties: Sum over groups of equal scores of their squared weight, shape (B, S).
        quantiles: Scores at ``QUANTILES``, interpolated linearly, shape (2, B, S).
    """

    success_places: Array | None
    average_precision: Array | None
    label_products: Mapping[str, Array]
    label_squares: Mapping[str, Array]
    label_ties: Mapping[str, Array]
    squares: Array
    ties: Array
    quantiles: Array


class _Ordered:
    """Columns in descending order, with equal values known.

    Running sums are right where a value stands alone. Equal ones are mended: float32 scores of thousands of frames
    hardly ever lack a few.

    Args:
        columns: Shape (K, N), finite.
    """

    def __init__(self, columns: Array) -> None:
        self.order = np.argsort(-columns, axis=1, kind="stable")
        self.values = np.take_along_axis(columns, self.order, axis=1)
        k, n = columns.shape
        fresh = np.ones((k, n), dtype=bool)
        fresh[:, 1:] = self.values[:, 1:] != self.values[:, :-1]
        begins = np.flatnonzero(fresh)
        sizes = np.diff(begins, append=k * n)
        first, last = np.repeat(begins, sizes), np.repeat(begins + sizes - 1, sizes)
        tied = np.flatnonzero(first < last)
        # which values to mend, by their flat index; where most are, it is quicker to go through all of them in a row
        self._mended: npt.NDArray[np.int64] | slice = tied if 2 * len(tied) < k * n else slice(None)
        self._first, self._last = first[self._mended], last[self._mended]
        self._row = np.repeat(np.arange(k), n)[self._mended]

    def cumulate(self, own: Weights) -> tuple[Weights, Weights]:
        """Return the summed weight of all values as large as each one, and of all larger ones, shape (K, N) both.

        Args:
            own: Weight of each value, in descending order of the values, shape (K, N).
        """
        upto = np.cumsum(own, axis=1, dtype=np.int32)
        above = self._share(upto - own, self._first)
        return self._share(upto, self._last), above

    def cumulate_upto(self, own: Weights) -> Weights:
        """Return the summed weight of all values as large as each one alone."""
        return self._share(np.cumsum(own, axis=1, dtype=np.int32), self._last)

    def _share(self, sums: Weights, end: npt.NDArray[np.int64]) -> Weights:
        """Give equal values the sum at one end of them, in place."""
        flat = sums.reshape(-1)  # a view
        flat[self._mended] = flat[end]
        return sums

    def tie_sums(self, own: Weights, upto: Weights, above: Weights) -> tuple[Array, Array]:
        """Return the sums over different values of the squared and of the cubed weight of each, shape (K,) both.

        Args:
            own: Weight of each value, in descending order, shape (K, N).
            upto: As :meth:`cumulate` returns it.
            above: Likewise.
        """
        lone = own[0].astype(np.float64)  # every row holds the same weights in another order
        weight, high, low = (sums.reshape(-1)[self._mended].astype(np.float64) for sums in (own, upto, above))
        mass = high - low
        squares = lone @ lone + np.bincount(self._row, weight * (mass - weight), minlength=len(own))
        cubes = lone**2 @ lone + np.bincount(self._row, weight * (mass**2 - weight**2), minlength=len(own))
        return squares, cubes


def centred_ranks(columns: Array) -> Array:
    """Return twice the average rank less twice the mean rank, along the last axis.

    Args:
        columns: Shape (K, N), finite.

    Returns:
        Shape (K, N); all zeros where the values are all equal.
    """
    ordered = _Ordered(columns)
    places = np.empty(columns.shape)
    np.put_along_axis(places, ordered.order, _places(ordered, np.ones(columns.shape[1], dtype=np.int32))[0], axis=1)
    return places


def _places(ordered: _Ordered, w: Weights) -> tuple[Array, Array, Array]:
    """Return the places in descending order, (K, N), and the sums of squared and cubed weights of ties."""
    own = w[ordered.order]
    upto, above = ordered.cumulate(own)
    squares, cubes = ordered.tie_sums(own, upto, above)
    return (w.sum() - upto - above).astype(np.float64), squares, cubes


def rank_statistics(
    scores: Array,
    success: BoolArray | None,
    labels: Mapping[str, Array],
    weights: Callable[[int], Weights],
    replicates: int,
) -> RankStatistics:
    """Work out the rank statistics of every replicate and sweep.

    Args:
        scores: Shape (N, S), N > 0, finite.
        success: Shape (N,), or None.
        labels: Each of shape (N,), finite.
        weights: Returns how often each frame stands in replicate b, int32, shape (N,).
        replicates: B.
    """
    n, sweeps = scores.shape
    width = max(1, BLOCK // n)
    blocks = [_Block(scores, slice(i, i + width), success) for i in range(0, sweeps, width)]
    by_label = {name: _Ordered(label[None]) for name, label in labels.items()}
    shape = (replicates, sweeps)
    out = RankStatistics(
        success_places=None if success is None else np.empty(shape),
        average_precision=None if success is None else np.empty(shape),
        label_products={name: np.empty(shape) for name in labels},
        label_squares={name: np.empty(replicates) for name in labels},
        label_ties={name: np.empty(replicates) for name in labels},
        squares=np.empty(shape),
        ties=np.empty(shape),
        quantiles=np.empty((len(QUANTILES), *shape)),
    )
    for b in range(replicates):
        w = weights(b)
        total = int(w.sum())
        weighted_places = {}
        for name, ordered in by_label.items():
            places, squared, cubed = _places(ordered, w)
            out.label_ties[name][b] = squared[0]
            out.label_squares[name][b] = (float(total) ** 3 - cubed[0]) / 3
            weighted_places[name] = np.empty(n)
            weighted_places[name][ordered.order[0]] = places[0]
            weighted_places[name] *= w
        for block in blocks:
            block.fill(out, b, w, total, weighted_places)
    return out


class _Block:
    """A few sweeps, sorted once.

    Args:
        scores: Of all sweeps, shape (N, S).
        sweeps: The columns of this block.
        success: Shape (N,), or None.
    """

    def __init__(self, scores: Array, sweeps: slice, success: BoolArray | None) -> None:
        self.sweeps = sweeps
        columns = np.ascontiguousarray(scores[:, sweeps].T)
        self.ordered = _Ordered(columns)
        if success is not None:
            # the success frames by themselves, and where they stand among all: flat indices, shape (K, hits)
            self.hits = _Ordered(columns[:, success])
            self.at_hits = np.flatnonzero(success[self.ordered.order]).reshape(len(columns), -1)

    def fill(self, out: RankStatistics, b: int, w: Weights, total: int, weighted_places: Mapping[str, Array]) -> None:
        """Write the statistics of replicate b.

        Args:
            out: Where they go.
            b: Number of the replicate.
            w: How often each frame stands in it, shape (N,).
            total: Sum of w.
            weighted_places: Weight times place by label, each of shape (N,).
        """
        ordered, at = self.ordered, (b, self.sweeps)
        own = w[ordered.order]
        upto, above = ordered.cumulate(own)
        places = (total - upto - above).astype(np.float64)
        out.ties[at], cubes = ordered.tie_sums(own, upto, above)
        # sum of squared mid-ranks about their mean, (n^3 - sum t^3) / 12 for ties of weight t; places are doubled
        out.squares[at] = (float(total) ** 3 - cubes) / 3
        for name, weighted in weighted_places.items():
            out.label_products[name][at] = np.einsum("kn,kn->k", weighted[ordered.order], places)
        if out.success_places is not None and out.average_precision is not None:
            at_hits = self.at_hits
            own_hits, upto_hits = own.reshape(-1)[at_hits], upto.reshape(-1)[at_hits]
            out.success_places[at] = np.einsum("kn,kn->k", own_hits, places.reshape(-1)[at_hits])
            # at a threshold that no frame of the replicate reaches there is no hit either: 0 / 1
            precision = self.hits.cumulate_upto(own_hits) / np.maximum(upto_hits, 1)
            found = own_hits.sum(axis=1)
            summed = np.einsum("kn,kn->k", own_hits, precision)
            out.average_precision[at] = np.where(found > 0, summed / np.maximum(found, 1), np.nan)
        out.quantiles[:, b, self.sweeps] = self._quantiles(upto, total)

    def _quantiles(self, upto: Weights, total: int) -> Array:
        """Return the quantiles of the repeated scores, shape (2, K); NaN if there is none."""
        k = len(upto)
        if total == 0:
            return np.full((len(QUANTILES), k), np.nan)
        exact = np.array(QUANTILES) * (total - 1)
        low = np.floor(exact).astype(np.int64)
        high = np.minimum(low + 1, total - 1)
        # value number j from below is number total - 1 - j from above: the first with a larger sum up to it;
        # shifted by the total of the rows before, all rows are one ascending sequence
        shift = np.arange(k, dtype=np.int32)[:, None] * np.int32(total)
        wanted = (total - 1 - np.concatenate([low, high])).astype(np.int32)
        found = np.searchsorted((upto + shift).ravel(), shift + wanted, side="right")
        values = self.ordered.values.ravel()[found]  # (K, 4)
        below, beyond = values[:, : len(low)], values[:, len(low) :]
        return (below + (exact - low) * (beyond - below)).T
