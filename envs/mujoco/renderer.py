"""A MuJoCo renderer that never returns a picture of something else, with a fast and a fine preset.

Differences from ``mujoco.Renderer`` and from Gymnasium's ``render()``: the GL context is made current before every
picture and before anything is freed, and freed in order, so closing one renderer leaves the others whole; a picture of
one constant colour (what a lost context gives) is refused; the back end does not depend on when mujoco was imported.

What a software-rendered frame costs is decided by shadows, antialiasing and the number of triangles, not by its size.
Ground drawn as a MuJoCo *plane* is cut into very many triangles: hide it and draw a box (see ``humanoid/model.py``).
"""

from __future__ import annotations

import atexit
import functools
import os
import weakref
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from vlmreward.envs.mujoco.gl import GLContext, import_mujoco, make_context, restoring_context
from vlmreward.envs.size import check_size
from vlmreward.errors import ConfigError, ConstantFrameError, RenderingError
from vlmreward.registry import suggest
from vlmreward.types import Frames

mujoco = import_mujoco()

_MAX_GEOMS = 1000
_open_renderers: weakref.WeakSet[Renderer] = weakref.WeakSet()
_inherited: list[Any] = []


@functools.cache
def _close_at_exit() -> None:
    """Close what is left open at exit; after a first context, so that this runs before MuJoCo's own exit handler."""

    @atexit.register
    def close_all() -> None:
        for renderer in list(_open_renderers):
            renderer.close()


@dataclass(frozen=True)
class Quality:
    """What a picture is drawn with.

    Attributes:
        name: Name of the preset; written beside every result, since rewards differ between presets.
        offsamples: Samples per pixel of antialiasing; 0 for none.
        shadowsize: Side of the shadow map, in pixels; 0 for no shadows.
        reflection: Whether reflecting materials reflect.
        slices, stacks, quads: How finely round and flat shapes are cut into triangles.
    """

    name: str
    offsamples: int
    shadowsize: int
    reflection: bool
    slices: int
    stacks: int
    quads: int

    def __post_init__(self) -> None:
        """Check the numbers."""
        for field, low in (("offsamples", 0), ("shadowsize", 0), ("slices", 3), ("stacks", 2), ("quads", 1)):
            if getattr(self, field) < low:
                raise ConfigError(f"{field} must be at least {low}, got {getattr(self, field)}")


QUALITIES = {
    "fast": Quality("fast", offsamples=0, shadowsize=0, reflection=False, slices=12, stacks=8, quads=1),
    "fine": Quality("fine", offsamples=4, shadowsize=4096, reflection=True, slices=28, stacks=16, quads=4),  # MuJoCo's
}


def get_quality(name: str) -> Quality:
    """Return a preset by name.

    Raises:
        ConfigError: There is no such preset.
    """
    if name not in QUALITIES:
        raise ConfigError(f"unknown quality {name!r}: {suggest(name, QUALITIES)}")
    return QUALITIES[name]


@dataclass(frozen=True)
class Camera:
    """A camera that stands still in the world and looks at a point.

    Attributes:
        distance: Distance from the point, in metres.
        lookat: The point, in metres.
        azimuth: Direction of view seen from above, in degrees; 0 looks along +x, 180 along -x.
        elevation: Direction of view above the horizon, in degrees; negative looks down.
    """

    distance: float
    lookat: tuple[float, float, float]
    azimuth: float
    elevation: float

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not self.distance > 0:
            raise ConfigError(f"distance of a camera must be positive, got {self.distance}")
        if not -90 <= self.elevation <= 90:
            raise ConfigError(f"elevation of a camera must be within -90 .. 90 degrees, got {self.elevation}")

    def to_mjv(self) -> Any:
        """Return the same as an ``mujoco.MjvCamera``."""
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        camera.distance, camera.azimuth, camera.elevation = self.distance, self.azimuth, self.elevation
        camera.lookat[:] = self.lookat
        return camera


