"""What the MuJoCo environments share: pictures or none, and actions that are looked at before they are taken."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from vlmreward.envs.mujoco.gl import ensure_gl
from vlmreward.errors import ConfigError, NonFiniteError, RenderingError


class MujocoEnv(gym.Env):
    """An environment with pictures, or without.

    Args:
        render_mode: ``"rgb_array"``, or None: no pictures, and no OpenGL needed.

    Raises:
        ConfigError: Another render mode.
        RenderingError: Pictures are wanted, and no GL back end works.
    """

    def __init__(self, render_mode: str | None) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode must be 'rgb_array' or None, got {render_mode!r}")
        if render_mode is not None:
            ensure_gl()  # a machine without OpenGL is told now, not after an hour
        self.render_mode = render_mode

    def _read_action(self, action: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return an action that is a finite float of the right shape.

        Raises:
            ConfigError: The action has another shape.
            NonFiniteError: The action is not finite.
        """
        read = np.asarray(action, np.float64)
        if read.shape != self.action_space.shape:
            raise ConfigError(f"action must have shape {self.action_space.shape}, got {read.shape}")
        if not np.isfinite(read).all():
            raise NonFiniteError(f"action must be finite, got {read}")
        return read

    def _check_has_pictures(self) -> None:
        """Refuse to draw where no pictures were asked for.

        Raises:
            RenderingError: The environment was made with ``render_mode=None``.
        """
        if self.render_mode is None:
            raise RenderingError("this environment was made without pictures: make it with render_mode='rgb_array'")
