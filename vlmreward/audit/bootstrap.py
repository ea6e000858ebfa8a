"""Every metric of every sweep with a percentile bootstrap interval, and differences of metrics with theirs.

Groups are drawn with replacement, G of G: the frames of one rollout are dependent, and drawing them one by one would
give intervals that are far too narrow. All metrics and sweeps see the same draws, so that a difference of two is
taken draw by draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vlmreward.audit.draws import Draws
from vlmreward.audit.label_free import LABEL_FREE, cue_metrics
from vlmreward.audit.metrics import LABELLED, Better, Metric, correlation
from vlmreward.audit.rollouts import ROLLOUT
from vlmreward.audit.sample import Array, IntArray, Sample
from vlmreward.errors import ConfigError

REPLICATES = 1000
"""Draws of an interval: with 1000, an end of a 95 % interval is off by about 4 % of the interval's half-width."""

LEVEL = 0.95

MOST_UNDEFINED = 0.05
"""Largest share of replicates without a value: beyond it there is no interval.

An interval over the others would leave out just the draws that tell how little is known: with success in 2 of 20
rollouts, 12 % of the draws hold neither, and the rest say nothing of how successes differ.
"""


@dataclass(frozen=True)
class Estimate:
    """One metric of S sweeps, and its replicates.

    Attributes:
        value: Of the sample itself, shape (S,); NaN where undefined.
        replicates: Shape (B, S); NaN where a replicate has no value.
        better: Which end is good.
        undefined: When it is NaN, in words.
    """

    value: Array
    replicates: Array
    better: Better
    undefined: str

    def interval(self) -> tuple[Array, Array]:
        """Return the ends of the percentile interval at ``LEVEL``, each of shape (S,).

        With few groups (below about 20) percentile intervals are too narrow: state the number of groups.

        Returns:
            NaN where the value is undefined or more than ``MOST_UNDEFINED`` of the replicates are.
        """
        low, high = np.full((2, len(self.value)), np.nan)
        missing = np.isnan(self.replicates).mean(axis=0) if len(self.replicates) else np.ones(len(self.value))
        known = np.isfinite(self.value) & (missing <= MOST_UNDEFINED)
        if known.any():
            ends = (1 - LEVEL) / 2, (1 + LEVEL) / 2
            low[known], high[known] = np.nanquantile(self.replicates[:, known], ends, axis=0)
        return low, high


def draw_counts(groups: int, replicates: int = REPLICATES, seed: int = 0) -> IntArray:
    """Draw groups with replacement.

    Args:
        groups: G.
        replicates: B, >= 0; 0 gives values without intervals.
        seed: Same seed, same draws.

    Returns:
        How often each group was drawn, shape (B, G); rows sum to G.

    Raises:
        ConfigError: The number of replicates is negative.
    """
    if replicates < 0:
        raise ConfigError(f"replicates must be >= 0, got {replicates}")
    drawn = np.random.default_rng(seed).integers(0, max(groups, 1), (replicates, groups))
    drawn += groups * np.arange(replicates)[:, None]
    return np.bincount(drawn.ravel(), minlength=replicates * groups).reshape(replicates, groups)


def select_metrics(sample: Sample, names: Sequence[str] | None = None) -> tuple[Metric, ...]:
    """Return metrics by name, in the order of the tables.

    Args:
        sample: Says what is known.
        names: What to measure; None: everything that the sample allows.

    Raises:
        ConfigError: There is no such metric, or the sample lacks what it needs.
    """
    cues = [name for name in sample.labels if name != "progress"]
    every = (*LABELLED, *ROLLOUT, *LABEL_FREE, *cue_metrics(cues))
    facts = sample.facts()
    if names is None:
        return tuple(metric for metric in every if facts.issuperset(metric.needs))
    unknown = set(names) - {metric.name for metric in every}
    if unknown:
        raise ConfigError(f"there is no metric {min(unknown)!r}: choose from {', '.join(m.name for m in every)}")
    for metric in every:
        missing = set(metric.needs) - facts
        if metric.name in names and missing:
            raise ConfigError(f"{metric.name} needs {', '.join(sorted(missing))}: give it, or leave the metric out")
    return tuple(metric for metric in every if metric.name in names)


