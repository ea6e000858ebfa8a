"""Settle what ``vlmreward label`` is asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmreward.cli.arguments import Arguments
from vlmreward.cli.compose import compose
from vlmreward.cli.goals import as_prompts
from vlmreward.cli.settings import check_cache_dtype
from vlmreward.cli.values import flag, number, whole
from vlmreward.data.filler import FILLERS
from vlmreward.errors import ConfigError
from vlmreward.registry import suggest

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class LabelSettings:
    """Everything that a labelling run depends on besides the dataset itself.

    Attributes:
        dataset: Path as given.
        goal: Prompts; empty for each episode's own task.
        baseline: Prompts, may be none.
        encoder: Config of the encoder.
        reward: Config of the reward.
        options: The command's own settings, checked.
    """

    dataset: str
    goal: tuple[str, ...]
    baseline: tuple[str, ...]
    encoder: Mapping[str, Any]
    reward: Mapping[str, Any]
    options: Mapping[str, Any]


def settle_label(arguments: Arguments) -> LabelSettings:
    """Check the settings of a command line.

    Raises:
        VlmRewardError: A setting is unknown, out of range or contradicts another.
    """
    composed = compose("label", arguments)
    if composed["dataset"] is None:
        raise ConfigError("dataset is not given: write dataset=<folder or file of recorded episodes>")
    checked = dict(composed)
    for name in ("force", "overwrite", "undo", "write"):
        checked[name] = flag(name, composed[name])
    for name, low in (("sample", 1), ("encode_batch", 1), ("seed", 0)):
        checked[name] = whole(name, composed[name], low)
    checked["max_invalid"] = number("max_invalid", composed["max_invalid"], 0)
    for name, known in (("filler", FILLERS), ("engine", ENGINES)):
        if composed[name] not in known:
            raise ConfigError(f"{name} must be one of {', '.join(known)}, got {composed[name]!r}")
    ray = dict(composed["ray"])
    ray["actors"] = whole("ray.actors", ray["actors"], 1)
    for name in ("num_cpus", "num_gpus"):
        ray[name] = number(f"ray.{name}", ray[name], 0)
    checked["ray"] = ray
    checked["decode_threads"] = settle_decode_threads(composed["decode_threads"])
    if not isinstance(composed["name"], str) or not composed["name"].replace(".", "_").isidentifier():
        raise ConfigError(f"name must be a word of letters, digits, '_' and '.', got {composed['name']!r}")
    check_cache_dtype(composed["cache_dtype"])
    if composed["encoder"].get("precision") == "int8":
        raise ConfigError("encoder.precision=int8 is calibrated on an environment's frames: label with auto or bf16")
    goal, baseline = as_prompts(composed["goal"]), as_prompts(composed["baseline"])
    return LabelSettings(
        str(composed["dataset"]), goal, baseline, composed["encoder"], _with_gamma(composed["reward"]), checked
    )


def choose_camera(asked: Any, cameras: tuple[str, ...]) -> str:
    """Return whose pictures are scored.

    Args:
        asked: What the user gave, or None.
        cameras: Of the dataset.

    Raises:
        ConfigError: There is no such camera, none at all, or it was not said which of several.
    """
    if len(cameras) == 0:
        raise ConfigError("the dataset has no pictures: vlmreward inspect dataset=... tells what it holds")
    if asked is None:
        if len(cameras) > 1:
            raise ConfigError(
                f"the dataset has {len(cameras)} cameras: say whose pictures show the task, camera={cameras[0]}; "
                f"there are {', '.join(cameras)}"
            )
        return cameras[0]
    if asked not in cameras:
        raise ConfigError(f"unknown camera {asked!r}: {suggest(str(asked), cameras)}")
    return str(asked)


def settle_decode_threads(asked: Any) -> int:
    """Return how many threads decode pictures: as asked, or a quarter of the cores.

    Raises:
        ConfigError: It is neither ``auto`` nor a number.
    """
    return max(1, (os.cpu_count() or 1) // 4) if asked == "auto" else whole("decode_threads", asked, 1)


def job_folder(options: Mapping[str, Any], dataset: Path, layout: str) -> Path:
    """Return the folder of a labelling job: the user's, or one that the same dataset always has."""
    if options["run_dir"] is not None:
        return Path(options["run_dir"])
    from vlmreward.cli.run_folder import slug

    return Path("runs") / "labels" / f"{slug(dataset.name)}-{layout}"


def _with_gamma(reward: Mapping[str, Any]) -> dict[str, Any]:
    """Return a reward's config; a discount that an agent would give is 1, for there is no agent."""
    return {**reward, "gamma": 1.0} if "gamma" in reward and reward["gamma"] is None else dict(reward)
