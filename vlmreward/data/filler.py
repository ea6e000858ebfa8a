"""What stands in a file for a row that has no valid label: one rule for every format.

``filler=auto`` is what a format does of itself. Any other filler is followed to the letter, or refused before anything
is done.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vlmreward.errors import ConfigError
from vlmreward.types import BoolArray

AUTO = "auto"
FILLERS = (AUTO, "hold", "decrease", "empty", "drop")
"""The format's own; the last valid value; a value below it; no value; no row."""

STEP = 1e-3
"""How much lower each row of a run of invalid ones is with ``decrease``."""

LOWEST = {"success": 0.0, "progress": 0.0}
"""What the parts of labels that have a lower bound never go below."""


def choose_filler(asked: str, known: Sequence[str], where: str) -> str:
    """Return the filler to use.

    Args:
        asked: One of :data:`FILLERS`.
        known: Those that can be followed; the first is what ``"auto"`` stands for.
        where: What can't follow others, in words.

    Raises:
        ConfigError: It is not one of :data:`FILLERS`, or can't be followed.
    """
    if asked not in FILLERS:
        raise ConfigError(f"filler must be one of {', '.join(FILLERS)}, got {asked!r}")
    if asked != AUTO and asked not in known:
        raise ConfigError(f"filler={asked} can't be followed in {where}: use {', '.join((AUTO, *known))}")
    return known[0] if asked == AUTO else asked


def fill(values: npt.NDArray[np.float32], valid: BoolArray, filler: str, part: str) -> npt.NDArray[np.float32]:
    """Return values without a NaN, float32, shape (T,).

    Before the first valid row stands 0. The last row of an episode, which may have no successor, holds the last valid
    value whatever the filler: it says nothing of a failure, and LeRobot compares the last rows of an episode with it.

    Args:
        values: float32, shape (T,).
        valid: bool, shape (T,).
        filler: ``"decrease"`` goes down from the last valid value by :data:`STEP` a row; every other one repeats it:
            whoever writes leaves rows or values out.
        part: ``"reward"``, ``"success"`` or ``"progress"``; the last two stay in [0, 1].
    """
    rows = np.arange(len(values))
    last = np.maximum.accumulate(np.where(valid, rows, -1))
    held = np.where(last >= 0, values[np.maximum(last, 0)], 0.0).astype(np.float32)
    if filler != "decrease":
        return held
    since = rows - last
    since[-1] = 0
    return np.maximum(held - np.float32(STEP) * since, LOWEST.get(part, -np.inf)).astype(np.float32)
