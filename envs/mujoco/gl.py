"""Choose a GL back end that works on this machine, and make contexts of it.

MuJoCo draws through EGL, OSMesa or a window system. Which one works is found out in a *child process* that renders a
small picture, because a failed attempt leaves libraries behind that can't be unloaded. Nothing here runs at import.

Two facts shape this module:

- A process is bound to one back end once PyOpenGL was loaded for it, so the choice is made once and inherited by
  child processes through ``MUJOCO_GL`` and ``VLMREWARD_GL_CHECKED``.
- Mesa's software renderer and triton (a dependency of CUDA builds of torch) each bring an LLVM. Loading triton *after*
  Mesa's ends in a segmentation fault, and torch loads it on the first use of an optimiser. So triton, where it is
  installed, is imported before anything that loads Mesa (0.1 s of CPU time); see :func:`load_triton_first`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import platform
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from vlmreward.errors import RenderingError

CHECKED = "VLMREWARD_GL_CHECKED"  # value: the back end that a preflight in this process or a parent found to work
_OFF = ("disable", "disabled", "off", "false", "0")
_AUTO = ("", "enable", "enabled", "on", "true", "1")  # values of MUJOCO_GL that leave the choice to us
_APT = {"egl": "libegl1 libgl1-mesa-dri", "osmesa": "libosmesa6"}  # Debian and Ubuntu packages
_PREFLIGHT_SECONDS = 30.0  # a hang is a failure; a good preflight takes about 0.6 s
_first_context_pid: int | None = None


class GLContext(Protocol):
    """An OpenGL context as MuJoCo's Python package makes it."""

    def make_current(self) -> None:
        """Make this context the one that GL calls of this thread go to."""

    def free(self) -> None:
        """Destroy the context."""


def candidates() -> tuple[str, ...]:
    """Return the back ends to try on this platform, best first."""
    system = platform.system()
    if system == "Darwin":
        return ("cgl",)
    return ("egl", "osmesa") if system == "Linux" else ("glfw",)


def loaded_backend() -> str | None:
    """Return the back end that this process is bound to, or None if none is loaded."""
    return next((b for b in ("egl", "osmesa") if f"mujoco.{b}" in sys.modules), None)


def choose_gl_backend() -> str:
    """Find a back end that draws a picture on this machine.

    The answer of an earlier call, here or in a parent process, is reused.

    Returns:
        ``"egl"``, ``"osmesa"``, ``"cgl"`` (macOS) or ``"glfw"``.

    Raises:
        RenderingError: No back end works.
    """
    known = os.environ.get(CHECKED, "")
    if known in candidates():
        return known
    reasons = []
    for backend in candidates():
        reason = preflight(backend)
        if reason is None:
            os.environ[CHECKED] = backend
            return backend
        reasons.append(f"{backend}: {reason}")
    raise RenderingError(
        f"no OpenGL back end can draw ({'; '.join(reasons)}): on Debian or Ubuntu run "
        f"apt-get install {_APT['egl']}   (or {_APT['osmesa']})"
    )


