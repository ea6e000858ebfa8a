"""Remember how the newest vec step ended, for callbacks: not every algorithm tells them."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class LastStep(VecEnvWrapper):
    """Passes everything on, and keeps ``dones`` and ``infos`` of the newest step.

    Args:
        venv: The vector environment.

    Attributes:
        dones: True where the step ended an episode, shape (n_envs,).
        infos: What the environments said.
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.dones: np.ndarray = np.zeros(venv.num_envs, dtype=bool)
        self.infos: list[dict[str, Any]] = [{} for _ in range(venv.num_envs)]

    def reset(self) -> VecEnvObs:
        """Reset every environment; this ends no episode."""
        self.dones = np.zeros(self.num_envs, dtype=bool)
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step and remember it."""
        obs, rewards, dones, infos = self.venv.step_wait()
        self.dones, self.infos = dones, infos
        return obs, rewards, dones, infos


def find_last_step(venv: VecEnv) -> LastStep:
    """Return the ``LastStep`` among a vector environment's wrappers."""
    layer = venv
    while not isinstance(layer, LastStep):
        assert isinstance(layer, VecEnvWrapper), "prepare_env() puts a LastStep around every training environment"
        layer = layer.venv
    return layer
