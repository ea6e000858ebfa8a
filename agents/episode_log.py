"""The newest finished episodes: VLM return, environment return, true success, length.

The VLM return of an episode is known when its frames are scored, some time after it ended; its true success is known
at once. The two are joined by environment and ticket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmreward.wrappers.scorer import Scorer

SUCCESS_KEY = "success"
"""Key in ``info`` of the environment's statement about its true state: True, False or None."""


@dataclass(frozen=True)
class FinishedEpisode:
    """One episode of training.

    Attributes:
        length: Number of steps.
        vlm_return: Sum of the model's raw rewards; None if a frame could not be scored.
        env_return: Sum of the environment's own rewards.
        success: What the environment stated at the last step; None where it states nothing.
    """

    length: int
    vlm_return: float | None
    env_return: float
    success: bool | None


class EpisodeLog:
    """Joins scores with true success, and averages over the newest episodes.

    Args:
        window: Number of newest episodes to average over.
    """

    def __init__(self, window: int = 100) -> None:
        self.episodes: deque[FinishedEpisode] = deque(maxlen=window)
        self.total = 0
        self._success: dict[tuple[int, int], bool | None] = {}

    def note_step(self, ticket: int, dones: npt.ArrayLike, infos: Sequence[Mapping[str, Any]]) -> None:
        """Remember the true success of the episodes that this vec step ended."""
        for env in np.flatnonzero(dones).tolist():
            success = infos[env].get(SUCCESS_KEY)
            self._success[ticket, env] = None if success is None else bool(success)

    def collect(self, scorer: Scorer) -> None:
        """Take in the episodes that are scored by now."""
        for score in scorer.pop_episodes():
            success = self._success.pop((score.ticket, score.env), None)
            vlm_return = score.vlm_return if score.invalid == 0 else None
            self.episodes.append(FinishedEpisode(score.length, vlm_return, score.env_return, success))
            self.total += 1

    def means(self) -> dict[str, float | None]:
        """Return averages under their log names; None where there is nothing to average."""
        return {
            "rollout/vlm_return": _mean([e.vlm_return for e in self.episodes]),
            "rollout/env_return": _mean([e.env_return for e in self.episodes]),
            "rollout/success_rate": _mean([e.success for e in self.episodes]),
            "rollout/episode_length": _mean([e.length for e in self.episodes]),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the window as plain numbers; running episodes are not part of it."""
        return {"total": self.total, "episodes": [asdict(episode) for episode in self.episodes]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""
        self.total = int(state["total"])
        self.episodes.extend(FinishedEpisode(**episode) for episode in state["episodes"])


def _mean(values: Sequence[float | bool | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return float(np.mean(known)) if known else None
