"""Metrics of a score against labels: success (goal shown or not) and progress (any number that grows towards it).

Each takes :class:`Draws` and returns one number per replicate and sweep, shape (B, S); NaN where it is undefined,
never a number that stands for "unknown". Frames weigh the same, so the distribution of states is that of the
sample: say where the frames come from beside every figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from vlmreward.audit.draws import Draws, ratio
from vlmreward.audit.ranks import QUANTILES
from vlmreward.audit.sample import Array

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Metric:
    """A metric of a table.

    Attributes:
        name: Its name.
        function: Returns one number per replicate and sweep, shape (B, S).
        needs: What the sample must know: ``success``, ``progress``, ``rollouts``, ``width``, ``noise``, a cue's name.
        better: Which end is good; ``"neither"`` where a number only warns.
        undefined: When it is NaN, in words.
    """

    name: str
    function: Callable[[Draws], Array]
    needs: tuple[str, ...]
    better: Better
    undefined: str


def pearson(draws: Draws, label: str) -> Array:
    """Pearson correlation of score and label, in [-1, 1]; NaN where one of them is constant.

    Args:
        draws: Replicates.
        label: ``"success"`` (the point-biserial correlation) or ``"progress"``.
    """
    return correlation(draws, draws.label(label)[:, None])


def correlation(draws: Draws, others: Array) -> Array:
    """Pearson correlation of the scores with other numbers, shape (N, 1), or one column for each sweep, (N, S)."""
    y = others - others.mean(axis=0)
    sum_y = draws.total(y)
    deviation_y = draws.deviation(draws.total(y**2), sum_y, draws.n)
    product = draws.total(draws.centred_scores * y) - ratio(draws.score_sum * sum_y, draws.n)
    return np.clip(ratio(product, np.sqrt(draws.score_deviation * deviation_y)), -1, 1)


def epic(draws: Draws, label: str) -> Array:
    """EPIC distance between the score and the labels taken as reward: ``sqrt((1 - rho) / 2)``, in [0, 1].

    EPIC (arXiv 2006.13900) takes the Pearson distance of two canonical rewards,

        C(s, a, s') = R(s, a, s') + E[g R(s', A, S') - R(s, A, S') - g R(S, A, S')],

    S and S' drawn independently from one distribution of states. A reward of one state alone becomes
    ``g (r(s') - E r)`` where ``R = r(s)``, and ``r(s') - E r`` where ``R = r(s')``: the same up to a positive
    factor, which Pearson does not see. So nothing is left to canonicalise, and rho is the Pearson correlation over
    single frames, whatever the discount g > 0, as in VLM-RM (arXiv 2310.12921, appendix A). The distribution of
    states, for expectation and comparison alike, is that of the sample, each frame weighing the same; VLM-RM takes
    uniform states for its toys, states of expert rollouts for the humanoid, and binary labels made by its authors.

    0: the same reward up to a positive factor, a constant and potential shaping; 0.707: unrelated; 1: opposite.
    NaN where score or label is constant.

    Args:
        draws: Replicates.
        label: ``"success"``, as in VLM-RM, or ``"progress"``.
    """
    return np.sqrt((1 - pearson(draws, label)) / 2)


def spearman(draws: Draws, label: str) -> Array:
    """Spearman correlation of score and label, in [-1, 1], average ranks; NaN where one of them is constant.

    Args:
        draws: Replicates.
        label: ``"progress"`` or a cue.
    """
    ranks = draws.ranks
    spread = np.sqrt(ranks.squares * ranks.label_squares[label][:, None])
    return np.clip(ratio(ranks.label_products[label], spread), -1, 1)


def auroc(draws: Draws) -> Array:
    """Probability that a success frame scores above another one, ties 1/2, in [0, 1].

    0.5: chance, and what a constant score gets. NaN without a success frame or without another one.
    """
    assert draws.ranks.success_places is not None
    positive = draws.total(draws.label("success"))
    return 0.5 + ratio(draws.ranks.success_places, 2 * positive * (draws.n - positive))


def auprc(draws: Draws) -> Array:
    """Average precision: the sum over thresholds of (gain in recall) x precision, in [0, 1].

    Frames of equal score pass a threshold together, so their order does not matter. Chance, and what a constant score
    gets, is the share of success frames, not 0.5: compare within one sample only. NaN without a success frame.
    """
    assert draws.ranks.average_precision is not None
    return draws.ranks.average_precision


def cohen_d(draws: Draws) -> Array:
    """Mean score of success frames less that of the others, in standard deviations (pooled, n - 2).

    Tells how far apart the two heaps lie relative to their width. NaN without both kinds of frames, with fewer than 3,
    or where the score has no spread within either kind (the distance would be infinite, or 0/0).
    """
    marks = draws.label("success")[:, None]
    within = np.zeros_like(draws.score_sum)
    for kind in (marks, 1 - marks):
        x = draws.centred_scores * kind
        within += draws.deviation(draws.total(x**2), draws.total(x), draws.total(kind))
    return ratio(_gap(draws), np.sqrt(ratio(within, draws.n - 2)))


def gap_share(draws: Draws) -> Array:
    """Mean score of success frames less that of the others, as a share of the span that the score uses.

    The span is that between the 5th and 95th percentile of all scores. Tells how much of what the agent can gain by
    moving the score is gained by reaching the goal; about 1 where the score jumps at the goal. A goal that
    is rarer than one frame in 20 lies outside the span, and the share may exceed 1. NaN without both kinds of
    frames, or where the span is 0.
    """
    return ratio(_gap(draws), span(draws))


def _gap(draws: Draws) -> Array:
    """Return the mean score of success frames less that of the others, shape (B, S)."""
    marks = draws.label("success")
    positive = draws.total(marks)
    high = draws.total(draws.centred_scores * marks[:, None])
    return ratio(high, positive) - ratio(draws.score_sum - high, draws.n - positive)


def span(draws: Draws) -> Array:
    """Return the distance between the 5th and the 95th percentile of the scores, shape (B, S)."""
    low, high = draws.ranks.quantiles
    assert len(QUANTILES) == 2
    return high - low


def pairwise_accuracy(draws: Draws) -> Array:
    """How often, of two frames whose progress differs by more than the margin, the further one scores higher; ties 1/2.

    0.5: chance, and what a constant score gets. NaN where no two frames differ so much. Exact over all pairs for the
    sample itself, from at most ``pairs.MOST_PAIRS`` of them in a replicate.
    """
    return (1 + draws.agreement(draws.sample.margin)) / 2


def kendall_tau_b(draws: Draws) -> Array:
    """Kendall's tau-b of score and progress: ``(C - D) / sqrt((n0 - n1)(n0 - n2))``, in [-1, 1].

    n0 is the number of pairs, n1 and n2 those tied in score and in progress. The margin is not used. NaN where
    score or progress is constant. Exact for the sample itself; of a replicate, ``(C - D) / (n0 - n2)`` is from at
    most ``pairs.MOST_PAIRS`` pairs and the numbers of ties are exact.
    """
    ranks = draws.ranks
    untied_label = (draws.n**2 - ranks.label_ties["progress"][:, None]) / 2
    untied_score = (draws.n**2 - ranks.ties) / 2
    return np.clip(draws.agreement(0.0) * np.sqrt(ratio(untied_label, untied_score)), -1, 1)


_ONE_CONSTANT = "score or label is constant"
_ONE_KIND = "the frames do not show both success and its absence"

LABELLED = (
    Metric("epic_success", partial(epic, label="success"), ("success",), "lower", _ONE_CONSTANT),
    Metric("pearson_success", partial(pearson, label="success"), ("success",), "higher", _ONE_CONSTANT),
    Metric("auroc", auroc, ("success",), "higher", _ONE_KIND),
    Metric("auprc", auprc, ("success",), "higher", "no frame shows success"),
    Metric("cohen_d", cohen_d, ("success",), "higher", f"{_ONE_KIND}, or the score does not vary within either"),
    Metric("gap_share", gap_share, ("success",), "higher", f"{_ONE_KIND}, or the score has no span"),
    Metric("epic_progress", partial(epic, label="progress"), ("progress",), "lower", _ONE_CONSTANT),
    Metric("pearson_progress", partial(pearson, label="progress"), ("progress",), "higher", _ONE_CONSTANT),
    Metric("spearman_progress", partial(spearman, label="progress"), ("progress",), "higher", _ONE_CONSTANT),
    Metric("pairwise_accuracy", pairwise_accuracy, ("progress",), "higher", "no two frames differ by the margin"),
    Metric("kendall_tau_b", kendall_tau_b, ("progress",), "higher", _ONE_CONSTANT),
)
"""Metrics that need labels."""
