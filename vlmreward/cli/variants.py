"""Spread ``vary.<setting>=[...]`` out into all combinations, each a command line of its own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from vlmreward.cli.arguments import Arguments
from vlmreward.errors import ConfigError

PREFIX = "vary."
MOST = 1000
"""Combinations of one audit at most."""


@dataclass(frozen=True)
class Combination:
    """One choice of every varied setting.

    Attributes:
        chosen: Setting to value, as it is shown.
        arguments: The command line with these values in it.
    """

    chosen: Mapping[str, Any]
    arguments: Arguments


def spread(arguments: Arguments) -> list[Combination]:
    """Return every combination of the varied settings, the first value of each first.

    Args:
        arguments: With settings ``vary.<setting>=[a, b, ...]``, and prompts ``vary.goal=...`` that are repeated.

    Raises:
        ConfigError: A list can't be read or is empty, a setting is given and varied, or there are too many
            combinations.
    """
    axes: dict[str, list[Any]] = {}
    plain: list[str] = []
    for override in arguments.overrides:
        key, _, value = override.partition("=")
        if key.startswith(PREFIX):
            axes[key.removeprefix(PREFIX)] = _values(key, value)
        else:
            plain.append(override)
    literals = {}
    for key, prompts in arguments.literals.items():
        if key.startswith(PREFIX):
            axes[key.removeprefix(PREFIX)] = list(prompts)
        else:
            literals[key] = prompts
    base = replace(arguments, overrides=tuple(plain), literals=literals)
    for key in axes:
        if key in base.keys():  # noqa: SIM118  a method, not a mapping
            raise ConfigError(f"{key} is given and varied: write {key}=<value> or vary.{key}=[...], not both")
    total = 1
    for values in axes.values():
        total *= len(values)
    if total > MOST:
        raise ConfigError(f"{total} combinations are too many for one audit, {MOST} at most: vary fewer settings")
    worded = {key for key in axes if f"{PREFIX}{key}" in arguments.literals}
    return [
        _combine(base, dict(zip(axes, choice, strict=True)), worded) for choice in itertools.product(*axes.values())
    ]


def _combine(base: Arguments, chosen: dict[str, Any], worded: set[str]) -> Combination:
    overrides = tuple(f"{key}={_as_text(value)}" for key, value in chosen.items() if key not in worded)
    literals = {key: (value,) for key, value in chosen.items() if key in worded}
    return Combination(chosen, replace(base, overrides=base.overrides + overrides, literals=base.literals | literals))


def _values(key: str, text: str) -> list[Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError:
        values = None
    if not isinstance(values, list) or not values or any(isinstance(v, (list, dict)) for v in values):
        raise ConfigError(f"{key} must be a list of values, got {text!r}: write e.g. {key}=[a,b]")
    return values


def _as_text(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
