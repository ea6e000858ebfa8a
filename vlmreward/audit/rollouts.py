"""Metrics of whole rollouts: does the score rise in time, and more so where the goal is reached?

VOC, the value-order correlation, is that of GVL (arXiv 2411.04549): Spearman of score and time within a rollout.
What differs: ranks are averages, where a literal argsort gives a constant score 1; a rollout in which the score is
constant, or of which fewer than 2 frames are scored, has no VOC and is counted instead. Frames are scored one by
one, so no score starts at an artificial 0 and none is given the order away. The time index itself has a VOC of 1: a
high VOC alone shows nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vlmreward.audit.draws import Draws, ratio
from vlmreward.audit.metrics import Metric
from vlmreward.audit.ranks import centred_ranks
from vlmreward.audit.sample import Array


def voc(draws: Draws) -> Array:
    """Mean over rollouts of Spearman(score, time), in [-1, 1].

    Rollouts in which it is undefined are left out (see :func:`voc_undefined`); NaN where that is all of them.
    """
    return _mean_voc(draws, np.ones(len(draws.starts)))


def spearman_within(draws: Draws, label: str) -> Array:
    """Mean over rollouts of Spearman(score, label), in [-1, 1]: does the score follow the label in the course of one?

    Rollouts in which score or label is constant are left out; NaN where that is all of them.

    Args:
        draws: Replicates.
        label: ``"progress"`` or a cue.
    """
    return _mean_defined(draws, _spearman_of_rollouts(draws, draws.label(label)), np.ones(len(draws.starts)))


def voc_gap(draws: Draws) -> Array:
    """Failure discrimination: VOC of the rollouts that end in success less that of the others, in [-2, 2].

    A rollout ends in success if its last scored frame shows it. Near 0 for whatever merely rises with time. NaN
    where one of the two kinds has no defined VOC.
    """
    ends = draws.starts + draws.sizes - 1
    reached = draws.label("success")[ends]
    return _mean_voc(draws, reached) - _mean_voc(draws, 1 - reached)


def voc_undefined(draws: Draws) -> Array:
    """Share of rollouts without a VOC, in [0, 1]: the score is constant there, or only one frame is scored."""
    missing = np.isnan(_spearman_of_rollouts(draws, draws.sample.step)).astype(np.float64)
    return ratio(draws.total_of_groups(missing), draws.total_of_groups(np.ones(len(missing))))


def _mean_voc(draws: Draws, kept: Array) -> Array:
    """Return the mean VOC over the rollouts that are kept, (groups,) of 0 and 1, and defined."""
    return _mean_defined(draws, _spearman_of_rollouts(draws, draws.sample.step), kept)


def _mean_defined(draws: Draws, values: Array, kept: Array) -> Array:
    """Return the mean of values (groups, S) over the rollouts that are kept, (groups,) of 0 and 1, and not NaN."""
    defined = np.isfinite(values) * kept[:, None]
    return ratio(draws.total_of_groups(np.where(defined, values, 0.0)), draws.total_of_groups(defined))


def _spearman_of_rollouts(draws: Draws, others: npt.NDArray[np.generic]) -> Array:
    """Return Spearman(score, other number), others (N,), of each rollout, shape (groups, S)."""
    out = np.full((len(draws.starts), draws.scores.shape[1]), np.nan)
    for i, (start, size) in enumerate(zip(draws.starts, draws.sizes, strict=True)):
        rows = slice(start, start + size)
        if size >= 2:
            other = centred_ranks(others[None, rows].astype(np.float64))[0]
            places = centred_ranks(draws.scores[rows].T)
            out[i] = ratio(places @ other, np.sqrt((places**2).sum(axis=1) * (other @ other)))
    return out


ROLLOUT = (
    Metric("voc", voc, ("rollouts",), "higher", "no rollout has 2 scored frames and a score that varies"),
    Metric("voc_gap", voc_gap, ("rollouts", "success"), "higher", "VOC is undefined for successes or for failures"),
    Metric("voc_undefined", voc_undefined, ("rollouts",), "neither", "there is no rollout"),
)
"""Metrics that need rollouts."""
