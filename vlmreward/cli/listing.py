"""``vlmreward list``: what can be chosen."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from vlmreward.cli.arguments import parse_arguments
from vlmreward.cli.groups import first_comment, list_groups
from vlmreward.errors import ConfigError
from vlmreward.registry import suggest


def main(argv: list[str]) -> int:
    """Run the command and return its exit code."""
    arguments = parse_arguments(argv)
    known = ", ".join(KINDS)
    if keys := arguments.keys():
        raise ConfigError(f"list takes no settings, got {keys[0]!r}: write vlmreward list <kind>, one of {known}")
    if len(arguments.words) != 1:
        raise ConfigError(f"list takes one word, got {len(arguments.words)}: one of {known}")
    kind = arguments.words[0] if arguments.words[0] in KINDS else arguments.words[0] + "s"
    if kind not in KINDS:
        raise ConfigError(f"can't list {arguments.words[0]!r}: {suggest(kind, KINDS)}")
    for line in KINDS[kind]():
        print(line)
    return 0


def list_envs() -> Iterator[str]:
    """Yield the environments, with what they are."""
    yield from _described("env")


def list_encoders() -> Iterator[str]:
    """Yield the encoders, with their licence."""
    rows = []
    for option in list_groups()["encoder"]:
        config = _load("encoder", option)
        rows.append((option, _licence(config), first_comment("encoder", option)))
    yield from format_table(("encoder=", "licence", ""), rows)


def list_rewards() -> Iterator[str]:
    """Yield the reward models."""
    yield from _described("reward")


def list_judges() -> Iterator[str]:
    """Yield the vision-language models that can be asked about pictures."""
    from vlmreward.rewards.judges import describe_judges

    yield from format_table(("reward.judge.name=", ""), list(describe_judges().items()))


def list_annotators() -> Iterator[str]:
    """Yield who can answer what a learned reward asks."""
    from vlmreward.rewards.annotators import describe_annotators

    yield from format_table(("reward.annotator.name=", ""), list(describe_annotators().items()))


def list_agents() -> Iterator[str]:
    """Yield the algorithms, with how each gets its reward."""
    from vlmreward.agents.catalogue import get_agent
    from vlmreward.agents.catalogue import list_agents as names

    rows = []
    for name in names():
        spec = get_agent(name)
        package = spec.target.partition(":")[0]
        missing = "" if importlib.util.find_spec(package) else f" (pip install 'vlmreward[{spec.extra}]')"
        rows.append((name, ", ".join(spec.actions), spec.scored, package + missing))
    yield from format_table(("agent=", "actions", "scored", "package"), rows)


def list_tasks() -> Iterator[str]:
    """Yield the tasks of our environments: goal and true success."""
    from vlmreward.cli.environments import find_tasks

    rows = []
    for option in list_groups()["env"]:
        env_id = _load("env", option).get("id", "???")
        if env_id == "???":
            continue
        for task in find_tasks(str(env_id)).values():
            held = f"{task.success}, for {task.hold_seconds:g} s"
            rows.append((option, task.name, f'"{task.goal}"', held))
    yield from format_table(("env=", "env.task=", "goal", "true success"), rows)


KINDS: dict[str, Callable[[], Iterator[str]]] = {
    "envs": list_envs,
    "tasks": list_tasks,
    "encoders": list_encoders,
    "rewards": list_rewards,
    "judges": list_judges,
    "annotators": list_annotators,
    "agents": list_agents,
}


def _licence(config: dict[str, Any]) -> str:
    """Return the licence of an encoder's weights; those that ship with this package have the package's."""
    own = "MIT" if config.get("name") == "mini" else ""
    return str(config.get("licence", own))


def _described(group: str) -> Iterator[str]:
    rows = [(option, first_comment(group, option)) for option in list_groups()[group]]
    yield from format_table((f"{group}=", ""), rows)


def _load(group: str, option: str) -> dict[str, Any]:
    import yaml

    text = (Path(str(files("vlmreward.configs"))) / group / f"{option}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text) or {}


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, its columns as wide as they have to be."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
