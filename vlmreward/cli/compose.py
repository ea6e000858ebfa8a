"""Compose a command's config from the YAML groups and the user's settings, as a plain dict.

Hydra composes; it never changes directory nor makes an ``outputs/`` folder, for ``hydra.main`` is not used. What
the user gets wrong is reported in one line with the nearest name.
"""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vlmreward.agents.catalogue import check_refused
from vlmreward.cli.arguments import NONE, Arguments, is_prompt
from vlmreward.cli.groups import PRIMARY, list_groups, match_option
from vlmreward.errors import ConfigError
from vlmreward.registry import suggest

# Below these keys any name may be set; whoever takes the values checks them.
GROUPS_OF_SETTINGS = (
    "env",
    "env.kwargs",
    "encoder",
    "reward",
    "reward.judge",
    "reward.of",
    "reward.parts",
    "reward.annotator",
    "reward.learning",
    "agent",
    "eval",
    "pictures",
    "ray",
)
OPEN_KEYS = (
    *("agent.", "env.kwargs.", "encoder."),
    *("reward.annotator.", "reward.judge.", "reward.of.", "reward.parts."),
)
OPTIONAL_KEYS = ("env.action_repeat",)  # an environment's YAML need not name these


def compose(command: str, arguments: Arguments) -> dict[str, Any]:
    """Compose the config of a command.

    Args:
        command: Name of a primary config: ``train``, ``evaluate``, ``record``.
        arguments: What the user gave.

    Returns:
        Nested plain dict; ``agent: auto`` is replaced by the algorithm that the environment names.

    Raises:
        ConfigError: A key is unknown, or a value can't be read.
        UnknownNameError: A group has no such option.
    """
    groups = list_groups(arguments.config_dir)
    overrides = [_prepare(o, groups) for o in arguments.overrides]
    config = _compose_once(command, overrides, arguments.config_dir)
    if (config.get("agent") or {}).get("name") == "auto":
        chosen = match_option("agent", str(config["env"].get("agent", "ppo")), groups)
        kept = [o for o in overrides if o.split("=", 1)[0] != "agent"]
        config = _compose_once(command, [*kept, f"agent={chosen}"], arguments.config_dir)
    return set_literals(config, arguments.literals)


