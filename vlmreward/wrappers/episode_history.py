"""Keep the embeddings of running episodes, for reward models that judge more than one frame.

A model with context ``"prefix"`` or ``"episode"`` gets each episode from its start, in order. Embeddings are kept as
float16 and only until the episode ends; every row a model sees has gone through that rounding, so that a reward does
not depend on where a batch ended.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmreward.types import BoolArray, FloatArray


@dataclass(frozen=True)
class Segment:
    """The rows of one episode so far.

    Attributes:
        rows: ``scoring.ROW_DTYPE``, shape (K,), in time order; frames that can't be scored are left out.
        embeddings: float32, shape (K, D).
        fresh: True for the rows whose reward is wanted, shape (K,).
    """

    rows: np.ndarray
    embeddings: FloatArray
    fresh: BoolArray


class _Running:
    """The episode that an environment is in."""

    def __init__(self) -> None:
        self.rows: list[np.void] = []
        self.embeddings: list[npt.NDArray[np.float16]] = []
        self.scored = 0  # rows before this one were handed out already

    def add(self, row: np.void, embedding: FloatArray) -> None:
        self.rows.append(row)
        self.embeddings.append(embedding.astype(np.float16))

    def segment(self) -> Segment | None:
        """Return what is to be scored now, or None when no transition is new."""
        if not self.rows:
            return None
        rows: np.ndarray = np.array(self.rows, dtype=self.rows[0].dtype)
        fresh = (np.arange(len(rows)) >= self.scored) & ~rows["reset"]
        self.scored = len(rows)
        return Segment(rows, np.array(self.embeddings).astype(np.float32), fresh) if fresh.any() else None


class EpisodeHistory:
    """The running episodes of ``n_envs`` environments.

    Args:
        n_envs: Number of environments.
        whole_episodes: True to hand out an episode when it has ended, False to hand out what there is of it.
    """

    def __init__(self, n_envs: int, whole_episodes: bool) -> None:
        self._running = [_Running() for _ in range(n_envs)]
        self._whole = whole_episodes

    def advance(
        self, rows: np.ndarray, embeddings: FloatArray, reasons: dict[int, str]
    ) -> tuple[list[Segment], list[tuple[np.void, str]]]:
        """Take in a job.

        Args:
            rows: ``scoring.ROW_DTYPE``, shape (M,), in the order in which they happened.
            embeddings: float32, shape (M, D).
            reasons: Row number to reason, of the rows whose frame can't be scored.

        Returns:
            The segments to score now, and transitions that never will be, each with its reason.
        """
        ready: list[Segment | None] = []
        lost: list[tuple[np.void, str]] = []
        touched: dict[int, None] = {}
        for number, row in enumerate(rows):
            env = int(row["env"])
            touched[env] = None
            if row["reset"]:
                self._end(env, ready, lost)
            if number not in reasons:
                self._running[env].add(row.copy(), embeddings[number])
            elif not row["reset"]:
                lost.append((row.copy(), reasons[number]))
            if row["terminated"] or row["truncated"]:
                ready.append(self._running[env].segment())
                self._running[env] = _Running()
        if not self._whole:
            ready += [self._running[env].segment() for env in touched]
        return [segment for segment in ready if segment is not None], lost

    def _end(self, env: int, ready: list[Segment | None], lost: list[tuple[np.void, str]]) -> None:
        """Start a new episode; one that is still running was cut off by a reset from outside."""
        running = self._running[env]
        if self._whole:
            lost += [(row, "episode cut off by a reset") for row in running.rows if not row["reset"]]
        else:
            ready.append(running.segment())
        self._running[env] = _Running()
