"""What stands in a file for a row that has no valid label."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vlmreward.data.labels import FILLERS, fill_invalid
from vlmreward.errors import ConfigError
from vlmreward.types import BoolArray

STEP = 1e-3
"""How much lower each row of a run of invalid ones is with ``decrease``."""


def check_filler(filler: str, has_rows_for_all: bool) -> None:
    """Refuse a filler that is none, or that leaves out rows where each must be there.

    Raises:
        ConfigError: It is not one of :data:`~vlmreward.data.labels.FILLERS`, or drops rows of a column.
    """
    if filler not in FILLERS:
        raise ConfigError(f"filler must be one of {', '.join(FILLERS)}, got {filler!r}")
    if filler == "drop" and has_rows_for_all:
        raise ConfigError("filler=drop leaves out rows, and a column has one for each frame: use hold or decrease")


def fill(values: npt.NDArray[np.float32], valid: BoolArray, filler: str) -> npt.NDArray[np.float32]:
    """Return values without a NaN, float32, shape (T,).

    The last row of an episode, which has no successor, holds the last valid value whatever the filler: it says nothing
    of a failure, and LeRobot compares the last rows of an episode with it.

    Args:
        values: float32, shape (T,).
        valid: bool, shape (T,).
        filler: ``"hold"`` repeats the last valid value; ``"decrease"`` goes down from it by :data:`STEP` a row;
            ``"drop"`` holds, too: whoever writes leaves the rows out.
    """
    held = fill_invalid(values, valid)
    if filler != "decrease":
        return held
    rows = np.arange(len(values))
    since = rows - np.maximum.accumulate(np.where(valid, rows, -1))
    since[-1] = 0
    return (held - np.float32(STEP) * since).astype(np.float32)
