"""From embeddings to labels: rewards of every frame for the goal or for each episode's own task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from vlmreward.data.dataset import Episode
from vlmreward.errors import ConfigError
from vlmreward.labelling.plan import Shard
from vlmreward.labelling.work_folder import LabelRecord
from vlmreward.types import FloatArray, FrameBatch, RewardModel

MakeModel = Callable[[str], RewardModel]
"""Builds the reward model for a goal in words."""

READS = ("embeddings", "initial", "previous")
CONTEXTS = ("frame", "pair")


class LabelScorer:
    """Scores the frames of a dataset, a shard at a time.

    Args:
        make_model: Called once for each different goal.
        goals: Of each episode, in the dataset's order.

    Attributes:
        model: That of the first goal.

    Raises:
        ConfigError: The model looks at more than single frames, pairs and each episode's first frame.
    """

    def __init__(self, make_model: MakeModel, goals: Sequence[str]) -> None:
        self._make, self._goals = make_model, goals
        self._models: dict[str, RewardModel] = {}
        self.model = self._model(goals[0])
        more = sorted(set(self.model.needs) - set(READS))
        if self.model.context not in CONTEXTS or more:
            what = f"whole episodes ({self.model.context})" if self.model.context not in CONTEXTS else ", ".join(more)
            raise ConfigError(
                f"this reward looks at {what}, and labels are made a shard at a time: choose another reward"
            )

    def score(
        self,
        shard: Shard,
        embeddings: FloatArray,
        initial: Mapping[int, FloatArray],
        previous: FloatArray | None,
        reasons: Mapping[int, str],
    ) -> LabelRecord:
        """Score a shard.

        Args:
            shard: Which frames.
            embeddings: float32, shape (N, D); NaN where there is none.
            initial: First embedding of the episodes that began in an earlier shard, each of shape (D,).
            previous: Embedding of the frame before the first one, shape (D,), if that is of the same episode.
            reasons: Why rows have no embedding.
        """
        count = len(shard)
        reward, success, progress = (np.full(count, np.nan, np.float32) for _ in range(3))
        valid, why = np.zeros(count, bool), dict(reasons)
        row = 0
        for number, span in enumerate(shard.spans):
            rows = slice(row, row + span.stop - span.start)
            own = embeddings[rows]
            first = own[0] if span.start == 0 else initial.get(span.episode, np.full_like(own[0], np.nan))
            before = own[0] if span.start == 0 else previous if number == 0 and previous is not None else own[0]
            model = self._model(self._goals[span.episode])
            batch = FrameBatch(
                episode=np.full(len(own), span.episode, np.int64),
                step=np.arange(span.start, span.stop, dtype=np.int64),
                instruction=self._goals[span.episode],
                embeddings=own,
                initial=np.broadcast_to(first, own.shape) if "initial" in model.needs else None,
                previous=np.concatenate([before[None], own[:-1]]) if "previous" in model.needs else None,
            )
            scored = model.compute_reward(batch)
            fine = scored.valid & np.isfinite(scored.reward)
            reward[rows] = np.where(fine, scored.reward, np.nan)
            valid[rows] = fine
            if scored.success is not None:
                success[rows] = np.where(fine, scored.success, np.nan)
            if "progress" in scored.parts:
                progress[rows] = np.where(fine, scored.parts["progress"], np.nan)
            for bad in np.flatnonzero(~fine).tolist():
                why.setdefault(row + bad, scored.reasons.get(bad, "the reward is not finite"))
            row += len(own)
        return LabelRecord(reward, valid, success, progress, why)

    def _model(self, goal: str) -> RewardModel:
        if goal not in self._models:
            self._models[goal] = self._make(goal)
        return self._models[goal]


def goals_of(episodes: Sequence[Episode], goal: str | None) -> list[str]:
    """Return what each episode is judged by: the goal, or its own task.

    Args:
        episodes: Of the dataset.
        goal: In words; None for each episode's recorded task.

    Raises:
        ConfigError: There is no goal, and an episode has no task.
    """
    if goal is not None:
        return [goal] * len(episodes)
    empty = [episode for episode in episodes if not episode.instruction.strip()]
    if empty:
        raise ConfigError(
            f"{len(empty)} of {len(episodes)} episodes have no recorded task (the first is {empty[0].name!r}): "
            'say what they were to do in goal="..."'
        )
    return [episode.instruction for episode in episodes]
