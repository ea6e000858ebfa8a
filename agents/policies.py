"""What chooses the actions in an evaluation: the trained agent, or a trivial policy to compare it with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from vlmreward.errors import ConfigError

POLICIES = ("agent", "random", "zero", "hold")


class Policy(Protocol):
    """Chooses the actions of several environments at once."""

    def start(self, slot: int, seed: int) -> None:
        """Note that an environment begins an episode."""
        ...

    def act(self, obs: Any) -> np.ndarray:
        """Return one action per environment for stacked observations."""
        ...


class AgentPolicy:
    """A trained Stable-Baselines3 algorithm with its frozen observation normaliser.

    Args:
        model: The algorithm.
        n_envs: Environments side by side.
        deterministic: Its most likely action rather than a sample.
    """

    def __init__(self, model: Any, n_envs: int, deterministic: bool = True) -> None:
        self.model = model
        self.deterministic = deterministic
        self._normaliser = model.get_vec_normalize_env()
        self._state: Any = None
        self._starts = np.ones(n_envs, dtype=bool)

    def start(self, slot: int, seed: int) -> None:
        """Forget a recurrent network's memory of the environment."""
        self._starts[slot] = True

    def act(self, obs: Any) -> np.ndarray:
        """Return one action per environment."""
        if self._normaliser is not None:
            obs = self._normaliser.normalize_obs(obs)
        actions, self._state = self.model.predict(
            obs, state=self._state, episode_start=self._starts, deterministic=self.deterministic
        )
        self._starts[:] = False
        return actions


class RandomPolicy:
    """Draws from the action space; an episode's actions depend on its seed alone.

    Args:
        space: The environments' action space.
        n_envs: Environments side by side.
    """

    def __init__(self, space: gym.Space, n_envs: int) -> None:
        self._spaces = [copy.deepcopy(space) for _ in range(n_envs)]

    def start(self, slot: int, seed: int) -> None:
        """Seed the environment's actions."""
        self._spaces[slot].seed(seed)

    def act(self, obs: Any) -> np.ndarray:
        """Return one action per environment."""
        return np.stack([np.asarray(space.sample()) for space in self._spaces])


class ZeroPolicy:
    """Does nothing: the zero action, or the nearest one that the action space allows.

    Args:
        space: The environments' action space.
        n_envs: Environments side by side.

    Raises:
        ConfigError: The space has no zero action.
    """

    def __init__(self, space: gym.Space, n_envs: int) -> None:
        if isinstance(space, gym.spaces.Box):
            action = np.clip(np.zeros(space.shape, space.dtype), space.low, space.high)
        elif isinstance(space, gym.spaces.Discrete):
            action = np.asarray(max(0, int(space.start)))
        elif isinstance(space, (gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)):
            action = np.zeros(space.shape, space.dtype)
        else:
            raise ConfigError(f"policy=zero does not know the zero action of {space}: use policy=random")
        self._actions = np.stack([action] * n_envs)

    def start(self, slot: int, seed: int) -> None:
        """Do nothing."""

    def act(self, obs: Any) -> np.ndarray:
        """Return one action per environment."""
        return self._actions


class HoldPolicy:
    """Holds the environment's usual start pose: the action that it names in ``hold_action``.

    Args:
        env: One of the environments.
        n_envs: Environments side by side.

    Raises:
        ConfigError: The environment names none.
    """

    def __init__(self, env: gym.Env, n_envs: int) -> None:
        if not env.has_wrapper_attr("hold_action"):
            raise ConfigError("policy=hold needs an environment with a pose to hold: use policy=zero or policy=random")
        self._actions = np.stack([np.asarray(env.get_wrapper_attr("hold_action"))] * n_envs)

    def start(self, slot: int, seed: int) -> None:
        """Do nothing."""

    def act(self, obs: Any) -> np.ndarray:
        """Return one action per environment."""
        return self._actions


class ScriptedPolicy:
    """One of an environment's own policies, which look into its true state.

    Args:
        env: The environment.
        make: One of its ``scripted_policies``: builds an actor of one episode from the environment and a generator;
            calling that returns an action.
    """

    def __init__(self, env: gym.Env, make: Callable[[gym.Env, np.random.Generator], Callable[[], np.ndarray]]) -> None:
        self._env, self._make = env, make
        self._actor: Callable[[], np.ndarray] | None = None

    def start(self, slot: int, seed: int) -> None:
        """Begin an episode."""
        self._actor = self._make(self._env.unwrapped, np.random.default_rng(seed))

    def act(self, obs: Any) -> np.ndarray:
        """Return the action, shape (1, A)."""
        assert self._actor is not None, "an episode is started before it is acted in"
        return self._actor()[None]


class NoisyPolicy:
    """Another policy, some of whose actions random ones replace.

    Args:
        policy: Of one environment.
        space: Its action space.
        noise: Share of random actions, in [0, 1].
    """

    def __init__(self, policy: Policy, space: gym.Space, noise: float) -> None:
        self._policy, self._noise = policy, noise
        self._random = RandomPolicy(space, 1)
        self._rng = np.random.default_rng()

    def start(self, slot: int, seed: int) -> None:
        """Begin an episode."""
        self._policy.start(slot, seed)
        self._random.start(slot, seed)
        self._rng = np.random.default_rng(seed)

    def act(self, obs: Any) -> np.ndarray:
        """Return one action."""
        action = self._policy.act(obs)
        return self._random.act(obs) if self._rng.random() < self._noise else action
