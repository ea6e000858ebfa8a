"""From embeddings to labels: rewards of every frame for the goal or for each episode's own task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmreward.data.dataset import Episode
from vlmreward.errors import ConfigError
from vlmreward.labelling.plan import Span
from vlmreward.labelling.work_folder import LabelRecord
from vlmreward.types import FloatArray, FrameBatch, Frames, RewardBatch, RewardModel

MakeModel = Callable[[str], RewardModel]
"""Builds the reward model for a goal in words."""

READS = ("embeddings", "frames", "initial", "previous")


@dataclass(frozen=True)
class Piece:
    """What a reward model may see of the episode that a span is part of.

    Attributes:
        span: The frames whose labels are wanted.
        begin: Number of the first frame that is seen, at most ``span.start``.
        embeddings: From there on, float32, shape (M, D), to ``span.stop`` or beyond; NaN where there is none.
        initial: Embedding of the episode's first frame, shape (D,), or NaN.
        frames: Pictures from ``begin`` on, uint8, shape (M, H, W, 3), for a model that looks at them; anything where
            there is no embedding.
    """

    span: Span
    begin: int
    embeddings: FloatArray
    initial: FloatArray
    frames: Frames | None = None


class LabelScorer:
    """Scores the frames of a dataset, a shard at a time.

    Args:
        make_model: Called once for each different goal.
        goals: Of each episode, in the dataset's order.

    Attributes:
        model: That of the first goal.

    Raises:
        ConfigError: The model looks at more than an episode's frames.
    """

    def __init__(self, make_model: MakeModel, goals: Sequence[str]) -> None:
        self._make, self._goals = make_model, goals
        self._models: dict[str, RewardModel] = {}
        self.model = self._model(goals[0])
        more = sorted(set(self.model.needs) - set(READS))
        if more:
            raise ConfigError(
                f"this reward looks at {', '.join(more)}, which recorded episodes have not: choose another reward"
            )
        if getattr(self.model, "learns", False):
            raise ConfigError(
                "this reward learns beside training and has no head yet: give reward.path=<head.safetensors of a run>"
            )

    @property
    def looks(self) -> bool:
        """Whether the model looks at pictures."""
        return "frames" in self.model.needs

    def sees(self, span: Span, frames: int) -> tuple[int, int]:
        """Return which frames of an episode the model must see to score some of them: from, to.

        Args:
            span: Those to be scored.
            frames: How many the episode has.
        """
        if self.model.context == "episode":
            return 0, frames
        if self.model.context == "prefix":
            return 0, span.stop
        return max(span.start - 1, 0) if "previous" in self.model.needs else span.start, span.stop

    def score(self, pieces: Sequence[Piece], reasons: Mapping[int, str]) -> LabelRecord:
        """Score the spans of a shard.

        Args:
            pieces: One for each of its spans, in order.
            reasons: Why rows of the shard have no embedding.
        """
        count = sum(piece.span.stop - piece.span.start for piece in pieces)
        reward, success, progress = (np.full(count, np.nan, np.float32) for _ in range(3))
        valid, why = np.zeros(count, bool), dict(reasons)
        row = 0
        for piece in pieces:
            rows = slice(row, row + piece.span.stop - piece.span.start)
            seen, scored = self._score_piece(piece)
            fine = np.zeros(rows.stop - rows.start, bool)
            fine[seen] = scored.valid & np.isfinite(scored.reward)
            for out, values in (
                (reward, scored.reward),
                (success, scored.success),
                (progress, scored.parts.get("progress")),
            ):
                if values is not None:
                    out[rows][seen] = np.where(fine[seen], values, np.nan)
            valid[rows] = fine
            told = dict(zip(seen.tolist(), range(len(seen)), strict=True))
            for bad in np.flatnonzero(~fine).tolist():
                why.setdefault(row + bad, scored.reasons.get(told.get(bad, -1), "the reward is not finite"))
            row = rows.stop
        return LabelRecord(reward, valid, success, progress, why)

    def _score_piece(self, piece: Piece) -> tuple[npt.NDArray[np.int64], RewardBatch]:
        """Return which frames of a span were given to the model, counted from the span's start, and what it says."""
        span, own = piece.span, piece.embeddings
        steps = np.arange(piece.begin, piece.begin + len(own), dtype=np.int64)
        before = np.concatenate([own[:1], own[:-1]])
        known = np.isfinite(own).all(axis=1)
        if self.model.context in ("prefix", "episode"):
            keep = known  # a lost frame is left out, as it is while an agent acts
        else:
            keep = (steps >= span.start) & (
                known | (not self.looks)
            )  # nobody is asked about a picture that is not there
        model = self._model(self._goals[span.episode])
        steps, own = steps[keep], own[keep]
        batch = FrameBatch(
            episode=np.full(len(own), span.episode, np.int64),
            step=steps,
            instruction=self._goals[span.episode],
            frames=None if piece.frames is None else piece.frames[keep],
            embeddings=own,
            initial=np.broadcast_to(piece.initial, own.shape) if "initial" in model.needs else None,
            previous=before[keep] if "previous" in model.needs else None,
        )
        if not len(own):
            return steps, RewardBatch(np.empty(0, np.float32), np.empty(0, bool))
        wanted = np.flatnonzero((steps >= span.start) & (steps < span.stop))
        scored = model.compute_reward(batch)
        place = {int(row): number for number, row in enumerate(wanted)}
        return steps[wanted] - span.start, RewardBatch(
            scored.reward[wanted],
            scored.valid[wanted],
            None if scored.success is None else scored.success[wanted],
            {name: part[wanted] for name, part in scored.parts.items()},
            {place[row]: reason for row, reason in scored.reasons.items() if row in place},
        )

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
