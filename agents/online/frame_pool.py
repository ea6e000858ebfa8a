"""The newest frames of an agent, from which questions are drawn."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from vlmreward.types import FloatArray, FrameBatch, Frames
from vlmreward.wrappers.scoring import ScoredRows


class FramePool:
    """A ring of frames with their embeddings; an ``Observer`` of a scorer, so that it fills while it is scored.

    Args:
        size: Number of newest frames that are kept.
        keep_every: One of so many valid frames is.
        instruction: What the agent is to do.
    """

    def __init__(self, size: int, keep_every: int, instruction: str) -> None:
        self.size, self.keep_every, self.instruction = size, keep_every, instruction
        self._lock = threading.Lock()
        self._seen = self._kept = 0
        self._frames: Frames = np.empty((0, 0, 0, 3), np.uint8)
        self._embeddings: npt.NDArray[np.float16] = np.empty((0, 0), np.float16)
        self._env_reward = np.zeros(size, np.float32)

    def __len__(self) -> int:
        """Return how many frames there are."""
        return min(self._kept, self.size)

    def observe(self, scored: ScoredRows, pictures: Frames, index: npt.NDArray[np.int64]) -> None:
        """Take in every ``keep_every``-th frame that could be scored; see ``vlmreward.wrappers.scorer.Observer``."""
        assert scored.learned is not None
        valid = np.flatnonzero(scored.valid & (index >= 0))
        chosen = valid[(self._seen + np.arange(len(valid))) % self.keep_every == 0][-self.size :]
        self._seen += len(valid)
        if len(chosen):
            env_reward = scored.rows["env_reward"][chosen]
            self.add(pictures[index[chosen]], scored.learned.embeddings[chosen], env_reward)

    def add(self, frames: Frames, embeddings: npt.NDArray[np.floating], env_reward: FloatArray) -> None:
        """Take in frames.

        Args:
            frames: uint8, shape (N, H, W, 3), 0 < N <= size.
            embeddings: Of them, shape (N, D).
            env_reward: The environment's own reward of the steps that led to them, shape (N,).
        """
        with self._lock:
            if not len(self._frames):
                self._frames = np.empty((self.size, *frames.shape[1:]), np.uint8)
                self._embeddings = np.empty((self.size, embeddings.shape[-1]), np.float16)
            at = (self._kept + np.arange(len(frames))) % self.size
            self._frames[at], self._embeddings[at], self._env_reward[at] = frames, embeddings, env_reward
            self._kept += len(frames)

    def take(self, rows: npt.NDArray[np.int64]) -> FrameBatch:
        """Return copies of some frames.

        Args:
            rows: Which of them, each below ``len(self)``, shape (N,).
        """
        with self._lock:
            count = np.arange(len(rows), dtype=np.int64)
            return FrameBatch(
                np.zeros_like(count),
                count,
                self.instruction,
                frames=self._frames[rows],
                embeddings=self._embeddings[rows],
                env_reward=self._env_reward[rows],
            )
