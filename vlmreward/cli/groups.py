"""Which config groups and options exist, read from the YAML files; loads neither Hydra nor torch."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from vlmreward.agents.catalogue import check_refused
from vlmreward.errors import ConfigError, UnknownNameError
from vlmreward.registry import suggest

PRIMARY = (
    "train",
    "audit",
    "evaluate",
    "record",
    "collect",
    "label",
    "inspect",
    "view",
    "cache",
    "fit_critic",
    "fit_reward",
    "pretrain_mini",
)


def list_groups(config_dir: str | None = None) -> dict[str, list[str]]:
    """Return every group and its options, e.g. ``{"env": ["cartpole", ...], ...}``.

    Args:
        config_dir: A folder with more groups, or None.

    Raises:
        ConfigError: ``config_dir`` is not a folder.
    """
    roots = [Path(str(files("vlmreward.configs")))]
    if config_dir is not None:
        if not Path(config_dir).is_dir():
            raise ConfigError(f"--config-dir {config_dir!r} is not a folder: give one that holds e.g. env/mine.yaml")
        roots.append(Path(config_dir))
    groups: dict[str, set[str]] = {}
    for root in roots:
        for file in root.glob("*/*.yaml"):
            groups.setdefault(file.parent.name, set()).add(file.stem)
    return {name: sorted(options) for name, options in sorted(groups.items())}


def match_option(group: str, option: str, groups: dict[str, list[str]]) -> str:
    """Return the option a user means, whatever its case.

    Raises:
        UnknownNameError: There is no such option; the message names the nearest.
        ConfigError: It is an algorithm that can't learn from pictures.
    """
    known = groups[group]
    if option in known:
        return option
    if option.lower() in known:
        return option.lower()
    if group == "agent":
        check_refused(option)
    raise UnknownNameError(f"unknown {group} {option!r}: {suggest(option.lower(), known)}")


def first_comment(group: str, option: str) -> str:
    """Return the first comment line of an option's file, which says what it is; "" if there is none."""
    path = Path(str(files("vlmreward.configs"))) / group / f"{option}.yaml"
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8") as file:
        line = file.readline().strip()
    return line.lstrip("# ").strip() if line.startswith("#") else ""
