"""Checks that need no labels: what they can tell is that a score is useless, never that it is good.

Each docstring says what the check can tell and what it can't.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from vlmreward.audit.draws import Draws, ratio
from vlmreward.audit.metrics import Metric, span, spearman
from vlmreward.audit.sample import Array


def usable_range(draws: Draws) -> Array:
    """Share of the possible rewards that the score uses: its 5th to 95th percentile span by the width of its range.

    Can tell: that frames as different as the sample's are all worth nearly the same, so that learning needs a
    scale. Can't tell: whether the differences mean anything; nor that a score is bad, for ranks may be right within
    a narrow span. NaN where the sweep declares no range.
    """
    return span(draws) / _per_sweep(draws.sample.width)


def range_in_noise(draws: Draws) -> Array:
    """The 5th to 95th percentile span of the score in units of its noise, >= 0.

    Can tell: below about 10, that rounding of the encoder or of stored embeddings is a visible part of the reward.
    Can't tell: how far the score moves with what does not matter in the picture, usually more. NaN where the noise
    is unknown.
    """
    return span(draws) / _per_sweep(draws.sample.noise)


def constant_share(draws: Draws) -> Array:
    """Share of rollouts in which the score never moves by more than its noise (0 where unknown), in [0, 1].

    Can tell: in how many rollouts the agent would learn nothing. Can't tell: whether those rollouts hold anything
    to be told apart (an arm that never moves should get a constant score). NaN without a rollout of 2 scored
    frames.
    """
    scores, starts = draws.scores, draws.starts
    moved = np.maximum.reduceat(scores, starts, axis=0) - np.minimum.reduceat(scores, starts, axis=0)
    noise = np.zeros(scores.shape[1]) if draws.sample.noise is None else np.nan_to_num(draws.sample.noise)
    several = (draws.sizes >= 2).astype(np.float64)
    still = (moved <= noise) * several[:, None]
    return ratio(draws.total_of_groups(still), draws.total_of_groups(several))


def between_share(draws: Draws) -> Array:
    """Share of the score's variance that lies between rollouts, corrected for chance (epsilon squared), <= 1.

    ``1 - (SS_within / (n - G)) / (SS_total / (n - 1))``: about 0 where rollouts differ no more than frames drawn at
    random, also slightly negative; 1 where the score is constant within each.

    Can tell: near 1, that the score follows what distinguishes rollouts (a scene, a light, a camera) rather than
    what the agent changes in the course of one. Can't tell: which; where some rollouts reach the goal and others
    never do, a good score has a large share too. NaN where no rollout has 2 scored frames, or the score is
    constant.
    """
    sums = draws.group_sums(draws.centred_scores)
    between = draws.total_of_groups(sums**2 / draws.sizes[:, None]) - ratio(draws.score_sum**2, draws.n)
    rollouts = draws.total_of_groups(np.ones(len(sums)))
    within = np.maximum(draws.score_deviation - between, 0)
    return 1 - ratio(ratio(within, draws.n - rollouts), ratio(draws.score_deviation, draws.n - 1))


def cue_metrics(cues: Iterable[str]) -> tuple[Metric, ...]:
    """Return one metric per cue: Spearman of the score and a number that any picture has, such as its brightness.

    Can tell: near 1 or -1, that the score may be little else than this cue, and that an agent could raise it by a
    trick. Can't tell: that it is; a goal may change the cue by itself (a lamp to be switched on). Of the frames that
    have the cue; NaN where there are none, or score or cue is constant in them.

    Args:
        cues: Names of numbers in the sample.
    """
    why = "score or cue is constant, or no frame has the cue"
    return tuple(Metric(f"spearman_{cue}", partial(_cue_correlation, cue=cue), (cue,), "neither", why) for cue in cues)


def _cue_correlation(draws: Draws, cue: str) -> Array:
    if cue in draws.sample.labels:
        return spearman(draws, cue)
    known = draws.sample.known(cue)
    if known is None:
        return np.full((len(draws.counts), draws.scores.shape[1]), np.nan)
    return spearman(Draws(known, draws.counts), cue)


def _per_sweep(values: Array | None) -> Array:
    assert values is not None, "a metric was asked for without what it needs"
    return values


LABEL_FREE = (
    Metric("usable_range", usable_range, ("width",), "higher", "the sweep declares no range"),
    Metric("range_in_noise", range_in_noise, ("noise",), "higher", "the noise of the sweep is unknown"),
    Metric("constant_share", constant_share, ("rollouts",), "neither", "no rollout has 2 scored frames"),
    Metric("between_share", between_share, ("rollouts",), "neither", "no 2 frames of a rollout, or a constant score"),
)
"""Checks that need no labels; those of cues are made by :func:`cue_metrics`."""
