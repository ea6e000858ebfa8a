"""An environment, an encoder and reward models whose answers can be worked out by hand.

The modules need NumPy and Gymnasium only, so that they can be used in any process.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from vlmreward.types import Context, FloatArray, FrameBatch, Frames, RewardBatch


class PixelEnv(gym.Env):
    """A dot on a line. The picture shows where it is; the environment's own reward is its position.

    The action moves the dot: 0 left, 1 not at all, 2 right, or a number in [-1, 1] if ``continuous``. The
    observation is (position, share of the episode that is over). An episode terminates when the dot is past ``goal``
    and is truncated after ``length`` steps.

    Args:
        render_mode: ``"rgb_array"`` or None.
        size: Side of the picture, in pixels.
        length: Steps until an episode is truncated.
        goal: Position, in [0, 1], from which on an episode terminates; None for never.
        continuous: Whether actions are numbers.
        dict_obs: Whether the observation is ``{"position": (1,), "time": (1,)}``.
        black_steps: Numbers of steps, in each episode, whose frame is black; 0 is the frame of the reset.
        step_seconds: How long a step sleeps.
        fail_at: Number of the step that raises RuntimeError, counted over episodes; None for never.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(
        self,
        render_mode: str | None = "rgb_array",
        size: int = 16,
        length: int = 7,
        goal: float | None = None,
        continuous: bool = False,
        dict_obs: bool = False,
        black_steps: Sequence[int] = (),
        step_seconds: float = 0.0,
        fail_at: int | None = None,
    ) -> None:
        self.render_mode = render_mode
        self.size, self.length, self.goal = size, length, goal
        self.dict_obs, self.black_steps = dict_obs, frozenset(black_steps)
        self.step_seconds, self.fail_at = step_seconds, fail_at
        unit = gym.spaces.Box(0, 1, (1,), np.float32)
        self.observation_space = (
            gym.spaces.Dict({"position": unit, "time": unit}) if dict_obs else gym.spaces.Box(0, 1, (2,), np.float32)
        )
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32) if continuous else gym.spaces.Discrete(3)
        self.position, self.step_number, self.total_steps, self.renders = 0.0, 0, 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Put the dot somewhere in the left half."""
        super().reset(seed=seed)
        self.position, self.step_number = float(self.np_random.uniform(0, 0.5)), 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the dot by up to a tenth of the line."""
        if self.total_steps == self.fail_at:
            raise RuntimeError("the fake environment was told to fail")
        time.sleep(self.step_seconds)
        move = float(np.asarray(action).reshape(-1)[0])
        move = move if isinstance(self.action_space, gym.spaces.Box) else move - 1
        self.position = float(np.clip(self.position + 0.1 * move, 0, 1))
        self.step_number += 1
        self.total_steps += 1
        terminated = self.goal is not None and self.position >= self.goal
        return self._observe(), self.position, terminated, self.step_number >= self.length, {"success": terminated}

    def render(self) -> npt.NDArray[np.uint8]:
        """Draw the dot (red, bright at its position) and the time (green, from the top)."""
        self.renders += 1
        frame = np.zeros((self.size, self.size, 3), np.uint8)
        if self.step_number in self.black_steps:
            return frame
        at = np.arange(self.size) / (self.size - 1)
        frame[:, :, 0] = np.rint(255 * np.exp(-30 * (at - self.position) ** 2)).astype(np.uint8)
        frame[: 1 + self.step_number % self.size, :, 1] = 200
        return frame

    def _observe(self) -> Any:
        position, share = np.float32(self.position), np.float32(min(1.0, self.step_number / self.length))
        if self.dict_obs:
            return {"position": np.array([position]), "time": np.array([share])}
        return np.array([position, share])


