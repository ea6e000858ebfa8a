"""What of a Stable-Baselines3 algorithm goes into a checkpoint, and back: never its constructor's arguments.

The algorithm is built again from the run's config and then given its state: parameters, optimisers, counters,
normalisers and random generators.
"""

from __future__ import annotations

import inspect
import random
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from vlmreward.errors import CheckpointError

# Counters that learn() sets itself when it starts.
_SET_BY_LEARN = {"_total_timesteps", "_num_timesteps_at_start", "start_time", "_custom_logger", "n_envs", "verbose"}


def capture(model: BaseAlgorithm, num_timesteps: int | None = None) -> dict[str, Any]:
    """Return the state of an algorithm, its observation normaliser and all random generators.

    Args:
        model: The algorithm, between two updates.
        num_timesteps: The counter to store instead of the algorithm's own, when a rollout was left unfinished.
    """
    counters = _counters(model)
    if num_timesteps is not None:
        counters["num_timesteps"] = num_timesteps
    return {
        "algorithm": type(model).__name__,
        "parameters": model.get_parameters(),
        "tensors": _tensors(model),
        "counters": counters,
        "normaliser": _normaliser_state(model.get_vec_normalize_env()),
        "random": capture_random(model),
    }


def restore(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Give a freshly built algorithm the state that ``capture`` returned.

    Raises:
        CheckpointError: The state is that of another algorithm or network.
    """
    restore_policy(model, state)
    for name, tensor in state["tensors"].items():
        # the optimiser holds a reference to some of these, so the values change and not the tensor
        getattr(model, name).data = tensor.to(model.device)
    for name, value in state["counters"].items():
        setattr(model, name, value)
    restore_random(model, state["random"])


def restore_policy(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Give an algorithm the parameters, optimisers and observation statistics of a state, and nothing else.

    Raises:
        CheckpointError: The state is that of another algorithm or network.
    """
    if state["algorithm"] != type(model).__name__:
        raise CheckpointError(f"the checkpoint is of {state['algorithm']}, the config says {type(model).__name__}")
    try:
        model.set_parameters(state["parameters"], exact_match=True, device=model.device)
    except (ValueError, RuntimeError, KeyError) as e:
        raise CheckpointError(f"the checkpoint does not fit the config's network ({' '.join(str(e).split())})") from e
    _restore_normaliser(model.get_vec_normalize_env(), state["normaliser"])


def capture_random(model: BaseAlgorithm) -> dict[str, Any]:
    """Return the state of every generator that training draws from in this process."""
    # the legacy generator behind np.random.*, which SB3's buffers sample from
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, words, gauss_next = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [np.asarray(keys), int(position), int(has_gauss), float(gauss)],
        "python": [version, list(words), gauss_next],
        "actions": model.action_space.np_random.bit_generator.state,
    }


def restore_random(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Put every generator back where it was."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys, position, has_gauss, gauss))
    version, words, gauss_next = state["python"]
    random.setstate((version, tuple(words), gauss_next))
    model.action_space.np_random.bit_generator.state = state["actions"]


def _counters(model: BaseAlgorithm) -> dict[str, int | float | bool]:
    """Return the numbers that change while learning: those that are no argument of the constructor."""
    arguments = {name for cls in type(model).__mro__ for name in inspect.signature(cls).parameters}
    return {
        name: value
        for name, value in vars(model).items()
        if isinstance(value, (bool, int, float)) and name not in arguments | _SET_BY_LEARN
    }


def _tensors(model: BaseAlgorithm) -> dict[str, torch.Tensor]:
    """Return the tensors that the algorithm itself owns: an entropy coefficient, a search's centre, ..."""
    return {name: value for name, value in vars(model).items() if isinstance(value, torch.Tensor)}


def _normaliser_state(normaliser: VecNormalize | None) -> dict[str, Any] | None:
    if normaliser is None:
        return None
    if isinstance(normaliser.obs_rms, dict):
        return {key: _statistics(rms) for key, rms in normaliser.obs_rms.items()}
    return {"": _statistics(normaliser.obs_rms)}


def _restore_normaliser(normaliser: VecNormalize | None, state: dict[str, Any] | None) -> None:
    if (normaliser is None) != (state is None):
        raise CheckpointError("the checkpoint and the config disagree on normalise_obs")
    if normaliser is None or state is None:
        return
    targets = normaliser.obs_rms if isinstance(normaliser.obs_rms, dict) else {"": normaliser.obs_rms}
    for key, target in targets.items():
        target.mean, target.var, target.count = state[key]["mean"], state[key]["var"], state[key]["count"]


def _statistics(rms: RunningMeanStd) -> dict[str, Any]:
    return {"mean": np.asarray(rms.mean), "var": np.asarray(rms.var), "count": float(rms.count)}
