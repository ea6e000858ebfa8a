"""Check the numbers and choices that a caller sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from vlmreward.errors import ConfigError


def check_number(
    name: str, value: object, low: float = -math.inf, high: float = math.inf, *, above: bool = False
) -> float:
    """Return a setting as a float.

    Args:
        name: Name of the setting, for the error message.
        value: What the caller gave.
        low: Smallest value.
        high: Largest value.
        above: True if the value must be larger than ``low``, not equal to it.

    Raises:
        ConfigError: The value is not a finite number between the bounds.
    """
    rule = f" > {low:g}" if above else f" >= {low:g}" if low > -math.inf else ""
    if high < math.inf:
        rule = f" in [{low:g}, {high:g}]"
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not math.isfinite(number) or not low <= number <= high or (above and number == low):
        raise ConfigError(f"{name} must be a finite number{rule}, got {value!r}")
    return number


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Check that a setting is one of several words.

    Raises:
        ConfigError: It is not.
    """
    if value not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
