"""Hold each action for several steps of the environment: fewer frames to draw and encode a second of its time.

Stepping can be far cheaper than encoding (cart-pole: 6 s against 136 s, ``benchmarks/results/demo.json``). Holding
actions for some steps is usual: DQN (Mnih et al. 2015) does it, and so do agents from pixels on the DeepMind Control
Suite (e.g. DrQ, arXiv 2004.13649).
"""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium as gym

from vlmreward.errors import ConfigError


class ActionRepeat(gym.Wrapper):
    """Step the environment ``repeat`` times with the same action, less where an episode ends before.

    The environment's own rewards are summed; observation, info (with the true success, which the environment follows
    through every one of its steps) and picture are those of the last step. Time limits inside keep counting the
    environment's own steps. ``metadata["render_fps"]`` becomes that of the frames that are seen.

    Args:
        env: Environment.
        repeat: Steps of the environment an action, >= 1.

    Raises:
        ConfigError: ``repeat`` is not a whole number >= 1.
    """

    def __init__(self, env: gym.Env, repeat: int) -> None:
        super().__init__(env)
        self.repeat = check_repeat(repeat)
        if fps := env.metadata.get("render_fps"):
            self.metadata = {**env.metadata, "render_fps": fps / self.repeat}

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step with the action held."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        total = float(reward)
        for _ in range(self.repeat - 1):
            if terminated or truncated:
                break
            obs, reward, terminated, truncated, info = self.env.step(action)
            total += float(reward)
        return obs, total, terminated, truncated, info


def check_repeat(repeat: Any) -> int:
    """Return a number of steps an action.

    Raises:
        ConfigError: It is not a whole number >= 1.
    """
    if not isinstance(repeat, int) or isinstance(repeat, bool) or repeat < 1:
        raise ConfigError(f"env.action_repeat must be a whole number >= 1, got {repeat!r}")
    return repeat
