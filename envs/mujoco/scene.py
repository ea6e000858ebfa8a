"""What the scenes share: a model whose looks are their own, a state to draw, and a renderer made when it is needed."""

from __future__ import annotations

import copy
from types import TracebackType
from typing import Any, Self

from vlmreward.envs.mujoco.gl import import_mujoco
from vlmreward.envs.mujoco.renderer import Camera, Renderer, get_quality
from vlmreward.envs.size import check_size
from vlmreward.types import Frames

mujoco = import_mujoco()


class Scene:
    """A model, a state to draw, and a renderer made when the first picture is asked for.

    Args:
        model: ``mujoco.MjModel``; it is copied, for looks are per scene.
        width: Width of the pictures, in pixels.
        height: Height of the pictures, in pixels.
        quality: ``"fast"`` (no shadows, no antialiasing) or ``"fine"`` (MuJoCo's default).

    Raises:
        ConfigError: Unknown quality, or a size below 1.
    """

    def __init__(self, model: Any, width: int, height: int, quality: str) -> None:
        check_size(width, height)
        self.width, self.height, self.quality = width, height, get_quality(quality)
        self.model = copy.copy(model)  # a copy of the C struct
        self.data = mujoco.MjData(self.model)
        self._renderer: Renderer | None = None

    def _draw(self, data: Any, camera: Camera) -> Frames:
        """Draw a state whose positions are computed."""
        if self._renderer is None:
            self._renderer = Renderer(self.model, self.width, self.height, self.quality)
        return self._renderer.render(data, camera)

    def close(self) -> None:
        """Free the renderer; a later picture makes a new one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __enter__(self) -> Self:
        """Return the scene."""
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        """Free the renderer."""
        self.close()


def place_parts(model: Any, data: Any) -> None:
    """Compute where parts, cameras and lights are from the joints' positions; nothing moves."""
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)
