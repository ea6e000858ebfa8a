"""Metrics of a progress estimate along whole episodes, one function each; NaN values are frames without an estimate.

What can't be computed (a constant, fewer than two frames, one kind of outcome) is NaN, never a number that stands for
it: average with ``numpy.nanmean`` and say how many were undefined. The time index stands beside each of them in every
table: it rises along every video, so that ``voc`` alone shows nothing.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from vlmreward.types import BoolArray

Floats = npt.NDArray[np.floating]
Array = npt.NDArray[np.float64]
Outcome = Literal["success", "partial", "failure"]

OUTCOMES: tuple[Outcome, ...] = ("success", "partial", "failure")


def average_ranks(values: Floats) -> Array:
    """Return ranks from 1, equal values sharing the mean of theirs; float64, shape (N,)."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[index]


def spearman(x: Floats, y: Floats) -> float:
    """Return the rank correlation in [-1, 1] over rows where both are known; NaN where one is constant.

    Args:
        x: Shape (N,).
        y: Shape (N,).
    """
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < 2:
        return float("nan")
    return _pearson(average_ranks(x[known]), average_ranks(y[known]))


def voc(progress: Floats) -> float:
    """Value-order correlation: the rank correlation of progress and time, in [-1, 1] (GVL, arXiv 2411.04549).

    NaN for a constant estimate, which a correlation by ``argsort`` would give 1. Pass estimates of frames, without the
    0 that an accumulation starts with.

    Args:
        progress: Of frames in their true order, shape (T,).
    """
    return spearman(progress, np.arange(len(progress), dtype=np.float64))


def vroc(progress_reversed: Floats) -> float:
    """Value-reversed-order correlation: agreement with true time of estimates made on the reversed clip, in [-1, 1].

    Args:
        progress_reversed: Of frames as they were shown, last frame of the episode first, shape (T,). An accumulation
            of a reversed clip starts at 1: from 0 it can't fall, and this would be NaN.
    """
    return voc(progress_reversed[::-1])


def voc_f1(forward: float, backward: float) -> float:
    """Return the harmonic mean of VOC and VROC, each taken as at least 0; 0 where both are, NaN where one is NaN."""
    if np.isnan(forward) or np.isnan(backward):
        return float("nan")
    a, b = max(forward, 0.0), max(backward, 0.0)
    return 2 * a * b / (a + b) if a + b > 0 else 0.0


def negative_rate(deltas: Floats) -> float:
    """Return the share of known steps that are below 0: low for successes, higher for failures."""
    known = deltas[np.isfinite(deltas)]
    return float((known < 0).mean()) if len(known) else float("nan")


def sign_accuracy(deltas: Floats, true_deltas: Floats, margin: float) -> tuple[float, float]:
    """Return how often the sign of a step is right, and how often there was none to be right with.

    Args:
        deltas: Estimated steps, shape (N,).
        true_deltas: True change of progress, shape (N,); rows that change by less than ``margin`` are left out.
        margin: > 0.

    Returns:
        Share of right signs among rows whose estimate is not 0, and share of rows whose estimate is 0.
    """
    rows = np.isfinite(deltas) & (np.abs(true_deltas) >= margin)
    told, truth = np.sign(deltas[rows]), np.sign(true_deltas[rows])
    if not len(told):
        return float("nan"), float("nan")
    signed = told != 0
    right = float((told[signed] == truth[signed]).mean()) if signed.any() else float("nan")
    return right, float((~signed).mean())


def antisymmetry(there: Floats, back: Floats) -> float:
    """Return the mean of ``|c(a, b) + c(b, a)|``, 0 for a critic without position bias; NaN without known pairs.

    Args:
        there: c(a, b), shape (N,).
        back: c(b, a), shape (N,).
    """
    residual = np.abs(there + back)
    residual = residual[np.isfinite(residual)]
    return float(residual.mean()) if len(residual) else float("nan")


def outcome(progress: Floats) -> Outcome | None:
    """Return the class of an episode by its progress (SARM, arXiv 2509.25358; eq. 58 of arXiv 2512.23703).

    ``success`` where the last value is above .8 and the mean of the last third above .6; else ``partial`` where the
    mean is at least .4; else ``failure``. Chance is 1/3.

    Args:
        progress: In [0, 1], shape (T,).

    Returns:
        None without any known value.
    """
    known = progress[np.isfinite(progress)]
    if not len(known):
        return None
    if known[-1] > 0.8 and known[-max(1, len(known) // 3) :].mean() > 0.6:
        return "success"
    return "partial" if known.mean() >= 0.4 else "failure"


def last_known(progress: Floats) -> float:
    """Return the last value that is known; NaN where none is."""
    known = progress[np.isfinite(progress)]
    return float(known[-1]) if len(known) else float("nan")


def auroc(values: Floats, marks: BoolArray) -> float:
    """Return the share of pairs of a marked and an unmarked row in which the marked one is higher, ties counted half.

    Args:
        values: Shape (N,), finite.
        marks: Shape (N,).

    Returns:
        In [0, 1]; NaN without one of the kinds.
    """
    positive = int(marks.sum())
    pairs = positive * (len(marks) - positive)
    if not pairs:
        return float("nan")
    return float((average_ranks(values)[marks].sum() - positive * (positive + 1) / 2) / pairs)


def brier(probability: Floats, marks: BoolArray) -> float:
    """Return the mean squared error of probabilities, in [0, 1]; shape (N,) both."""
    return float(((probability - marks) ** 2).mean()) if len(marks) else float("nan")


def calibration_error(probability: Floats, marks: BoolArray, bins: int = 10) -> float:
    """Return the expected calibration error: |mean probability - share marked| of equal bins, weighed by their rows.

    Args:
        probability: In [0, 1], shape (N,).
        marks: Shape (N,).
        bins: Number of equal bins of [0, 1].
    """
    if not len(marks):
        return float("nan")
    place = np.minimum((np.asarray(probability, np.float64) * bins).astype(int), bins - 1)
    gaps = np.abs(np.bincount(place, probability, bins) - np.bincount(place, marks, bins))
    return float(gaps.sum() / len(marks))


def confusion_gap(progress: Floats) -> float:
    """Return mean(diagonal) - mean(off-diagonal) of final progress, instructions by videos.

    A model that does not read the instruction has 0, whatever it thinks of the videos.

    Args:
        progress: Of the video of each column judged by the instruction of each row, shape (K, K), K > 1.
    """
    own = np.eye(len(progress), dtype=bool)
    return float(np.nanmean(progress[own]) - np.nanmean(progress[~own]))


def paraphrase_spread(progress: Floats) -> float:
    """Return the mean, over videos, of the standard deviation over paraphrases; shape (paraphrases, videos)."""
    return float(np.nanmean(np.nanstd(progress, axis=0)))


def _pearson(x: Array, y: Array) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x**2).sum() * (y**2).sum())
    return float(np.clip((x * y).sum() / size, -1, 1)) if size > 0 else float("nan")
