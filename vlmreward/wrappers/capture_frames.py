"""Render each transition inside the environment's own process and write the frame to shared memory.

This module is imported by every worker process: it needs NumPy and Gymnasium, nothing heavier.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from vlmreward.errors import ConstantFrameError, FramesError, RenderingError
from vlmreward.types import Frames
from vlmreward.wrappers.frame_ring import FREE, RESET, STEP, FrameRing, RingSpec

ENV_REWARD_KEY = "env_reward"
"""Key in ``info`` of the environment's own reward, a float."""

REASONS = ("", "constant frame")
"""Why a captured frame is not scored; ``SLOT_DTYPE["reason"]`` is an index into it."""

CONSTANT_FRAME = REASONS.index("constant frame")

EnvFn = Callable[[], gym.Env]


def is_constant(frame: Frames) -> bool:
    """Return whether a frame shows one colour only, as a lost GL context does.

    Args:
        frame: uint8, shape (H, W, 3).
    """
    first = frame[0, 0]
    # About 16 x 16 pixels tell nearly every real picture from a constant one; only a suspect is looked at in full.
    sparse = frame[:: max(1, frame.shape[0] // 16), :: max(1, frame.shape[1] // 16)]
    return bool((sparse == first).all() and (frame == first).all())


def render_frame(env: gym.Env, shape: tuple[int, ...] | None = None) -> Frames:
    """Render one frame and check it.

    Args:
        env: Environment with ``render_mode="rgb_array"``.
        shape: The shape (H, W, 3) that the frame must have, if that is known.

    Returns:
        uint8, shape (H, W, 3).

    Raises:
        RenderingError: There is no picture, or its size has changed.
        FramesError: It is not uint8 (H, W, 3).
    """
    frame: Any = env.render()
    if frame is None:
        raise RenderingError(f"render() of {env} returned None: build it with render_mode='rgb_array'")
    if not isinstance(frame, np.ndarray):
        raise RenderingError(f"render() of {env} returned {type(frame).__name__}, not one picture: use 'rgb_array'")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or 0 in frame.shape:
        raise FramesError(
            f"render() of {env} must return uint8 of shape (H, W, 3), got {frame.dtype} {frame.shape}: "
            "wrap it so that it renders RGB"
        )
    if shape is not None and frame.shape != shape:
        raise RenderingError(
            f"render() of {env} returned {frame.shape} after {shape}: the frames' size must not change"
        )
    return frame


def capture_frame(env: gym.Env, shape: tuple[int, ...] | None = None) -> tuple[Frames | None, int]:
    """Render one frame and say whether it can be scored.

    Args:
        env: Environment with ``render_mode="rgb_array"``.
        shape: The shape (H, W, 3) that the frame must have, if that is known.

    Returns:
        The frame, uint8, shape (H, W, 3), or None where our own renderer refused it; and the number of the reason (of
        ``REASONS``) why it can't be scored, 0 if it can.

    Raises:
        RenderingError: There is no picture, or its size has changed.
        FramesError: It is not uint8 (H, W, 3).
    """
    try:
        frame = render_frame(env, shape)
    except ConstantFrameError:  # a run counts such a frame and goes on
        return None, CONSTANT_FRAME
    return frame, CONSTANT_FRAME if is_constant(frame) else 0


def check_pixels(env: gym.Env) -> None:
    """Refuse an environment that makes no single pictures.

    Raises:
        RenderingError: Its render mode is not ``"rgb_array"``.
    """
    if env.render_mode != "rgb_array":
        raise RenderingError(
            f"{env} has render_mode {env.render_mode!r} and so no pixels to score: "
            "build it with render_mode='rgb_array', or choose an environment that has it"
        )


class CaptureFrames(gym.Wrapper):
    """Write a frame after every step and every reset to the slot that the main process assigned.

    The frame of a step is taken after the action and before any auto-reset (which happens outside this wrapper), the
    frame of a reset goes to a slot of its own: an episode of T transitions has T+1 frames, and a reset frame never
    stands for a transition. The step's reward is the placeholder 0.0; the environment's own is in
    ``info["env_reward"]``.

    Args:
        env: Environment with ``render_mode="rgb_array"``.

    Raises:
        RenderingError: The environment has no pixels.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        check_pixels(env)
        self._ring: FrameRing | None = None
        self._index = 0
        self._episode = -1
        self._step = 0

    def probe_frames(self) -> tuple[int, int, int]:
        """Reset, render once and return the frames' shape (H, W, 3).

        Raises:
            RenderingError: There is no picture.
            FramesError: It is not uint8 (H, W, 3).
        """
        self.env.reset()
        height, width, channels = render_frame(self.env).shape
        return height, width, channels

    def attach_ring(self, spec: RingSpec, env_index: int) -> None:
        """Write frames to this ring from now on, as environment ``env_index``."""
        self._ring = FrameRing.attach(spec)
        self._index = env_index

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the environment and capture the frame that the action led to."""
        start = time.perf_counter()
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._step += 1
        ends = bool(terminated), bool(truncated)
        self._capture(STEP, float(reward), ends, time.perf_counter() - start)
        return obs, 0.0, terminated, truncated, {**info, ENV_REWARD_KEY: float(reward)}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and capture the first frame of the episode."""
        start = time.perf_counter()
        obs, info = self.env.reset(seed=seed, options=options)
        self._episode, self._step = self._episode + 1, 0
        self._capture(RESET, 0.0, (False, False), time.perf_counter() - start)
        return obs, info

    def _capture(self, kind: int, env_reward: float, ends: tuple[bool, bool], step_seconds: float) -> None:
        ring = self._ring
        assert ring is not None, "attach_ring() comes before the first step"
        slot = int(ring.assigned[self._index, kind])
        assert slot != FREE, "an environment is stepped or reset only by the VecCaptureFrames that holds it"
        start = time.perf_counter()
        frame, reason = capture_frame(self.env, ring.spec.frame_shape)
        ring.frames[slot] = 0 if frame is None else frame
        render_seconds = time.perf_counter() - start
        ring.meta[slot] = (self._episode, self._step, env_reward, step_seconds, render_seconds, *ends, reason)
        ring.assigned[self._index, kind] = FREE


def make_capture(env_fn: EnvFn) -> CaptureFrames:
    """Build an environment and wrap it, in the process where this is called."""
    return CaptureFrames(env_fn())
