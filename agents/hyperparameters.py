"""Check hyper-parameters against an algorithm's constructor, and turn their YAML forms into what it takes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from vlmreward.errors import ConfigError
from vlmreward.registry import suggest

# Arguments of the constructors that this project gives itself, and what to say instead.
RESERVED = {
    "env": "env=<name>",
    "seed": "seed=<number>",
    "device": "device=<name>",
    "tensorboard_log": "run_dir=<folder>",
    "total_timesteps": "total_timesteps=<number>",
    "n_envs": "n_envs=<number>",
    "normalise_obs": "normalise_obs=<true or false>",
    "verbose": "nothing, the progress bar is always shown",
    "monitor_wrapper": "nothing, episodes are counted from the scores",
    "rollout_buffer_class": "nothing, the scoring buffer is chosen by the algorithm",
    "rollout_buffer_kwargs": "nothing, the scoring buffer is chosen by the algorithm",
    "replay_buffer_class": "nothing, the scoring buffer is chosen by the algorithm",
    "_init_setup_model": "nothing",
}

ACTIVATIONS = {
    "relu": "ReLU",
    "tanh": "Tanh",
    "elu": "ELU",
    "leaky_relu": "LeakyReLU",
    "gelu": "GELU",
    "silu": "SiLU",
}
OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "rmsprop": "RMSprop"}
SCHEDULED = ("learning_rate", "clip_range", "delta_std")
# What SB3 takes without a word and then learns nothing from, or fails on much later: smallest and largest value.
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("gamma", "gae_lambda", "tau", "exploration_fraction"), (0, 1)),
    **dict.fromkeys(("exploration_initial_eps", "exploration_final_eps"), (0, 1)),
    **dict.fromkeys(("batch_size", "buffer_size", "n_steps", "n_epochs", "train_freq"), (1, math.inf)),
    **dict.fromkeys(("target_update_interval", "policy_delay"), (1, math.inf)),
    **dict.fromkeys(("learning_starts", "learning_rate", "clip_range", "max_grad_norm"), (0, math.inf)),
    "gradient_steps": (-1, math.inf),  # -1: as many as there were steps
    "sde_sample_freq": (-1, math.inf),
}


def list_hyperparameters(algorithm: type) -> dict[str, Any]:
    """Return the names that can be set, with their defaults, in the constructor's order."""
    parameters = inspect.signature(algorithm).parameters
    return {name: p.default for name, p in parameters.items() if name not in RESERVED and p.kind is not p.VAR_KEYWORD}


def check_hyperparameters(name: str, algorithm: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments for an algorithm's constructor.

    ``policy_kwargs.activation_fn`` and ``policy_kwargs.optimizer_class`` are given by name; ``learning_rate`` and
    ``clip_range`` take ``"lin_<x>"``, which falls from x to 0 over the run; ``action_noise`` is the standard
    deviation of normal noise; ``train_freq`` may be ``[n, "episode"]``.

    Args:
        name: What the user calls the algorithm.
        algorithm: Its class.
        given: Hyper-parameters from the config.

    Raises:
        ConfigError: A name is unknown or is ours to set, or a value has the wrong type.
    """
    from vlmreward.wrappers.checks import check_supported

    known = list_hyperparameters(algorithm)
    ready: dict[str, Any] = {}
    for key, value in given.items():
        if key == "replay_buffer_class":
            check_supported(value)
        if key in RESERVED:
            raise ConfigError(f"agent.{key} is set by vlmreward: write {RESERVED[key]}")
        if key not in known:
            raise ConfigError(f"{name} has no hyper-parameter {key!r}: {suggest(key, known)}")
        _check_type(name, key, value, known[key])
        _check_range(name, key, value)
        ready[key] = _convert(key, value)
    return ready


def build_action_noise(std: float, shape: tuple[int, ...]) -> Any:
    """Return normal noise for actions scaled to [-1, 1].

    Args:
        std: Its standard deviation.
        shape: Shape of an action.
    """
    import numpy as np
    from stable_baselines3.common.noise import NormalActionNoise

    return NormalActionNoise(np.zeros(shape), np.full(shape, std))


def _check_type(name: str, key: str, value: Any, default: Any) -> None:
    """Refuse text where a number is wanted, and the like; SB3 itself fails much later and with less to say."""
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ConfigError(f"agent.{key} of {name} must be true or false, got {value!r}")
    elif isinstance(default, (int, float)):
        if key == "train_freq" and isinstance(value, (list, tuple)):
            return
        text_allowed = key in SCHEDULED or key == "ent_coef"
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number and not (text_allowed and isinstance(value, str)):
            raise ConfigError(f"agent.{key} of {name} must be a number such as {default!r}, got {value!r}")
        if isinstance(default, int) and not isinstance(value, int):
            raise ConfigError(f"agent.{key} of {name} must be a whole number such as {default!r}, got {value!r}")
    elif key == "replay_buffer_kwargs" and not (value is None or isinstance(value, Mapping)):
        raise ConfigError(f"agent.replay_buffer_kwargs must be a mapping, got {value!r}")
    elif key == "policy_kwargs" and not (value is None or isinstance(value, Mapping)):
        raise ConfigError(
            f"agent.policy_kwargs must be a mapping, e.g. agent.policy_kwargs.net_arch=[64,64], got {value!r}"
        )


def _check_range(name: str, key: str, value: Any) -> None:
    low, high = RANGES.get(key, (-math.inf, math.inf))
    numbers = [v for v in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(v, (int, float))]
    if any(not low <= number <= high for number in numbers):
        wanted = f"between {low} and {high}" if high < math.inf else f"at least {low}"
        raise ConfigError(f"agent.{key} of {name} must be {wanted}, got {value!r}")


def _convert(key: str, value: Any) -> Any:
    if key == "policy_kwargs" and value is not None:
        return _policy_kwargs(value)
    if key == "train_freq" and isinstance(value, (list, tuple)):
        return tuple(value)
    if key in SCHEDULED and isinstance(value, str):
        return _schedule(key, value)
    if key == "action_noise" and value is not None and not isinstance(value, (int, float)):
        raise ConfigError(f"agent.action_noise is the standard deviation of normal noise, got {value!r}")
    return value


def _policy_kwargs(given: Mapping[str, Any]) -> dict[str, Any]:
    from torch import nn, optim

    ready = dict(given)
    if isinstance(ready.get("activation_fn"), str):
        ready["activation_fn"] = getattr(nn, _lookup("activation_fn", ready["activation_fn"], ACTIVATIONS))
    if isinstance(ready.get("optimizer_class"), str):
        ready["optimizer_class"] = getattr(optim, _lookup("optimizer_class", ready["optimizer_class"], OPTIMIZERS))
    return ready


def _lookup(key: str, name: str, table: dict[str, str]) -> str:
    if name.lower() not in table:
        raise ConfigError(f"agent.policy_kwargs.{key} {name!r} is unknown: {suggest(name.lower(), table)}")
    return table[name.lower()]


def _schedule(key: str, text: str) -> Any:
    from stable_baselines3.common.utils import LinearSchedule

    start = text.removeprefix("lin_")
    try:
        number = float(start)
    except ValueError as e:
        raise ConfigError(f"agent.{key} must be a number or lin_<number>, got {text!r}") from e
    return LinearSchedule(number, 0.0, 1.0) if text != start else number
