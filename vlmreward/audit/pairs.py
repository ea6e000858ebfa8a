"""Pairs of frames of which one is further on: does the score agree?

Counting over all pairs is exact and takes O(N log N). Of a bootstrap replicate, whose pairs have weights, at most
``MOST_PAIRS`` pairs drawn at random are looked at, as one matrix product for all replicates and sweeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlmreward.audit.sample import Array, IntArray

MOST_PAIRS = 2**18
"""Pairs that replicates are worked out from; all there are up to about 720 frames, where replicates are exact.

A share in [-1, 1] estimated from so many random pairs is off by at most 0.002 (one standard deviation), which for 5,000
independent frames widens an interval by about 2 %, for dependent ones by less.
"""

PAIRS_AT_A_TIME = 8192
COUNTS_AT_A_TIME = 100_000


@dataclass(frozen=True)
class Ladder:
    """Frames by label, lowest first, and how many lie clearly below each.

    Attributes:
        order: Rows in ascending order of the label, shape (N,).
        reach: The first ``reach[p]`` of them have a label below that of place p by more than the margin, shape (N,).
    """

    order: IntArray
    reach: IntArray

    @property
    def pairs(self) -> int:
        """Return the number of pairs that are compared."""
        return int(self.reach.sum())


def make_ladder(label: Array, margin: float) -> Ladder:
    """Sort frames by a label.

    Args:
        label: Shape (N,), finite.
        margin: Pairs whose labels differ by no more than this are left out, >= 0.
    """
    order = np.argsort(label, kind="stable")
    ascending = label[order]
    return Ladder(order, np.searchsorted(ascending, ascending - margin, side="left"))


def agreement(scores: Array, ladder: Ladder) -> Array:
    """Return (concordant - discordant) / pairs over all pairs of a ladder; a tie of scores counts 0.

    Args:
        scores: Shape (N, S), finite.
        ladder: Of the labels of the same N frames.

    Returns:
        Shape (S,), in [-1, 1]; NaN if there is no pair.
    """
    n, sweeps = scores.shape
    if ladder.pairs == 0:
        return np.full(sweeps, np.nan)
    width = max(1, COUNTS_AT_A_TIME // n)
    difference = np.empty(sweeps)
    for start in range(0, sweeps, width):
        ranks = _dense_ranks(scores[ladder.order, start : start + width])
        difference[start : start + width] = _smaller_less_larger(ranks, ladder.reach)
    return difference / ladder.pairs


def _dense_ranks(scores: Array) -> IntArray:
    """Return the rank of each score among the different ones of its column, from 0: (N, S) to (S, N)."""
    return np.stack([np.unique(column, return_inverse=True)[1] for column in scores.T])


def _smaller_less_larger(ranks: IntArray, reach: IntArray) -> IntArray:
    """Count, for each p, how many of the first ``reach[p]`` values are smaller than value p, less those larger.

    A wavelet matrix: values are parted by one bit at a time, highest first, zeros before ones and otherwise in their
    order, so a prefix of the sequence stays a range of positions among the values that share p's higher bits. Where
    p has a one, the zeros of its range are smaller.

    Args:
        ranks: Shape (K, N), 0..N-1.
        reach: Shape (N,).

    Returns:
        Sums over p, shape (K,).
    """
    k, n = ranks.shape
    values, parted = ranks.copy(), np.empty_like(ranks)
    start = np.zeros_like(ranks)
    stop = np.broadcast_to(reach, ranks.shape)
    smaller = np.zeros(k, dtype=np.int64)
    zeros = np.zeros((k, n + 1), dtype=np.int64)  # before each position
    for bit in reversed(range(int(ranks.max()).bit_length())):
        one = (values >> bit) & 1 == 1
        np.cumsum(~one, axis=1, out=zeros[:, 1:])
        all_zeros = zeros[:, -1:]
        at_start, at_stop = (np.take_along_axis(zeros, at, axis=1) for at in (start, stop))
        asks_one = (ranks >> bit) & 1 == 1
        smaller += np.where(asks_one, at_stop - at_start, 0).sum(axis=1)
        start = np.where(asks_one, all_zeros + start - at_start, at_start)
        stop = np.where(asks_one, all_zeros + stop - at_stop, at_stop)
        target = np.where(one, all_zeros + np.arange(n) - zeros[:, :-1], zeros[:, :-1])
        np.put_along_axis(parted, target, values, axis=1)
        values, parted = parted, values
    equal = (stop - start).sum(axis=1)
    return smaller - (reach.sum() - smaller - equal)


def draw_pairs(ladder: Ladder, limit: int = MOST_PAIRS) -> tuple[IntArray, IntArray]:
    """Return rows of pairs, the one with the higher label first: all pairs, or ``limit`` of them drawn at random.

    The draw is the same for the same ladder: what it adds to an interval is stated at ``MOST_PAIRS``, and another
    seed would not tell more.
    """
    ends = np.cumsum(ladder.reach)
    if ladder.pairs <= limit:
        picks = np.arange(ladder.pairs)
    else:
        picks = np.sort(np.random.default_rng(0).integers(0, ladder.pairs, limit))
    high = np.searchsorted(ends, picks, side="right")
    low = picks - (ends[high] - ladder.reach[high])
    return ladder.order[high], ladder.order[low]


def agreement_of_replicates(scores: Array, ladder: Ladder, group: IntArray, counts: IntArray) -> Array:
    """Return the agreement of replicates, from at most ``MOST_PAIRS`` pairs of frames.

    Where not all pairs are used, every replicate is moved by the same amount, so that the replicate that holds
    each group once has the exact agreement.

    Args:
        scores: Shape (N, S), finite.
        ladder: Of the labels of the same N frames.
        group: Group of each frame, 0..G-1, shape (N,).
        counts: How often each group stands in each replicate, shape (B, G).

    Returns:
        Shape (B, S), in [-1, 1]; NaN where a replicate has no pair.
    """
    exact = agreement(scores, ladder)
    high, low = draw_pairs(ladder)
    # float32 holds these products and their sums over one turn of the loop exactly: whole numbers below 2^24
    per_group = np.ascontiguousarray(counts.T, dtype=np.float32)  # (G, B)
    ranks = np.ascontiguousarray(_dense_ranks(scores).T, dtype=np.float32)
    difference, weight = np.zeros((scores.shape[1], len(counts))), np.zeros(len(counts))
    plain = np.zeros(scores.shape[1])
    for start in range(0, len(high), PAIRS_AT_A_TIME):
        i, j = high[start : start + PAIRS_AT_A_TIME], low[start : start + PAIRS_AT_A_TIME]
        pair_weights = per_group[group[i]] * per_group[group[j]]  # (P, B)
        signs = np.sign(ranks[i] - ranks[j])  # (P, S)
        difference += signs.T @ pair_weights
        weight += pair_weights.sum(axis=0)
        plain += signs.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        replicates = np.where(weight > 0, difference / weight, np.nan).T
        return np.clip(replicates + (exact - plain / len(high)), -1, 1)
