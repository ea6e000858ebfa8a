"""The ten statistics that LeRobot keeps of each feature, for an episode and for the whole, in constant memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)

Stats = Mapping[str, npt.NDArray[np.float64]]
"""By name of statistic: shape of a row, or (C, 1, 1) of pictures; ``count`` is of shape (1,)."""


def of_rows(values: npt.NDArray[Any]) -> Stats:
    """Return the statistics of the rows of an episode.

    Args:
        values: Numbers or booleans, shape (T,) or (T, D), T > 0.
    """
    rows = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    found = {"min": rows.min(axis=0), "max": rows.max(axis=0), "mean": rows.mean(axis=0), "std": rows.std(axis=0)}
    found["count"] = np.array([len(rows)], dtype=np.float64)
    return found | {name: np.quantile(rows, q, axis=0) for name, q in QUANTILES.items()}


class PictureStats:
    """Statistics of pictures, each channel in [0, 1], from counts of the 256 values."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, 256), dtype=np.int64)
        self._pictures = 0

    def add(self, frame: npt.NDArray[np.uint8]) -> None:
        """Add a picture, uint8, shape (H, W, 3); large ones are taken at every n-th pixel, as LeRobot does."""
        step = max(1, min(frame.shape[:2]) // 150)
        for channel in range(3):
            self._counts[channel] += np.bincount(frame[::step, ::step, channel].reshape(-1), minlength=256)
        self._pictures += 1

    def stats(self) -> Stats:
        """Return the statistics of what was added."""
        values = np.arange(256) / 255
        total = self._counts.sum(axis=1)
        seen = self._counts > 0
        mean = self._counts @ values / total
        reached = np.cumsum(self._counts, axis=1) / total[:, None]
        found = {
            "min": values[seen.argmax(axis=1)],
            "max": values[255 - seen[:, ::-1].argmax(axis=1)],
            "mean": mean,
            "std": np.sqrt(np.maximum(self._counts @ values**2 / total - mean**2, 0.0)),
        }
        found |= {name: values[(reached >= q).argmax(axis=1)] for name, q in QUANTILES.items()}
        shaped = {name: value.reshape(3, 1, 1) for name, value in found.items()}
        return shaped | {"count": np.array([self._pictures], dtype=np.float64)}


class Whole:
    """Statistics of a dataset from those of its episodes, as LeRobot joins them.

    Least, largest, mean and deviation are exact. A quantile is the mean of the episodes' quantiles, weighted by their
    rows: the exact one would need every row at once.
    """

    def __init__(self) -> None:
        self._sums: dict[str, npt.NDArray[np.float64]] = {}
        self._count = 0.0

    def add(self, stats: Stats) -> None:
        """Add the statistics of an episode."""
        count = float(stats["count"][0])
        squares = stats["std"] ** 2 + stats["mean"] ** 2
        new = {name: stats[name] * count for name in ("mean", *QUANTILES)} | {"squares": squares * count}
        if not self._sums:
            self._sums = new | {"min": stats["min"], "max": stats["max"]}
        else:
            for name, value in new.items():
                self._sums[name] = self._sums[name] + value
            self._sums["min"] = np.minimum(self._sums["min"], stats["min"])
            self._sums["max"] = np.maximum(self._sums["max"], stats["max"])
        self._count += count

    def stats(self) -> Stats:
        """Return the statistics of what was added."""
        found = {name: self._sums[name] / self._count for name in ("mean", *QUANTILES)}
        variance = np.maximum(self._sums["squares"] / self._count - found["mean"] ** 2, 0.0)
        found |= {"min": self._sums["min"], "max": self._sums["max"], "std": np.sqrt(variance)}
        return found | {"count": np.array([self._count], dtype=np.float64)}


def to_lists(stats: Stats) -> dict[str, Any]:
    """Return statistics as JSON and parquet keep them; ``count`` in whole numbers."""
    lists = {name: stats[name].tolist() for name in NAMES}
    lists["count"] = [int(stats["count"][0])]
    return lists