class Renderer:
    """Draws pictures of one model at one size.

    Any number of renderers can live in a process, of any sizes; one thread at a time may use each.

    Args:
        model: An ``mujoco.MjModel``; textures are uploaded now (see :meth:`upload_textures`).
        width: Width of the pictures, in pixels.
        height: Height of the pictures, in pixels.
        quality: A preset, or its name.

    Raises:
        ConfigError: Unknown preset, or a size below 1.
        RenderingError: No GL back end works.
    """

    def __init__(self, model: Any, width: int, height: int, quality: str | Quality = "fast") -> None:
        self._gl: GLContext | None = None  # first of all, so that close() works on a half-made object
        self._context: Any = None
        check_size(width, height)
        self.quality = get_quality(quality) if isinstance(quality, str) else quality
        self.width, self.height = width, height
        self._model = model
        self._scene = mujoco.MjvScene(model, _MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = self.quality.shadowsize > 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = self.quality.reflection
        self._option = mujoco.MjvOption()
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._pixels = np.empty((height, width, 3), np.uint8)
        self._pid = os.getpid()
        self._gl = make_context(width, height)
        with restoring_context():
            self._gl.make_current()
            self._context = self._make_mjr_context()
        _close_at_exit()
        _open_renderers.add(self)

    def render(self, data: Any, camera: Camera) -> Frames:
        """Draw one picture.

        Args:
            data: An ``mujoco.MjData`` of the model, positions computed.
            camera: From where.

        Returns:
            A new array, uint8, shape (height, width, 3), RGB.

        Raises:
            RenderingError: The renderer is closed, or every pixel has the same colour.
        """
        gl = self._live_context()
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, camera.to_mjv(), mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        with restoring_context():
            gl.make_current()
            mujoco.mjr_render(self._rect, self._scene, self._context)
            mujoco.mjr_readPixels(self._pixels, None, self._rect, self._context)
        check_not_constant(self._pixels)
        return self._pixels[::-1].copy()  # GL counts rows from below

    def upload_textures(self) -> None:
        """Take over pixels of textures that were changed in the model since they were last uploaded."""
        gl = self._live_context()
        with restoring_context():
            gl.make_current()
            for texture in range(self._model.ntex):
                mujoco.mjr_uploadTexture(self._model, self._context, texture)

    def close(self) -> None:
        """Free the GL objects, then the GL context; a second call does nothing."""
        if self._gl is None:
            return
        gl, context = self._gl, self._context
        self._gl = self._context = None
        _open_renderers.discard(self)
        if self._pid != os.getpid():
            _inherited.append((gl, context))  # they belong to the parent process: keep them, never free them
            return
        with restoring_context():
            gl.make_current()  # what MjrContext frees are numbers of the *current* context
            if context is not None:
                context.free()
            gl.free()

    def _live_context(self) -> GLContext:
        """Return the GL context.

        Raises:
            RenderingError: The renderer is closed, or belongs to the parent of this process.
        """
        if self._gl is None:
            raise RenderingError("this renderer is closed: make a new one")
        if self._pid != os.getpid():
            raise RenderingError(
                "this renderer was inherited through a fork, which GL does not survive: make environments inside the "
                "worker, with start_method='spawn' or 'forkserver'"
            )
        return self._gl

    def _make_mjr_context(self) -> Any:
        """Make the MjrContext at our size and quality, without changing the model for others."""
        quality, glob = self._model.vis.quality, self._model.vis.global_
        saved = (quality.offsamples, quality.shadowsize, quality.numslices, quality.numstacks, quality.numquads)
        saved_size = (glob.offwidth, glob.offheight)
        own = self.quality
        try:
            quality.offsamples, quality.shadowsize = own.offsamples, own.shadowsize
            quality.numslices, quality.numstacks, quality.numquads = own.slices, own.stacks, own.quads
            glob.offwidth, glob.offheight = self.width, self.height
            context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_50)
        finally:
            quality.offsamples, quality.shadowsize, quality.numslices, quality.numstacks, quality.numquads = saved
            glob.offwidth, glob.offheight = saved_size
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        return context

    def __enter__(self) -> Self:
        """Return the renderer."""
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        """Close the renderer."""
        self.close()

    def __del__(self) -> None:
        """Close the renderer, in order, when it was forgotten."""
        self.close()


def check_not_constant(frame: Frames) -> None:
    """Refuse a picture that shows nothing.

    Args:
        frame: uint8, shape (H, W, 3).

    Raises:
        ConstantFrameError: All pixels have the same colour, which is what a lost GL context or a black scene gives.
    """
    first = frame[0, 0]
    # the middle or a corner nearly always differs: look at everything only if they don't
    height, width = frame.shape[:2]
    if (frame[height // 2, width // 2] != first).any() or (frame[-1, -1] != first).any():
        return
    if (frame == first).all():
        raise ConstantFrameError(
            f"the picture is one constant colour {tuple(int(c) for c in first)}: the GL context was lost, or the "
            "camera sees nothing; make the environment anew"
        )
