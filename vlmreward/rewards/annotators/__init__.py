"""Who judges frames, by name: a reward model, a scripted judge, a person. A module is imported on first use."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from vlmreward.errors import ConfigError
from vlmreward.registry import Registry
from vlmreward.types import Encoder

_ANNOTATORS = Registry("annotator", "reward.annotator.")


def register_annotator(name: str, target: str) -> None:
    """Add an annotator: a callable with its own settings and, where it wants them, ``encoder`` and ``goal``.

    What it returns compares pairs (:class:`~vlmreward.rewards.annotators.answers.Comparer`), or rates single frames
    (:class:`~vlmreward.rewards.annotators.answers.Rater`), or both.

    Args:
        name: The name users write.
        target: ``"package.module:callable"``.

    Raises:
        ValueError: The name is taken, or the target has no colon.
    """
    _ANNOTATORS.register(name, target)


def list_annotators() -> list[str]:
    """Return the name of every annotator, sorted."""
    return _ANNOTATORS.names()


def describe_annotators() -> dict[str, str]:
    """Return every annotator by name, sorted, with a line that says what it does; imports none."""
    return {name: _ANNOTATORS.summary(name) for name in list_annotators()}


def make_annotator(config: Any, encoder: Encoder, goal: tuple[str, ...]) -> Any:
    """Build an annotator.

    Args:
        config: ``name``, one of :func:`list_annotators`, and its settings.
        encoder: For annotators that look at embeddings.
        goal: What the agent is to bring about, in words.

    Raises:
        UnknownNameError: The name is not registered.
        ConfigError: A setting is unknown, missing or out of range.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"reward.annotator must hold name: <annotator> and its settings, got {config!r}")
    name = _ANNOTATORS.name_in(config)
    takes = inspect.signature(_ANNOTATORS.get(name)).parameters
    given = {key: value for key, value in (("encoder", encoder), ("goal", goal)) if key in takes}
    return _ANNOTATORS.make(name, given, **{key: value for key, value in config.items() if key != "name"})


register_annotator("reward", "vlmreward.rewards.annotators.scored:make_reward_annotator")
register_annotator("two_stage", "vlmreward.rewards.annotators.two_stage:make_two_stage")
register_annotator("scripted", "vlmreward.rewards.annotators.scripted:ScriptedAnnotator")
register_annotator("terminal", "vlmreward.rewards.annotators.person:TerminalComparer")
register_annotator("page", "vlmreward.rewards.annotators.person:PageComparer")
