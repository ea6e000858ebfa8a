"""The metrics of progress of every model and baseline on the same episodes, in one table, with intervals.

A metric is the mean over episodes, or is computed of all of them together; its interval is a percentile bootstrap over
episodes, the same draws for every row. An episode of which nothing is recorded counts as one that shows how it is done.
What is undefined is NaN, never a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmreward.audit.bootstrap import MOST_UNDEFINED
from vlmreward.audit.metrics import Better
from vlmreward.audit.progress_metrics import (
    antisymmetry,
    auroc,
    brier,
    calibration_error,
    confusion_gap,
    last_known,
    negative_rate,
    outcome,
    paraphrase_spread,
    sign_accuracy,
    spearman,
    voc,
    voc_f1,
    vroc,
)
from vlmreward.audit.progress_readings import Film, Reading
from vlmreward.audit.report_card import Figure

Rows = npt.NDArray[np.int64]
Pair = tuple[Film, Reading]
Statistic = Callable[[Rows], float]
"""A metric of some of the episodes, drawn with replacement."""

SHARE = 0.1
"""Steps whose sign is judged lead over a tenth of an episode."""
MARGIN = 0.05
"""True progress must change by as much for a step to have a right sign."""

NAN = float("nan")


@dataclass(frozen=True)
class Metric:
    """One column.

    Attributes:
        heading: On the page and at the terminal.
        better: Which end is good.
        says: What it tells, in a line.
        measure: Returns the statistic of a row's episodes.
    """

    heading: str
    better: Better
    says: str
    measure: Callable[[Sequence[Pair]], Statistic]


def mean_of(value: Callable[[Film, Reading], float]) -> Callable[[Sequence[Pair]], Statistic]:
    """Return a metric that is the mean of a value of each episode, over those where it is defined."""

    def measure(pairs: Sequence[Pair]) -> Statistic:
        values = np.array([value(film, reading) for film, reading in pairs], np.float64)

        def mean(rows: Rows) -> float:
            known = values[rows][np.isfinite(values[rows])]
            return float(known.mean()) if len(known) else NAN

        return mean

    return measure


def _of_demonstrations(value: Callable[[Reading], float]) -> Callable[[Film, Reading], float]:
    return lambda film, reading: NAN if film.success is False else value(reading)


def _of_failures(value: Callable[[Reading], float]) -> Callable[[Film, Reading], float]:
    return lambda film, reading: value(reading) if film.success is False else NAN


def _voc(reading: Reading) -> float:
    return voc(reading.forward)


def _voc_gap(pairs: Sequence[Pair]) -> Statistic:
    good, bad = (mean_of(side(_voc))(pairs) for side in (_of_demonstrations, _of_failures))
    return lambda rows: good(rows) - bad(rows)


def _negative(reading: Reading) -> float:
    return negative_rate(np.diff(reading.forward))


def _signs(film: Film, reading: Reading, which: int) -> float:
    """Return the share of right signs (0) or of ties (1) among steps; time is the truth where there is no other."""
    gap = max(1, round(SHARE * len(film.step)))
    moved = reading.forward[gap:] - reading.forward[:-gap]
    if film.progress is not None:
        return sign_accuracy(moved, film.progress[gap:] - film.progress[:-gap], MARGIN)[which]
    return NAN if film.success is False else sign_accuracy(moved, np.ones(len(moved)), 1)[which]


def _own_less_others(film: Film, reading: Reading) -> float:
    others = np.array([end for text, end in reading.ends.items() if text != film.instruction])
    known = others[np.isfinite(others)]
    if film.success is False or not len(known):
        return NAN
    return reading.ends[film.instruction] - float(known.mean())


def _end_of_others(film: Film, reading: Reading) -> float:
    others = np.array([end for text, end in reading.ends.items() if text != film.instruction])
    known = others[np.isfinite(others)]
    return float(known.mean()) if len(known) else NAN


class Confusion:
    """Last values by the instruction that was given and the one that a video shows done.

    Args:
        pairs: Episodes; failures show nothing done.

    Attributes:
        texts: The K instructions.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        shown = [film.instruction if film.success is not False else None for film, _ in pairs]
        self.texts = list(dict.fromkeys(text for text in shown if text is not None))
        self._shows = np.array([-1 if text is None else self.texts.index(text) for text in shown])
        ends = [[reading.ends.get(text, NAN) for _, reading in pairs] for text in self.texts]
        self._ends = np.array(ends, np.float64).reshape(len(self.texts), len(pairs))

    def table(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return mean last values of some episodes, the instruction given in the rows, shape (K, K); NaN: not known."""
        count = len(self.texts)
        table = np.full((count, count), np.nan)
        for column in range(count):
            ends = self._ends[:, rows[self._shows[rows] == column]]
            known = np.isfinite(ends)
            told = known.any(axis=1)
            table[told, column] = np.where(known, ends, 0).sum(axis=1)[told] / known.sum(axis=1)[told]
        return table


def _confusion_gap(pairs: Sequence[Pair]) -> Statistic:
    confusion = Confusion(pairs)

    def gap(rows: Rows) -> float:
        table, own = confusion.table(rows), np.eye(len(confusion.texts), dtype=bool)
        whole = np.isfinite(table[own]).all() and np.isfinite(table[~own]).any()  # not where one was not drawn
        return confusion_gap(table) if whole else NAN

    return gap


def _reworded(film: Film, reading: Reading) -> float:
    ends = np.array([reading.ends.get(film.instruction, NAN), *reading.reworded])
    known = ends[np.isfinite(ends)]
    return paraphrase_spread(known[:, None]) if len(known) > 1 else NAN


def _outcome(film: Film, reading: Reading) -> float:
    """Return 1 where the class of an episode is the true one; success or not where the true one is not known."""
    told = outcome(reading.forward) if reading.bounded else None
    if told is None:
        return NAN
    if film.progress is not None and film.progress.min() >= 0 and film.progress.max() <= 1:
        return float(told == outcome(film.progress))
    return NAN if film.success is None else float((told == "success") == film.success)


def _separates(pairs: Sequence[Pair]) -> Statistic:
    ends = np.array([last_known(reading.forward) for _, reading in pairs])
    known = np.array([film.success is not None for film, _ in pairs]) & np.isfinite(ends)
    success = np.array([bool(film.success) for film, _ in pairs])

    def statistic(rows: Rows) -> float:
        told = rows[known[rows]]
        return auroc(ends[told], success[told])

    return statistic


def _marks(film: Film, reading: Reading) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return probabilities of done and what is true: of each frame, or of the last one and the recorded outcome."""
    nothing = np.empty(0), np.empty(0, bool)
    if reading.done is None:
        return nothing
    if film.done is not None:
        known = np.isfinite(film.done) & np.isfinite(reading.done)
        return reading.done[known], film.done[known] > 0.5
    last = last_known(reading.done)
    return nothing if film.success is None or np.isnan(last) else (np.array([last]), np.array([film.success]))


def _calibration(pairs: Sequence[Pair]) -> Statistic:
    marks = [_marks(film, reading) for film, reading in pairs]

    def statistic(rows: Rows) -> float:
        probability, truth = (np.concatenate(parts) for parts in zip(*(marks[row] for row in rows), strict=True))
        return calibration_error(probability, truth)

    return statistic


def _true_error(film: Film, reading: Reading) -> float:
    if film.progress is None or not reading.bounded or not (0 <= film.progress.min() <= film.progress.max() <= 1):
        return NAN
    error = np.abs(reading.forward - film.progress)
    return float(np.nanmean(error)) if np.isfinite(error).any() else NAN


METRICS: dict[str, Metric] = {
    "voc": Metric("VOC", "higher", "rank correlation with time; time itself has 1", mean_of(_of_demonstrations(_voc))),
    "vroc": Metric(
        "VROC",
        "higher",
        "the same with true time, shown backwards; time itself has -1",
        mean_of(_of_demonstrations(lambda r: vroc(r.backward))),
    ),
    "voc_f1": Metric(
        "VOC-F1",
        "higher",
        "harmonic mean of the two, each at least 0",
        mean_of(_of_demonstrations(lambda r: voc_f1(_voc(r), vroc(r.backward)))),
    ),
    "voc_prefix": Metric(
        "VOC so far",
        "higher",
        "VOC of values that saw no later frame",
        mean_of(_of_demonstrations(lambda r: spearman(r.prefix, r.anchors.astype(np.float64)))),
    ),
    "undefined": Metric(
        "undefined",
        "lower",
        "share of episodes without a VOC: constant, or without values",
        mean_of(lambda f, r: float(np.isnan(_voc(r)))),
    ),
    "voc_gap": Metric("VOC gap", "higher", "VOC of the others less that of failures", _voc_gap),
    "negative_rate": Metric(
        "NR", "lower", "share of steps down, failures left out", mean_of(_of_demonstrations(_negative))
    ),
    "negative_rate_failures": Metric(
        "NR of failures", "higher", "share of steps down in failures", mean_of(_of_failures(_negative))
    ),
    "sign_accuracy": Metric(
        "signs",
        "higher",
        "right signs of steps over a tenth of an episode, ties apart",
        mean_of(lambda f, r: _signs(f, r, 0)),
    ),
    "ties": Metric("ties", "lower", "such steps without a sign", mean_of(lambda f, r: _signs(f, r, 1))),
    "antisymmetry": Metric(
        "antisymmetry",
        "lower",
        "|c(a, b) + c(b, a)| of a model that compares",
        mean_of(lambda f, r: NAN if r.residual is None else antisymmetry(r.residual, np.zeros(len(r.residual)))),
    ),
    "end_of_others": Metric("end, others", "neither", "last value for other instructions", mean_of(_end_of_others)),
    "instruction_gap": Metric(
        "own - others", "higher", "last value for its own instruction less that for others", mean_of(_own_less_others)
    ),
    "confusion_gap": Metric("diagonal", "higher", "instructions by videos: diagonal less the rest", _confusion_gap),
    "paraphrase_spread": Metric(
        "wordings", "lower", "standard deviation of the last value over other wordings", mean_of(_reworded)
    ),
    "outcome_accuracy": Metric("classes", "higher", "success, partial, failure: chance is 1/3", mean_of(_outcome)),
    "success_auroc": Metric("AUROC", "higher", "successes end higher than failures; chance is .5", _separates),
    "brier": Metric(
        "Brier",
        "lower",
        "squared error of the probability of done",
        mean_of(lambda f, r: brier(*_marks(f, r))),
    ),
    "calibration_error": Metric("ECE", "lower", "expected calibration error of the same", _calibration),
    "spearman_true": Metric(
        "true order",
        "higher",
        "rank correlation with true progress",
        mean_of(lambda f, r: NAN if f.progress is None else spearman(r.forward, f.progress)),
    ),
    "error_true": Metric("true error", "lower", "mean distance to true progress", mean_of(_true_error)),
}
"""The table's columns, in order."""


def measure(
    films: Sequence[Film], readings: Mapping[str, Sequence[Reading]], replicates: int, seed: int
) -> dict[str, dict[str, Figure]]:
    """Return every metric of every row, with its 95 % interval.

    Args:
        films: E episodes, at least one; their frames are not looked at.
        readings: By the row's name, one for each film.
        replicates: Draws of the intervals; 0: none.
        seed: Of the draws.

    Returns:
        By row and metric; NaN where it is not defined, and where more than ``MOST_UNDEFINED`` of the draws have none
        the interval alone.
    """
    every = np.arange(len(films))
    draws = np.random.default_rng(seed).integers(len(films), size=(replicates, len(films)))
    table: dict[str, dict[str, Figure]] = {}
    for name, row in readings.items():
        pairs = list(zip(films, row, strict=True))
        table[name] = {}
        for key, metric in METRICS.items():
            statistic = metric.measure(pairs)
            value, low, high = statistic(every), NAN, NAN
            if np.isfinite(value) and replicates:
                drawn = np.array([statistic(rows) for rows in draws])
                if np.isnan(drawn).mean() <= MOST_UNDEFINED:
                    low, high = np.nanquantile(drawn, (0.025, 0.975)).tolist()
            table[name][key] = Figure(value, low, high)
    return table