def set_literals(config: dict[str, Any], literals: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Put prompts and paths, which Hydra never sees, into a composed config, and return it.

    Raises:
        ConfigError: A key is unknown.
    """
    for key, values in literals.items():
        _set_literal(config, key, values)
    return config


def refuse_words(command: str, arguments: Arguments) -> None:
    """Refuse arguments that are no settings, with a guess at what was meant; and settings of a command without any.

    Raises:
        ConfigError: There is one.
    """
    if command.replace("-", "_") not in PRIMARY and arguments.keys():
        raise ConfigError(f"{command} has no settings, got {arguments.keys()[0]!r}: leave it out")
    if "dry_run" in arguments.flags and command != "label":
        raise ConfigError(f"{command} has no --dry-run: --cfg prints its settings")
    if not arguments.words:
        return
    word = arguments.words[0]
    for group, options in list_groups(arguments.config_dir).items():
        if word in options:
            raise ConfigError(f"{word!r} is not of the form key=value: write {group}={word}")
    if Path(word).is_dir():
        keys = {"train": "resume", "cache": "path", **dict.fromkeys(("inspect", "label", "view"), "dataset")}
        key = keys.get(command, "run")
        raise ConfigError(f"{word!r} is not of the form key=value: write {key}={word}")
    raise ConfigError(f"{word!r} is not of the form key=value (see vlmreward {command} --help)")


def known_keys(config: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of a nested dict, inner nodes included."""
    for key, value in config.items():
        yield prefix + str(key)
        if isinstance(value, dict):
            yield from known_keys(value, f"{prefix}{key}.")


def _prepare(override: str, groups: dict[str, list[str]]) -> str:
    """Check a group choice, and open the keys that take any name."""
    if override[0] in "+~":
        raise ConfigError(f"can't use {override!r}: keys are neither added nor removed, write {override.lstrip('+~')}")
    key, _, value = override.partition("=")
    if key in groups and value == "null" and key != "experiment":
        raise ConfigError(f"{key} can't be null: write {key}=<name>, known: {', '.join(groups[key])}")
    if key in groups and value != "null":
        return f"{key}={match_option(key, value, groups)}"
    if key == "agent.name":  # the hyper-parameters of another algorithm would stay
        check_refused(value)
        raise ConfigError(f"agent.name is the choice of the algorithm: write agent={value}")
    if key.startswith(OPEN_KEYS) or key in OPTIONAL_KEYS:
        return "++" + override
    return override


def _compose_once(command: str, overrides: Iterable[str], config_dir: str | None) -> dict[str, Any]:
    """Compose a page, or copy it: Hydra takes long, and a command asks for some pages again, e.g. for their defaults.

    The files of ``config_dir`` may have changed in between; those of the package don't.
    """
    folder = Path(config_dir).resolve() if config_dir else None
    files = sorted(f for depth in ("*.yaml", "*/*.yaml") for f in folder.glob(depth) if f.is_file()) if folder else []
    stamps = tuple((str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    return copy.deepcopy(_compose_checked(command, tuple(overrides), str(folder) if folder else None, stamps))


@functools.lru_cache(maxsize=256)
def _compose_checked(
    command: str, overrides: tuple[str, ...], config_dir: str | None, files: tuple[tuple[str, int, int], ...]
) -> dict[str, Any]:
    import yaml
    from hydra import compose as hydra_compose
    from hydra import initialize_config_module
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import ConfigCompositionException, HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    groups = list_groups(config_dir)
    parser = OverridesParser.create()
    for override in overrides:
        try:
            parser.parse_override(override)
        except HydraException as e:
            raise ConfigError(
                f"can't read the value of {override!r}: put text with special characters in quotes inside the "
                "shell's quotes, e.g. \"key='a, b'\""
            ) from e
    search = [f"hydra.searchpath=[{_quote(f'file://{config_dir}')}]"] if config_dir else []
    with initialize_config_module("vlmreward.configs", version_base="1.3"):
        try:
            config = hydra_compose(command, overrides=[*search, *overrides])
            plain = OmegaConf.to_container(config, resolve=True)
        except ConfigCompositionException as e:
            raise ConfigError(_explain(e, command, overrides, groups, search)) from e
        except (HydraException, OmegaConfBaseException) as e:
            raise ConfigError(" ".join(str(e).split())) from e
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as e:
            where = f" below {config_dir}" if config_dir else ""
            raise ConfigError(f"a YAML file{where} can't be read ({' '.join(str(e).split())})") from e
    assert isinstance(plain, dict)
    result = {str(k): v for k, v in plain.items()}
    for override in _wrong_groups(result, overrides):
        key = override.split("=", 1)[0].lstrip("+")
        rest = [o for o in overrides if o != override]
        inside = _at(_compose_once(command, rest, config_dir), key)
        known = f", known: {', '.join(inside)}" if isinstance(inside, dict) and inside else ""
        raise ConfigError(f"{key} is a group of settings, got {override!r}: write {key}.<name>=<value>{known}")
    return result


def _quote(text: str) -> str:
    """Quote a text for Hydra's grammar, in which a backslash counts only before a quote or another one before it."""
    return '"' + re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + ('\\"' if m[2] else ""), text) + '"'


def _wrong_groups(config: dict[str, Any], overrides: Iterable[str]) -> Iterator[str]:
    """Yield the settings that give a value where a group of settings is due, e.g. ``eval=3``."""
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+")
        if key in GROUPS_OF_SETTINGS and not isinstance(_at(config, key), dict):
            yield override


def _at(config: dict[str, Any], key: str) -> Any:
    node: Any = config
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _explain(
    error: Exception, command: str, overrides: Iterable[str], groups: dict[str, list[str]], search: list[str]
) -> str:
    """Turn Hydra's message into one line with the nearest name."""
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    text = " ".join(str(error).split())
    if "You must specify" in text:
        missing = next((g for g in groups if f"'{g}'" in text), "env")
        return f"{missing} is not given: write {missing}=<name>, known: {', '.join(groups[missing])}"
    chosen = [o for o in overrides if o.split("=", 1)[0] in groups]
    if "No match in the defaults list" in text:  # a group that the command has not
        chosen = [o for o in chosen if f"'{o.split('=', 1)[0]}'" not in text]
    try:
        composed = OmegaConf.to_container(hydra_compose(command, overrides=[*search, *chosen]))
    except HydraException:
        return text  # the group choices themselves are at fault, and the text says how
    assert isinstance(composed, dict)
    known = {*known_keys({str(k): v for k, v in composed.items()}), *_group_names(command, groups)}
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~")
        if key not in known and not key.startswith(OPEN_KEYS):
            return _unknown(key, known)
    return text


def _unknown(key: str, known: Iterable[str]) -> str:
    """Return the line for a key that doesn't exist: the nearest ones, or those of the same level."""
    names = sorted(set(known))
    hint = suggest(key, names)
    if not hint.startswith("did you mean"):
        parent = key.rpartition(".")[0]
        names = [n for n in names if n.rpartition(".")[0] == parent] or [n for n in names if "." not in n]
        hint = "known: " + ", ".join(names)
    return f"unknown setting {key!r}: {hint}"


def _group_names(command: str, groups: dict[str, list[str]]) -> list[str]:
    return list(groups) if command == PRIMARY[0] else []


def _set_literal(config: dict[str, Any], key: str, values: tuple[str, ...]) -> None:
    """Put text into the composed config as typed; a path ``null`` means none, and a list of paths takes several."""
    *parents, last = key.split(".")
    node = config
    for name in parents:
        child = node.get(name)
        if not isinstance(child, dict):
            raise ConfigError(_unknown(key, known_keys(config)))
        node = child
    is_open = any(f"{key}.".startswith(prefix) for prefix in OPEN_KEYS)
    if last not in node and not is_open:
        raise ConfigError(_unknown(key, known_keys(config)))
    if is_prompt(key) or isinstance(node.get(last), list):
        node[last] = [value for value in values if value != NONE or is_prompt(key)]
    else:
        node[last] = None if values[-1] == NONE else values[-1]
