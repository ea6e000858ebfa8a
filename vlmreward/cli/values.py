"""Check the kind of a setting's value: Hydra lets any word and number through under any key."""

from __future__ import annotations

import math
from typing import Any

from vlmreward.errors import ConfigError


def whole(name: str, value: object, low: int) -> int:
    """Return a setting that is a whole number, however it is written: ``1e6`` is one, ``true`` is none.

    Args:
        name: The setting's key, for the message.
        value: What the user gave.
        low: The smallest value that makes sense.

    Raises:
        ConfigError: It is not a whole number, or below ``low``.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ConfigError(f"{name} must be a whole number >= {low}, got {value!r}")
    return value


def flag(name: str, value: object) -> bool:
    """Return a setting that is true or false; ``no`` and ``0`` are refused rather than guessed at.

    Raises:
        ConfigError: It is neither.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be true or false, got {value!r}")
    return value


def number(name: str, value: Any, low: float) -> float:
    """Return a setting that is a number.

    Raises:
        ConfigError: It is not a finite number, or below ``low``.
    """
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value < math.inf:
        raise ConfigError(f"{name} must be a number >= {low:g}, got {value!r}")
    return value
