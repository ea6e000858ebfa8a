"""Compare rewards on frames whose truth is known, and baselines beside them, from embeddings that are computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vlmreward.audit.bootstrap import (
    REPLICATES,
    Estimate,
    draw_counts,
    estimate,
    prompt_correlation,
    prompt_margin,
    select_metrics,
)
from vlmreward.audit.gallery import Gallery
from vlmreward.audit.sample import Array, IntArray, Sample, make_sample
from vlmreward.audit.table import MetricTable, make_table
from vlmreward.types import RewardModel

NOISE = 1e-4
"""What storing embeddings in float16 can move a cosine by; precision bf16 moves it by up to 1e-3."""

SCORE = "audit_score"
PARTS = {"auroc", "spearman_progress"}
"""Metrics that the score is made of."""


@dataclass(frozen=True)
class Variant:
    """One way of scoring.

    Attributes:
        name: Short, unique; says what differs from the others.
        settings: What it is, for the columns of a report: goal, baseline, alpha, encoder, ...
        encoder_id: Whose embeddings it scores.
        model: The reward model.
        mismatched: The same with the prompts of other goals in the goal's place, by those prompts; as many for every
            variant of an audit, and the same object where variants share it.
    """

    name: str
    settings: Mapping[str, Any]
    encoder_id: str
    model: RewardModel
    mismatched: Mapping[str, RewardModel]


@dataclass(frozen=True)
class View:
    """The result on the frames of one look.

    Attributes:
        settings: The environment's arguments that give the look.
        gallery: The frames.
        variants: What was compared.
        scores: Rewards of the variants, shape (N, V); NaN where a frame could not be scored.
        table: Metrics of the variants, then of the baselines.
    """

    settings: Mapping[str, Any]
    gallery: Gallery
    variants: tuple[Variant, ...]
    scores: Array
    table: MetricTable

    @property
    def best(self) -> int:
        """Return the number of the best variant by :data:`SCORE`; by its spread where there are no labels."""
        values = self.table.columns[SCORE if SCORE in self.table.columns else "range_in_noise"].value
        own = values[: len(self.variants)]
        return int(np.nanargmax(own)) if np.isfinite(own).any() else 0


def audit_view(
    gallery: Gallery,
    variants: Sequence[Variant],
    settings: Mapping[str, Any] | None = None,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> View:
    """Measure variants and baselines on the frames of one look.

    Args:
        gallery: The frames, encoded by the variants' encoders.
        variants: At least one.
        settings: What gives the look.
        replicates: Draws of the bootstrap.
        seed: Of the draws and of the random baseline.
    """
    own = np.stack([gallery.score(v.model, v.encoder_id) for v in variants], axis=1)
    baselines = gallery.baselines(seed)
    blank = [np.nan] * len(baselines)
    ranges = [v.model.range[1] - v.model.range[0] for v in variants]
    labels: dict[str, Any] = {
        "success": _if_both_kinds(gallery.success),
        "progress": gallery.progress,
        "group": gallery.episode,
        "step": gallery.step,
    }
    sample = make_sample(
        np.column_stack([own, *baselines.values()]),
        cues=gallery.cues,
        width=np.array([r if np.isfinite(r) and r > 0 else np.nan for r in ranges] + blank),
        noise=np.array([NOISE] * len(variants) + blank),
        **labels,
    )
    counts = draw_counts(sample.groups, replicates, seed)
    estimates = estimate(sample, select_metrics(sample), counts)
    if PARTS & set(estimates):
        estimates[SCORE] = audit_score(estimates)
    if variants[0].mismatched:
        foreign, columns = _mismatched(gallery, variants)
        both = make_sample(np.column_stack([own, foreign]), **labels)
        estimates |= {
            name: _padded(e, sample.scores.shape[1])
            for name, e in _controls(both, estimates.get(SCORE), columns, counts).items()
        }
    names = [*(v.name for v in variants), *(f"baseline: {name}" for name in baselines)]
    return View(dict(settings or {}), gallery, tuple(variants), own, make_table(names, sample, estimates))


def audit_score(estimates: Mapping[str, Estimate]) -> Estimate:
    """Return one number to compare rewards by: the smaller of 2 AUROC - 1 and Spearman with progress, in [-1, 1].

    A reward needs both, to be highest at the goal and to rise on the way to it; 0 is chance in either. Where one of
    them is not known, it is the other.
    """
    parts = []
    if "auroc" in estimates:
        a = estimates["auroc"]
        parts.append((2 * a.value - 1, 2 * a.replicates - 1, a.undefined))
    if "spearman_progress" in estimates:
        s = estimates["spearman_progress"]
        parts.append((s.value, s.replicates, s.undefined))
    values, replicates, why = zip(*parts, strict=True)
    return Estimate(np.minimum.reduce(values), np.minimum.reduce(replicates), "higher", " or ".join(why))


def _mismatched(gallery: Gallery, variants: Sequence[Variant]) -> tuple[Array, IntArray]:
    """Score the frames by other goals' prompts, each model once.

    Returns:
        Rewards, shape (N, F), and for each variant the columns of its K models among the own ones and these, (V, K).
    """
    models: dict[int, int] = {}
    scores: list[Array] = []
    columns = np.empty((len(variants), len(variants[0].mismatched)), np.int64)
    for i, variant in enumerate(variants):
        for k, model in enumerate(variant.mismatched.values()):
            if id(model) not in models:
                models[id(model)] = len(scores)
                scores.append(gallery.score(model, variant.encoder_id))
            columns[i, k] = len(variants) + models[id(model)]
    return np.stack(scores, axis=1), columns


def _controls(both: Sample, own: Estimate | None, theirs: IntArray, counts: IntArray) -> dict[str, Estimate]:
    """Return what other goals' prompts do in the place of each variant's own.

    Args:
        both: The variants' scores, then those of the other prompts.
        own: The audit score of the variants (and of more behind them), if there are labels.
        theirs: Columns of the other prompts for each variant, shape (V, K).
        counts: The draws.
    """
    mine = np.arange(len(theirs))
    controls = {"prompt_correlation": prompt_correlation(both, mine, theirs, counts)}
    if own is not None:
        foreign = replace(both, scores=both.scores[:, len(mine) :])
        # two metrics are enough for the score: there may be several times as many of these columns as of the others
        measured = audit_score(estimate(foreign, select_metrics(foreign, sorted(PARTS & _known(foreign))), counts))
        score = Estimate(
            np.concatenate([own.value[: len(mine)], measured.value]),
            np.concatenate([own.replicates[:, : len(mine)], measured.replicates], axis=1),
            own.better,
            own.undefined,
        )
        controls["prompt_margin"] = prompt_margin(score, mine, theirs)
    return controls


def _known(sample: Sample) -> set[str]:
    return {metric.name for metric in select_metrics(sample)}


def _if_both_kinds(success: np.ndarray | None) -> np.ndarray | None:
    """Return the labels if they tell frames apart."""
    return success if success is not None and success.any() and not success.all() else None


def _padded(estimate: Estimate, count: int) -> Estimate:
    missing = count - len(estimate.value)
    return Estimate(
        np.pad(estimate.value, (0, missing), constant_values=np.nan),
        np.pad(estimate.replicates, ((0, 0), (0, missing)), constant_values=np.nan),
        estimate.better,
        f"{estimate.undefined}, or a baseline without a prompt",
    )
