"""The rewards of the newest vec steps, and the sums of finished episodes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmreward.types import BoolArray, FloatArray
from vlmreward.wrappers.relabelling import LearnedRows
from vlmreward.wrappers.scoring import ScoredRows

UNSCORED, VALID, INVALID = 0, 1, 2
"""What is known of a row's reward."""

MAX_EPISODES = 10_000
"""Finished episodes that are kept when nobody asks for them."""


@dataclass(frozen=True)
class EpisodeScore:
    """A finished episode.

    Attributes:
        env: Number of the environment.
        ticket: Ticket of its last step.
        length: Number of transitions.
        vlm_return: Sum of the raw rewards over valid rows.
        env_return: Sum of the environment's own rewards.
        invalid: Number of rows that could not be scored; they are missing in ``vlm_return``.
        terminated: False if a time limit ended it.
    """

    env: int
    ticket: int
    length: int
    vlm_return: float
    env_return: float
    invalid: int
    terminated: bool


@dataclass
class _Sums:
    """What an EpisodeScore will hold of an episode that is not over."""

    episode: int
    length: int = 0
    vlm_return: float = 0.0
    env_return: float = 0.0
    invalid: int = 0


class ScoreTable:
    """A ring of rewards by ticket. Not locked: the scorer's condition guards it.

    Args:
        n_envs: Number of environments.
        capacity: Number of newest tickets that are kept.
        last: Newest ticket given before this table was made.
        n_parts: Number of parts kept beside each reward.
        dim: Length of the embeddings kept beside the rewards of a model that learns; 0 for none.
    """

    def __init__(self, n_envs: int, capacity: int, last: int, n_parts: int = 0, dim: int = 0) -> None:
        self._n_envs, self._n_parts, self._start, self._last = n_envs, n_parts, last + 1, last
        self._dim = dim
        self._allocate(capacity)
        self._sums: dict[int, _Sums] = {}  # by environment
        self._episodes: deque[EpisodeScore] = deque(maxlen=MAX_EPISODES)

    @property
    def oldest(self) -> int:
        """Oldest ticket that is kept."""
        return max(self._start, self._last - self._capacity + 1)

    def open(self, steps: np.ndarray) -> None:
        """Make room for a new ticket; ``steps`` is ``ROW_DTYPE``, one row per environment."""
        self._last = int(steps["ticket"][0])
        at = self._last % self._capacity
        self.raw[at], self.parts[at], self.status[at] = 0, 0, UNSCORED
        self.env_reward[at], self.step[at] = steps["env_reward"], steps["step"]

    def store(self, scored: ScoredRows) -> None:
        """Take in rewards; rows whose ticket was given up count for their episode only."""
        rows = scored.rows
        kept = rows["ticket"] >= self.oldest
        at = rows["ticket"][kept] % self._capacity, rows["env"][kept]
        self.raw[at], self.parts[at] = scored.raw[kept], scored.parts[kept]
        self.status[at] = np.where(scored.valid[kept], VALID, INVALID)
        if scored.learned is not None:
            self.embeddings[at] = scored.learned.embeddings[kept]
            self.version[at] = scored.learned.version[kept]
        for row, raw, valid in zip(rows, scored.raw.tolist(), scored.valid.tolist(), strict=True):
            self._count(row, raw, valid)

    def _count(self, row: np.void, raw: float, valid: bool) -> None:
        """Add a row to its episode. Rows come by ticket, except that an invalid one may come early, never late."""
        env, episode = int(row["env"]), int(row["episode"])
        sums = self._sums.get(env)
        if sums is None or sums.episode != episode:
            sums = self._sums[env] = _Sums(episode)
        sums.length += 1
        sums.vlm_return += raw if valid else 0.0
        sums.env_return += float(row["env_reward"])
        sums.invalid += not valid
        if row["terminated"] or row["truncated"]:
            ticket, terminated = int(row["ticket"]), bool(row["terminated"])
            score = EpisodeScore(env, ticket, sums.length, sums.vlm_return, sums.env_return, sums.invalid, terminated)
            self._episodes.append(score)
            del self._sums[env]

    def read(
        self, first: int, last: int
    ) -> tuple[FloatArray, BoolArray, FloatArray, BoolArray, npt.NDArray[np.int64], FloatArray]:
        """Return copies of raw, valid, env_reward, scored and step of these tickets, (n, n_envs) each, and of parts."""
        at = np.arange(first, last + 1) % self._capacity
        status = self.status[at]
        scored = status != UNSCORED
        return self.raw[at], status == VALID, self.env_reward[at], scored, self.step[at], self.parts[at]

    def read_learned(self, first: int, last: int) -> LearnedRows | None:
        """Return copies of what rows are labelled anew from; None for a model that does not learn."""
        at = np.arange(first, last + 1) % self._capacity
        return LearnedRows(self.embeddings[at], self.version[at]) if self._dim else None

    def grow(self, capacity: int) -> None:
        """Keep at least this many tickets."""
        if capacity <= self._capacity:
            return
        tickets = np.arange(self.oldest, self._last + 1)
        raw, valid, env_reward, scored, step, parts = self.read(self.oldest, self._last)
        learned = self.read_learned(self.oldest, self._last)
        self._allocate(capacity)
        at = tickets % capacity
        self.raw[at], self.env_reward[at], self.step[at], self.parts[at] = raw, env_reward, step, parts
        self.status[at] = np.where(scored, np.where(valid, VALID, INVALID), UNSCORED)
        if learned is not None:
            self.embeddings[at], self.version[at] = learned

    def pop_episodes(self, ticket: int) -> list[EpisodeScore]:
        """Return and forget the episodes that ended at this ticket or before, by the order in which they ended."""
        ended = [episode for episode in self._episodes if episode.ticket <= ticket]
        self._episodes = deque((e for e in self._episodes if e.ticket > ticket), maxlen=MAX_EPISODES)
        return sorted(ended, key=lambda episode: (episode.ticket, episode.env))

    def _allocate(self, capacity: int) -> None:
        shape = (capacity, self._n_envs)
        self._capacity = capacity
        self.raw: FloatArray = np.zeros(shape, np.float32)
        self.parts: FloatArray = np.zeros((*shape, self._n_parts), np.float32)
        self.status: npt.NDArray[np.uint8] = np.zeros(shape, np.uint8)
        self.env_reward: FloatArray = np.zeros(shape, np.float32)
        self.step: npt.NDArray[np.int64] = np.zeros(shape, np.int64)
        self.embeddings: npt.NDArray[np.float16] = np.zeros((*shape, self._dim), np.float16)
        self.version: npt.NDArray[np.int32] = np.zeros(shape, np.int32)
