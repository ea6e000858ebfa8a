"""The frames of an episode at which a curve does what its trend does not lead one to expect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

WINDOW = 15
"""Changes, centred on the frame's own, whose median is the trend: one jump among them does not move it."""
APART = 3
"""Frames between two that are listed: the way back from a spike is not news."""


@dataclass(frozen=True)
class Surprise:
    """A jump.

    Attributes:
        frame: The frame after it, from 0.
        change: Of the curve, from the frame before.
        beyond: The same less the trend: what is surprising about it.
    """

    frame: int
    change: float
    beyond: float


def find_surprises(values: npt.NDArray[np.float32], count: int = 8) -> list[Surprise]:
    """Return the largest jumps of a curve against its trend, largest first.

    The trend at a frame is the median change from frame to frame around it. A jump from or to a value that isn't there
    is none, and neither is what float32 rounds.

    Args:
        values: float32, shape (F,); NaN where there is none.
        count: At most so many.
    """
    exact = values.astype(np.float64)
    changes = np.diff(exact, prepend=np.nan)
    known = np.isfinite(changes)
    if not known.any():
        return []
    around = np.pad(changes, WINDOW // 2, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(around, WINDOW)
    trend = np.zeros_like(changes)
    trend[known] = np.nanmedian(windows[known], axis=1)
    beyond = np.where(known, changes - trend, 0.0)
    size = np.abs(beyond)
    least = 4 * float(np.finfo(np.float32).eps) * float(np.nanmax(np.abs(exact)))
    found: list[int] = []
    for frame in np.argsort(-size, kind="stable").tolist():
        if len(found) == count or size[frame] <= least:
            break
        if all(abs(frame - other) >= APART for other in found):
            found.append(frame)
    return [Surprise(frame, float(changes[frame]), float(beyond[frame])) for frame in found]