class ProjectionEncoder:
    """Projects pixels with a fixed random matrix; deterministic, and each row independent of the others.

    Args:
        dim: Length of an embedding.
        seed: Seed of the matrix.
        seconds: How long a call sleeps.
        fail_at: Number of the call that raises, from 0; None for never.

    Attributes:
        batches: Number of frames in each call so far.
    """

    licence = "MIT"

    def __init__(self, dim: int = 24, seed: int = 0, seconds: float = 0.0, fail_at: int | None = None) -> None:
        self.id, self.image_size, self.dim = f"projection-{dim}-{seed}", 8, dim
        self.seconds, self.fail_at, self.batches = seconds, fail_at, list[int]()
        self._seed = seed

    def encode_images(self, frames: Frames) -> FloatArray:
        """Return unit vectors, float32, shape (N, dim)."""
        if len(self.batches) == self.fail_at:
            raise RuntimeError("the fake encoder was told to fail")
        self.batches.append(len(frames))
        time.sleep(self.seconds)
        pixels = frames.reshape(len(frames), -1).astype(np.float32) / 255
        matrix = np.random.default_rng(self._seed).standard_normal((pixels.shape[1], self.dim)).astype(np.float32)
        raw = np.stack([row @ matrix for row in pixels])
        return raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)

    def encode_texts(self, texts: Sequence[str]) -> FloatArray:
        """Return unit vectors that depend on the texts' bytes, float32, shape (M, dim)."""
        raw = np.stack([np.random.default_rng(list(text.encode())).standard_normal(self.dim) for text in texts])
        return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)


class BrightnessReward:
    """Looks at pixels: the mean of the red channel, in [0, 1]."""

    context: Context = "frame"
    causal = True
    range = (0.0, 1.0)
    needs: tuple[str, ...] = ("frames",)

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        """Score frames."""
        assert batch.frames is not None
        reward = batch.frames[..., 0].mean(axis=(1, 2), dtype=np.float64) / 255
        return RewardBatch(reward.astype(np.float32), np.ones(len(batch), bool))


class LinearReward:
    """A dot product with one direction, of each frame or of what a context makes of it.

    - ``"frame"``: x . d; with ``needs`` holding ``"initial"``, x . d - x_0 . d
    - ``"pair"``: x . d - x_before . d
    - ``"prefix"``: mean of x . d over the episode so far, the frame of the reset included
    - ``"episode"``: mean of x . d over the whole episode, for each of its rows

    Args:
        dim: Length of an embedding.
        context: See above.
        needs: Fields that the model declares.
        refuse_above: Rows with a dot product above this are invalid ("too bright").
    """

    causal = True
    range = (-2.0, 2.0)

    def __init__(
        self,
        dim: int = 24,
        context: Context = "frame",
        needs: tuple[str, ...] = ("embeddings",),
        refuse_above: float = np.inf,
    ) -> None:
        self.context: Context = context
        self.needs = needs
        self.causal = context != "episode"
        self.refuse_above = refuse_above
        direction = np.random.default_rng(99).standard_normal(dim)
        self.direction = (direction / np.linalg.norm(direction)).astype(np.float32)

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        """Score embeddings."""
        assert batch.embeddings is not None
        dots = self._dots(batch.embeddings)
        valid = dots <= self.refuse_above
        reasons = {int(row): "too bright" for row in np.flatnonzero(~valid)}
        if self.context == "pair":
            dots = dots - self._dots(batch.previous)
        elif "initial" in self.needs:
            dots = dots - self._dots(batch.initial)
        elif self.context in ("prefix", "episode"):
            raw = dots.copy()
            for row in range(len(batch)):
                same = batch.episode == batch.episode[row]
                seen = same & (batch.step <= batch.step[row]) if self.context == "prefix" else same
                dots[row] = raw[seen].mean()
        return RewardBatch(dots.astype(np.float32), valid, reasons=reasons)

    def _dots(self, embeddings: Any) -> FloatArray:
        return np.array([row @ self.direction for row in np.asarray(embeddings, np.float32)], np.float32)