def ensure_gl() -> str:
    """Settle the back end of this process and of its children, and set ``MUJOCO_GL`` if it is unset.

    A back end that the user named in ``MUJOCO_GL`` is respected, and checked.

    Returns:
        The back end.

    Raises:
        RenderingError: No back end works, the one that the user named doesn't, or this process loaded another one.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower().strip()
    if asked in _OFF:
        raise RenderingError(f"MUJOCO_GL={asked} switches pictures off: unset it, or set it to egl or osmesa")
    bound = loaded_backend()
    if asked in _AUTO:
        backend = bound or choose_gl_backend()
        os.environ["MUJOCO_GL"] = backend
    else:
        backend = asked
    if bound not in (None, backend):
        raise RenderingError(
            f"MUJOCO_GL={backend}, but this process has loaded MuJoCo's {bound} back end already: set MUJOCO_GL before "
            "the first picture, and start again"
        )
    if os.environ.get(CHECKED) != backend:
        reason = preflight(backend)
        if reason is not None:
            raise RenderingError(
                f"MUJOCO_GL={backend} does not work here ({reason}): {_install(backend)}unset MUJOCO_GL to let "
                "vlmreward choose"
            )
        os.environ[CHECKED] = backend
    return backend


def import_mujoco() -> Any:
    """Import mujoco, with one clear line if ``MUJOCO_GL`` names a back end that is not there.

    Returns:
        The module; typed as Any, because its native functions have no type information.

    Raises:
        RenderingError: mujoco can't be imported with this ``MUJOCO_GL``.
    """
    if os.environ.get("MUJOCO_GL", "").lower().strip() == "osmesa" and "mujoco" not in sys.modules:
        load_triton_first()  # libOSMesa is loaded, LLVM and all, when mujoco is imported
    try:
        return importlib.import_module("mujoco")
    except ModuleNotFoundError:
        raise
    except (AttributeError, ImportError, RuntimeError) as e:  # what PyOpenGL and mujoco raise for missing libraries
        asked = os.environ.get("MUJOCO_GL", "")
        raise RenderingError(
            f"mujoco can't be imported with MUJOCO_GL={asked} ({e}): {_install(asked)}unset MUJOCO_GL"
        ) from e


def _install(backend: str) -> str:
    """Return the half-sentence that says what to install for a back end, or nothing."""
    return f"apt-get install {_APT[backend]}, or " if backend in _APT else ""


def preflight(backend: str) -> str | None:
    """Draw a picture with a back end in a child process.

    Args:
        backend: Name of the back end.

    Returns:
        None if the picture is there and isn't one constant colour, else the reason in one line.
    """
    code = f"from vlmreward.envs.mujoco.gl import draw_test_picture; draw_test_picture({backend!r})"
    env = {**os.environ, "MUJOCO_GL": backend}
    try:
        # -P: the working directory must not shadow a package
        done = subprocess.run(
            [sys.executable, "-P", "-c", code], env=env, capture_output=True, text=True, timeout=_PREFLIGHT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no picture within {_PREFLIGHT_SECONDS:.0f} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1][:200] if lines else f"exit code {done.returncode}"


def draw_test_picture(backend: str) -> None:
    """Draw a red ball at 64 x 64 pixels; the body of the preflight's child process.

    Raises:
        RenderingError: The picture is one constant colour.
    """
    import numpy as np

    mujoco = import_mujoco()
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><light pos="0 0 3"/><geom size=".3" rgba="1 0 0 1"/></worldbody></mujoco>'
    )
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, camera)
    scene = mujoco.MjvScene(model, 10)
    mujoco.mjv_updateScene(model, data, mujoco.MjvOption(), None, camera, mujoco.mjtCatBit.mjCAT_ALL, scene)
    model.vis.quality.shadowsize = 0
    gl = _context_class(backend)(64, 64)
    gl.make_current()
    context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
    rect, picture = mujoco.MjrRect(0, 0, 64, 64), np.zeros((64, 64, 3), np.uint8)
    mujoco.mjr_render(rect, scene, context)
    mujoco.mjr_readPixels(picture, None, rect, context)
    context.free()
    gl.free()
    if (picture == picture[0, 0]).all():
        raise RenderingError("the picture is one constant colour")


def make_context(width: int, height: int) -> GLContext:
    """Make a GL context of the settled back end.

    Args:
        width: Largest width that will be drawn, in pixels.
        height: Largest height, in pixels.

    Returns:
        The context; make it current before use.

    Raises:
        RenderingError: No back end works, or this process was forked from one that draws.
    """
    global _first_context_pid
    backend = ensure_gl()
    if _first_context_pid not in (None, os.getpid()):
        raise RenderingError(
            "this process was forked from one that has a renderer, and GL does not survive a fork: "
            "start workers with start_method='spawn' or 'forkserver'"
        )
    load_triton_first()
    _first_context_pid = os.getpid()
    try:
        with restoring_context():  # making one forgets which one is current
            return _context_class(backend)(width, height)
    except Exception as e:  # each back end raises its own kinds (AttributeError, ImportError, GLError, ...)
        raise RenderingError(
            f"{backend} worked in a check and fails now ({type(e).__name__}: {e}): unset {CHECKED} and start again"
        ) from e


def load_triton_first() -> None:
    """Import triton, where it is installed, unless Mesa's LLVM is in the process already: then warn."""
    if "triton" in sys.modules or importlib.util.find_spec("triton") is None:
        return
    maps = Path("/proc/self/maps")
    if maps.exists() and "libLLVM" in maps.read_text():
        warnings.warn(
            "a GL library was loaded before triton: importing torch's optimisers in this process will crash; import "
            "triton first, or make this environment before other renderers",
            RuntimeWarning,
            stacklevel=2,
        )
        return
    with contextlib.suppress(ImportError):  # a broken triton is torch's matter, which runs without it
        importlib.import_module("triton")


@contextlib.contextmanager
def restoring_context() -> Iterator[None]:
    """Give the thread back the GL context it has now, or none, at the end of a block (EGL).

    So a renderer can be used from one thread after another, and Gymnasium's own renderers, which make their context
    current only once, keep working beside ours. OSMesa can't tell where its current context draws to: nothing is done.
    """
    if loaded_backend() != "egl":
        yield
        return
    module = importlib.import_module("mujoco.egl")
    egl = module.EGL
    before = egl.eglGetCurrentContext()
    try:
        yield
    finally:
        if module.EGL_DISPLAY is not None:
            none = egl.EGL_NO_SURFACE
            egl.eglMakeCurrent(module.EGL_DISPLAY, none, none, before or egl.EGL_NO_CONTEXT)


def _context_class(backend: str) -> type:
    """Import the context class of one back end, whatever ``MUJOCO_GL`` was when mujoco was imported."""
    if backend in ("egl", "osmesa", "glfw", "cgl"):
        return importlib.import_module(f"mujoco.{backend}").GLContext
    raise RenderingError(f"unknown GL back end MUJOCO_GL={backend}: use egl or osmesa")
