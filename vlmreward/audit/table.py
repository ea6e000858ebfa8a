"""The result of an audit: a value and an interval for every metric and sweep, as plain JSON and in any order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmreward.audit.bootstrap import LEVEL, Estimate
from vlmreward.audit.metrics import Better
from vlmreward.audit.sample import Array, IntArray, Sample
from vlmreward.errors import ConfigError, UnknownNameError


@dataclass(frozen=True)
class Column:
    """One metric of S sweeps.

    Attributes:
        value: Shape (S,); NaN where undefined.
        low: Lower end of the interval, shape (S,); NaN where there is none.
        high: Upper end, likewise.
        better: Which end is good.
        undefined: When the value is NaN, in words.
    """

    value: Array
    low: Array
    high: Array
    better: Better
    undefined: str


@dataclass(frozen=True)
class MetricTable:
    """Metrics of S sweeps, made by :func:`make_table`.

    Attributes:
        sweeps: Name of each sweep.
        columns: By the metric's name.
        frames: How many frames each sweep scored, shape (S,).
        groups: Independent units that the intervals come from.
        replicates: Draws that the intervals come from.
    """

    sweeps: tuple[str, ...]
    columns: Mapping[str, Column]
    frames: IntArray
    groups: int
    replicates: int

    def best_first(self, metric: str) -> IntArray:
        """Return numbers of the sweeps in order of a metric, the best one first and undefined ones last.

        Raises:
            UnknownNameError: The table has no such metric.
            ConfigError: The metric has no better end.
        """
        if metric not in self.columns:
            raise UnknownNameError(f"the table has no metric {metric!r}: choose from {', '.join(self.columns)}")
        column = self.columns[metric]
        if column.better == "neither":
            raise ConfigError(f"{metric} is neither better high nor low: sort by another metric")
        return np.argsort(-column.value if column.better == "higher" else column.value, kind="stable")  # NaN goes last

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON: how it was measured, why numbers are missing, and one row per sweep.

        A number that does not exist is null; ``undefined`` says why, for each metric that has one.
        """
        missing = {name: c.undefined for name, c in self.columns.items() if np.isnan(c.value).any()}
        return {
            "level": LEVEL,
            "replicates": self.replicates,
            "groups": self.groups,
            "undefined": missing,
            "sweeps": [self._row(i) for i in range(len(self.sweeps))],
        }

    def _row(self, i: int) -> dict[str, Any]:
        metrics = {
            name: {"value": _number(c.value[i]), "low": _number(c.low[i]), "high": _number(c.high[i])}
            for name, c in self.columns.items()
        }
        return {"name": self.sweeps[i], "frames": int(self.frames[i]), "metrics": metrics}


def make_table(names: Sequence[str], sample: Sample, estimates: Mapping[str, Estimate]) -> MetricTable:
    """Bring estimates of the same sweeps into one table.

    Args:
        names: Of the sweeps, S of them.
        sample: What was measured; its sweeps are the table's.
        estimates: By the metric's name.

    Raises:
        ConfigError: The numbers of sweeps differ.
    """
    sweeps = sample.scores.shape[1]
    odd = [name for name, found in estimates.items() if len(found.value) != sweeps]
    if len(names) != sweeps or odd:
        of = f"{odd[0]} has {len(estimates[odd[0]].value)}" if odd else f"there are {len(names)} names"
        raise ConfigError(f"the sample has {sweeps} sweeps but {of}: give one for each sweep")
    columns = {
        name: Column(found.value, *found.interval(), found.better, found.undefined) for name, found in estimates.items()
    }
    replicates = max((len(found.replicates) for found in estimates.values()), default=0)
    return MetricTable(tuple(names), columns, sample.frames, sample.groups, replicates)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
