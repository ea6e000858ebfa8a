from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from vlmreward.rewards.transform import RewardTransform
from vlmreward.types import Context, FrameBatch, RewardBatch
from vlmreward.wrappers.scorer import Scorer
from vlmreward.wrappers.vec_capture_frames import VecCaptureFrames

LENGTH = 10  # steps of an episode


class DotEnv(gym.Env):
    """A dot on a line of 8 pixels; it moves left (0), stays (1) or right (2), or by a real number.

    The picture has the dot's column bright. Own reward: the position. Success: the dot is in the last column.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, continuous: bool = False, states_success: bool = True, length: int = LENGTH) -> None:
        self.render_mode = "rgb_array"
        self.observation_space = gym.spaces.Box(0, 7, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (1,), np.float32) if continuous else gym.spaces.Discrete(3)
        self.states_success, self.length = states_success, length
        self.x = self.t = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.x, self.t = int(self.np_random.integers(0, 8)), 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        continuous = isinstance(self.action_space, gym.spaces.Box)
        move = int(np.sign(np.round(action[0]))) if continuous else int(action) - 1
        self.x, self.t = int(np.clip(self.x + move, 0, 7)), self.t + 1
        info = {"success": self.x == 7} if self.states_success else {}
        return self._obs(), float(self.x), False, self.t >= self.length, info

    def render(self) -> np.ndarray:
        frame = np.full((8, 8, 3), 10, np.uint8)
        frame[:, self.x] = 20 + self.x
        return frame

    def _obs(self) -> np.ndarray:
        return np.array([self.x, self.t % 8], np.float32)


class DotEncoder:
    """Embeds a picture of a dot as (cos, sin) of an angle that grows with its position."""

    id, image_size, dim, licence = "dot", 8, 2, "MIT"

    def encode_images(self, frames: np.ndarray) -> np.ndarray:
        x = (frames[:, 0, :, 0] > 10).argmax(axis=1)
        return np.stack([np.cos(x / 7), np.sin(x / 7)], axis=1).astype(np.float32)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.tile(np.array([np.cos(1), np.sin(1)], np.float32), (len(texts), 1))


class DotReward:
    """Cosine to the last column: cos((x - 7) / 7)."""

    context: Context = "frame"
    causal = True
    range: tuple[float, float] = (-1.0, 1.0)
    needs: tuple[str, ...] = ("embeddings",)

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        assert batch.embeddings is not None
        reward = batch.embeddings @ np.array([np.cos(1), np.sin(1)], np.float32)
        return RewardBatch(reward.astype(np.float32), np.ones(len(batch), bool))


def make_scorer(encode_batch: int = 16) -> Scorer:
    return Scorer(DotEncoder(), DotReward(), RewardTransform(normalise="running"), encode_batch)


def make_venv(scorer: Scorer, n_envs: int = 2, **kwargs: Any) -> VecCaptureFrames:
    return VecCaptureFrames([lambda: DotEnv(**kwargs)] * n_envs, scorer=scorer)


@pytest.fixture
def dots() -> Any:
    """Hand the helpers of this file to a test."""

    class Dots:
        Env, Encoder, Reward, length = DotEnv, DotEncoder, DotReward, LENGTH
        scorer, venv = staticmethod(make_scorer), staticmethod(make_venv)

    return Dots
