"""The one check of a picture's size."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlmreward.errors import ConfigError


def check_size(width: Any, height: Any) -> None:
    """Check the size of pictures.

    Raises:
        ConfigError: It is not at least 1 x 1 pixel, in whole numbers.
    """
    if not all(isinstance(side, (int, np.integer)) and side >= 1 for side in (width, height)):
        raise ConfigError(f"width and height must be whole numbers of at least 1 pixel, got {width} x {height}")
