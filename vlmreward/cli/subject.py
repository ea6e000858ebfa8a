"""How ``evaluate`` and ``record`` begin: find what is to be evaluated, or show the settings and stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.compose import compose, refuse_words

if TYPE_CHECKING:
    from vlmreward.cli.load_run import Subject


def read_subject(command: str, argv: Sequence[str]) -> Subject | None:
    """Read what a command is to evaluate.

    Args:
        command: ``evaluate`` or ``record``.
        argv: The arguments after the command's name.

    Returns:
        The run, or the environment with a trivial policy; None if the user asked for the settings (``--cfg``), which
        have been printed.

    Raises:
        VlmRewardError: The run or a setting is wrong.
    """
    arguments = parse_arguments(argv)
    refuse_words(command, arguments)
    show_only = "cfg" in arguments.flags
    if show_only and not {"run", "env"} & set(arguments.keys()):
        _show(compose(command, arguments))
        return None

    from vlmreward.cli.load_run import find_subject  # loads torch

    subject = find_subject(command, arguments)
    if show_only:
        _show({**subject.options, "run_settings": subject.settings.to_config()})
        return None
    return subject


def _show(settings: Mapping[str, Any]) -> None:
    print(yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True), end="")
