"""Judges: vision-language models that answer questions about pictures, by name, imported when first used."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping
from typing import Any

from vlmreward.errors import ConfigError
from vlmreward.registry import Registry
from vlmreward.rewards.judges.questions import VisionLanguageModel

_JUDGES = Registry("judge")

_BUILT: weakref.WeakValueDictionary[str, VisionLanguageModel] = weakref.WeakValueDictionary()
"""Judges in use: rewards for several goals share the weights, the budget and the pace of one."""


def register_judge(name: str, target: str) -> None:
    """Add a judge: a callable that takes its own settings.

    Args:
        name: The name users write.
        target: ``"package.module:Class"``.

    Raises:
        ValueError: The name is taken, or the target has no colon.
    """
    _JUDGES.register(name, target)


def list_judges() -> list[str]:
    """Return the name of every judge, sorted."""
    return _JUDGES.names()


def describe_judges() -> dict[str, str]:
    """Return every judge by name, sorted, with a line that says what it does; imports none."""
    return {name: _JUDGES.summary(name) for name in list_judges()}


def make_judge(config: Any, prefix: str = "reward.judge.") -> VisionLanguageModel:
    """Return the judge that ``reward.judge`` describes; the one in use, where there is one with these settings.

    Args:
        config: ``name`` and the judge's own settings.
        prefix: What users write before the name of a setting.

    Raises:
        UnknownNameError: The name is not registered.
        ConfigError: A setting is unknown, missing or out of range, or ``name`` is missing.
        WeightsError: A local model's weights can't be read or had.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"{prefix.rstrip('.')} must hold name: <judge> and its settings, got {config!r}")
    name = _JUDGES.name_in(config)
    key = json.dumps(dict(config), sort_keys=True, default=str)
    judge = _BUILT.get(key)
    if judge is None:
        judge = _JUDGES.make(name, {}, prefix, **{k: v for k, v in config.items() if k != "name"})
        _BUILT[key] = judge
    return judge


register_judge("http", "vlmreward.rewards.judges.http_judge:HttpJudge")
register_judge("transformers", "vlmreward.rewards.judges.transformers_judge:TransformersJudge")
register_judge("scripted", "vlmreward.rewards.judges.scripted_judge:ScriptedJudge")
