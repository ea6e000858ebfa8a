"""Pairs of frames of which one is further on: does the score agree?

Counting over all pairs is exact and takes O(N log N). In a bootstrap replicate a pair stands as often as the product of
its frames' weights. What each frame adds by itself is exact there too; the rest is looked up in at most ``MOST_PAIRS``
pairs drawn at random, as one matrix product for all replicates and sweeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlmreward.audit.sample import Array, IntArray

MOST_PAIRS = 2**18
"""Pairs that are looked at for replicates; all there are up to about 720 frames, where replicates are exact.

With more frames a replicate is off by at most 1 / sqrt(pairs) = 0.002 (one standard deviation) in [-1, 1]. For 5,000
independent frames that widens an interval by 2 to 4 %; where frames of a rollout are dependent, by less.
"""

PAIRS_AT_A_TIME = 8192
COUNTS_AT_A_TIME = 100_000


@dataclass(frozen=True)
class Ladder:
    """Frames by label, lowest first, and how many lie clearly below each: a pair is a place and one of those.

    Attributes:
        order: Rows in ascending order of the label, shape (N,).
        reach: The first ``reach[p]`` places have a label below that of place p by more than the margin, shape (N,).
    """

    order: IntArray
    reach: IntArray

    @property
    def pairs(self) -> int:
        """Return the number of pairs."""
        return int(self.reach.sum())

    @property
    def followers(self) -> IntArray:
        """Return how many places have each one within their reach; they are the last ones, shape (N,)."""
        n = len(self.reach)
        return n - np.searchsorted(self.reach, np.arange(n), side="right")


def make_ladder(label: Array, margin: float) -> Ladder:
    """Sort frames by a label.

    Args:
        label: Shape (N,), finite.
        margin: Pairs whose labels differ by no more than this are left out, >= 0.
    """
    order = np.argsort(label, kind="stable")
    ascending = label[order]
    return Ladder(order, np.searchsorted(ascending, ascending - margin, side="left"))


def tally_places(scores: Array, ladder: Ladder) -> IntArray:
    """Count the concordant less the discordant pairs that each place is in; a tie of scores counts 0.

    Args:
        scores: Shape (N, S), finite.
        ladder: Of the labels of the same N frames.

    Returns:
        In the order of the ladder, shape (N, S); each pair is counted at both of its places.
    """
    n, sweeps = scores.shape
    width = max(1, COUNTS_AT_A_TIME // n)
    out = np.empty((n, sweeps), dtype=np.int64)
    for start in range(0, sweeps, width):
        ranks = _dense_ranks(scores[ladder.order, start : start + width])
        as_further = _smaller_less_larger(ranks, ladder.reach)
        as_nearer = -_smaller_less_larger(ranks[:, ::-1], ladder.followers[::-1])[:, ::-1]
        out[:, start : start + width] = (as_further + as_nearer).T
    return out


def _dense_ranks(scores: Array) -> IntArray:
    """Return the rank of each score among the different ones of its column, from 0: (N, S) to (S, N)."""
    return np.stack([np.unique(column, return_inverse=True)[1] for column in scores.T])


def _smaller_less_larger(ranks: IntArray, reach: IntArray) -> IntArray:
    """Count, for each p, how many of the first ``reach[p]`` values are smaller than value p, less those larger.

    A wavelet matrix: values are parted by one bit at a time, highest first, zeros before ones and otherwise in their
    order, so a prefix of the sequence stays a range of positions among the values that share p's higher bits. Where p
    has a one, the zeros of its range are smaller.

    Args:
        ranks: Shape (K, N), 0..N-1.
        reach: Shape (N,).

    Returns:
        Shape (K, N).
    """
    k, n = ranks.shape
    values, parted = ranks.copy(), np.empty_like(ranks)
    start = np.zeros_like(ranks)
    stop = np.broadcast_to(reach, ranks.shape)
    smaller = np.zeros_like(ranks)
    zeros = np.zeros((k, n + 1), dtype=np.int64)  # before each position
    for bit in reversed(range(int(ranks.max()).bit_length())):
        one = (values >> bit) & 1 == 1
        np.cumsum(~one, axis=1, out=zeros[:, 1:])
        all_zeros = zeros[:, -1:]
        at_start, at_stop = (np.take_along_axis(zeros, at, axis=1) for at in (start, stop))
        asks_one = (ranks >> bit) & 1 == 1
        smaller += np.where(asks_one, at_stop - at_start, 0)
        start = np.where(asks_one, all_zeros + start - at_start, at_start)
        stop = np.where(asks_one, all_zeros + stop - at_stop, at_stop)
        target = np.where(one, all_zeros + np.arange(n) - zeros[:, :-1], zeros[:, :-1])
        np.put_along_axis(parted, target, values, axis=1)
        values, parted = parted, values
    equal = stop - start
    return smaller - (reach - smaller - equal)


def draw_pairs(ladder: Ladder, limit: int) -> tuple[IntArray, IntArray]:
    """Return rows of pairs, the further frame first: all pairs, or ``limit`` of them drawn at random.

    The draw is the same for the same ladder: what it adds to an interval is stated at ``MOST_PAIRS``, and another seed
    would not tell more.
    """
    ends = np.cumsum(ladder.reach)
    if ladder.pairs <= limit:
        picks = np.arange(ladder.pairs)
    else:
        picks = np.sort(np.random.default_rng(0).integers(0, ladder.pairs, limit))
    further = np.searchsorted(ends, picks, side="right")
    nearer = picks - (ends[further] - ladder.reach[further])
    return ladder.order[further], ladder.order[nearer]


def agreement(scores: Array, ladder: Ladder, group: IntArray, counts: IntArray) -> Array:
    """Return (concordant - discordant) / pairs of each replicate; a tie of scores counts 0.

    With a the agreement of the sample itself, k = 1, 0 or -1 for a pair and weights w = 1 + d, that of a replicate is

        a + [sum over frames of w (tally - a pairs) + sum over pairs of d d' (k - a)] / sum over pairs of w w'.

    All but the sum of d d' (k - a) is exact; that is taken from at most ``MOST_PAIRS`` pairs.

    Args:
        scores: Shape (N, S), finite.
        ladder: Of the labels of the same N frames.
        group: Group of each frame, 0..G-1, shape (N,).
        counts: How often each group stands in each replicate, shape (B, G).

    Returns:
        Shape (B, S), in [-1, 1]; NaN where a replicate has no pair. Exact where every group stands once.
    """
    if ladder.pairs == 0:
        return np.full((len(counts), scores.shape[1]), np.nan)
    tallies = tally_places(scores, ladder)
    itself = tallies.sum(axis=0) / (2 * ladder.pairs)  # (S,)
    excess = np.zeros((counts.shape[1], scores.shape[1]))
    np.add.at(excess, group[ladder.order], tallies - itself * (ladder.reach + ladder.followers)[:, None])
    both = _both_frames(scores, draw_pairs(ladder, MOST_PAIRS), group, counts, itself)
    weight = _pair_weight(ladder, group, counts)
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = np.where(weight > 0, (counts @ excess + ladder.pairs * both) / weight, np.nan)
    return np.clip(itself + moved, -1, 1)


def _both_frames(
    scores: Array, pairs: tuple[IntArray, IntArray], group: IntArray, counts: IntArray, itself: Array
) -> Array:
    """Return the mean of d d' (k - a) over pairs, shape (B, S)."""
    # float32 holds these products, and their sums over one turn of the loop, exactly: whole numbers below 2^24
    deviation = np.ascontiguousarray(counts.T - 1, dtype=np.float32)  # (G, B)
    ranks = np.ascontiguousarray(_dense_ranks(scores).T, dtype=np.float32)
    signed, plain = np.zeros((scores.shape[1], len(counts))), np.zeros(len(counts))
    for start in range(0, len(pairs[0]), PAIRS_AT_A_TIME):
        i, j = (rows[start : start + PAIRS_AT_A_TIME] for rows in pairs)
        product = deviation[group[i]] * deviation[group[j]]  # (pairs, B)
        signed += np.sign(ranks[i] - ranks[j]).T @ product
        plain += product.sum(axis=0)
    return (signed.T - plain[:, None] * itself) / len(pairs[0])


def _pair_weight(ladder: Ladder, group: IntArray, counts: IntArray) -> Array:
    """Return how many pairs each replicate has, shape (B, 1)."""
    out = np.empty((len(counts), 1))
    places = group[ladder.order]
    below = np.zeros(len(places) + 1, dtype=np.int64)
    for b, count in enumerate(counts):
        w = count[places]
        np.cumsum(w, out=below[1:])
        out[b] = w @ below[ladder.reach]
    return out