def estimate(sample: Sample, metrics: Iterable[Metric], counts: IntArray) -> dict[str, Estimate]:
    """Measure every sweep.

    Args:
        sample: N frames, S sweeps.
        metrics: What to measure (:func:`select_metrics`).
        counts: Draws of the sample's groups, shape (B, G) (:func:`draw_counts`).

    Returns:
        By the metrics' names. A sweep that scored no frame is NaN throughout.

    Raises:
        ConfigError: The draws are of another number of groups.
    """
    wanted = tuple(metrics)
    rows = _with_sample(sample, counts)
    tables = {metric.name: np.full((len(rows), sample.scores.shape[1]), np.nan) for metric in wanted}
    for _, columns, part in sample.split():
        draws = Draws(part, rows)
        for metric in wanted:
            tables[metric.name][:, columns] = metric.function(draws)
    return {m.name: Estimate(tables[m.name][0], tables[m.name][1:], m.better, m.undefined) for m in wanted}


def prompt_margin(measured: Estimate, own: npt.ArrayLike, others: npt.ArrayLike) -> Estimate:
    """Mismatched-prompt control: how much better a goal's own prompt does than the prompts of other goals.

    All are columns of one table, scored on the same frames against the labels of the one goal. A score that does
    not heed its prompt has a margin of 0, however high its metric.

    Args:
        measured: The metric of all columns.
        own: Columns of the goal's own prompt, one for each of R ways of scoring, shape (R,).
        others: Columns of the prompts of K other goals, scored in the same way, shape (R, K), K > 0.

    Returns:
        The metric with the own prompt less its mean with the others, of R sweeps, turned so that more is better;
        NaN where one of them is undefined.

    Raises:
        ConfigError: The metric has no better end, or the columns do not fit.
    """
    mine, theirs = _columns(own, others, len(measured.value))
    if measured.better == "neither":
        raise ConfigError("the metric is neither better high nor low: no prompt can win it, choose another one")
    sign = 1 if measured.better == "higher" else -1
    both = np.concatenate([measured.value[None], measured.replicates])
    margin = sign * (both[:, mine] - both[:, theirs].mean(axis=2))
    return Estimate(margin[0], margin[1:], "higher", f"{measured.undefined}, for the own prompt or another one")


def prompt_correlation(sample: Sample, own: npt.ArrayLike, others: npt.ArrayLike, counts: IntArray) -> Estimate:
    """Mean Pearson correlation of the score by the goal's own prompt with those by other goals' prompts, in [-1, 1].

    Needs no labels. Can tell: near 1, that the score looks at the picture and not at the prompt. Can't tell: near
    0, that it heeds the prompt in the right way; prompts of goals that are reached together (an arm up, a hand up)
    should correlate.

    Args:
        sample: Scores by all prompts on the same frames.
        own: Columns of the goal's own prompt, shape (R,).
        others: Columns of the other goals' prompts, shape (R, K), K > 0.
        counts: Draws of the sample's groups, shape (B, G).

    Returns:
        Of R sweeps, each pair over the frames that both prompts scored; NaN where one of the scores is constant or a
        pair has no frame.

    Raises:
        ConfigError: The columns do not fit, or the draws are of another number of groups.
    """
    mine, theirs = _columns(own, others, sample.scores.shape[1])
    rows = _with_sample(sample, counts)
    table = np.full((len(rows), *theirs.shape), np.nan)
    for k, other in enumerate(theirs.T):
        partners = sample.scores[:, other]
        shared = np.where(np.isfinite(partners), sample.scores[:, mine], np.nan)
        for kept, columns, part in replace(sample, scores=shared, width=None, noise=None).split():
            table[:, columns, k] = correlation(Draws(part, rows), partners[np.ix_(kept, columns)])
    why = "a score is constant, or no frame is scored by both prompts"
    return Estimate(table[0].mean(axis=1), table[1:].mean(axis=2), "lower", why)


def _with_sample(sample: Sample, counts: IntArray) -> IntArray:
    """Put the sample itself, each group once, before its draws."""
    if counts.ndim != 2 or counts.shape[1] != sample.groups:
        raise ConfigError(f"counts must have shape (B, {sample.groups}), got {counts.shape}: draw_counts makes them")
    return np.concatenate([np.ones((1, sample.groups), dtype=np.int64), counts])


def _columns(own: npt.ArrayLike, others: npt.ArrayLike, sweeps: int) -> tuple[IntArray, IntArray]:
    mine, theirs = np.asarray(own), np.asarray(others)
    fits = mine.ndim == 1 and theirs.ndim == 2 and len(theirs) == len(mine) and theirs.size > 0
    if not fits or min(mine.min(), theirs.min()) < 0 or max(mine.max(), theirs.max()) >= sweeps:
        raise ConfigError(
            f"own must have shape (R,) and others (R, K), columns of {sweeps} sweeps, got {mine.shape} and "
            f"{theirs.shape}: name the other goals' columns for each own one"
        )
    return mine, theirs
