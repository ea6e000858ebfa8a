"""Rewards that learn: keep the embedding of every row, and label rows anew when there is a new version."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vlmreward.errors import NonFiniteError
from vlmreward.types import BoolArray, FloatArray, FrameBatch, RewardModel

VERSION = "version"
"""Name of the part of a reward that says which version gave it."""

Embeddings = npt.NDArray[np.float16]
ROWS = 8192
"""Rows that are labelled together."""


class LearnedRows(NamedTuple):
    """What rows are labelled anew from.

    Attributes:
        embeddings: Of their frames, float16, shape (..., D); NaN where there is none.
        version: Of the reward that gave their label, int32, shape (...).
    """

    embeddings: Embeddings
    version: npt.NDArray[np.int32]


def does_learn(model: RewardModel) -> bool:
    """Return whether there will be new versions of a reward while an agent is trained."""
    return bool(getattr(model, "learns", False))


class Relabelling:
    """The embeddings and versions of a replay buffer's rows.

    Args:
        model: A reward that learns: it has a ``version``, and scores a frame by its embedding alone.
        size: Rows of the buffer.
        n_envs: Number of environments.
        dim: Length of an embedding, D.

    Attributes:
        embeddings: float16, shape (size, n_envs, D).
        versions: int32, shape (size, n_envs).
    """

    def __init__(self, model: Any, size: int, n_envs: int, dim: int) -> None:
        self._model = model
        self.embeddings: Embeddings = np.zeros((size, n_envs, dim), np.float16)
        self.versions: npt.NDArray[np.int32] = np.zeros((size, n_envs), np.int32)
        self._oldest = 0  # no row that is valid has an older version

    def store(self, row: int, learned: LearnedRows, number: int, fresh: BoolArray) -> None:
        """Take in what was scored.

        Args:
            row: Of the buffer.
            learned: Of several vec steps, shape (n, n_envs).
            number: Which of those.
            fresh: Which environments, shape (n_envs,).
        """
        self.embeddings[row, fresh] = learned.embeddings[number, fresh]
        self.versions[row, fresh] = learned.version[number, fresh]
        if fresh.any():
            self._oldest = min(self._oldest, int(learned.version[number, fresh].min()))

    def restored(self) -> None:
        """Rows were put in from a file: any of them may have an old version."""
        self._oldest = 0

    def is_stale(self) -> bool:
        """Whether there may be rows that an older version has labelled."""
        return self._oldest < self._model.version

    def relabel(self, rewards: FloatArray, valid: BoolArray) -> int:
        """Label the rows anew that an older version has labelled, and return how many there were.

        Args:
            rewards: float32, shape (size, n_envs); changed in place.
            valid: Which rows have a reward, same shape.

        Raises:
            NonFiniteError: The new version gives a row no reward.
        """
        version = self._model.version
        stale = np.argwhere(valid & (self.versions < version))
        for start in range(0, len(stale), ROWS):
            at = tuple(stale[start : start + ROWS].T)
            count = len(at[0])
            batch = FrameBatch(np.zeros(count, np.int64), np.zeros(count, np.int64), embeddings=self.embeddings[at])
            scored = self._model.compute_reward(batch)
            if not (scored.valid.all() and np.isfinite(scored.reward).all()):
                raise NonFiniteError(
                    f"version {version} of the reward gives rows no reward that had one: look at its head"
                )
            rewards[at] = scored.reward
        self.versions[valid] = np.maximum(self.versions[valid], version)
        self._oldest = version
        return len(stale)
