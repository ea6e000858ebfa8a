"""What time and recorded outcomes say of the frames of an episode: the labels that a progress critic learns from.

A demonstration is as far along as the share of its way in time that lies behind it (VLAC, arXiv 2509.15937). Most
recordings go on after the task is done, though, and there time says nothing: where the way ends is found in the
embeddings. A failure has no such way: its frames are held to be worth a share of what demonstrations were when they
looked as much like the instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.isotonic import IsotonicRegression

from vlmreward.rewards.stages import arrival
from vlmreward.types import FloatArray

DONE_FROM, NOT_DONE_UNTIL = 0.95, 0.8


@dataclass(frozen=True)
class CriticEpisode:
    """One recorded episode.

    Attributes:
        embeddings: Of its frames that could be encoded, in order, float32, shape (F, D), F > 1.
        instruction: What was to be done.
        success: Its recorded outcome; None where there is none, and it counts as a demonstration.
    """

    embeddings: FloatArray
    instruction: str
    success: bool | None = None

    @property
    def shows_how(self) -> bool:
        """Whether its end is the task done."""
        return self.success is not False

    @cached_property
    def progress(self) -> FloatArray:
        """What time says of each frame's progress if the task is done at the end, in [0, 1], shape (F,)."""
        return np.minimum(np.arange(len(self.embeddings)) / (len(self.way) - 1), 1.0).astype(np.float32)

    @cached_property
    def way(self) -> FloatArray:
        """Frames up to its arrival, shape (F', D), 1 < F' <= F."""
        return self.embeddings[: arrival(self.embeddings) + 1]

    @cached_property
    def done(self) -> FloatArray:
        """What time and outcome say of "done" in each frame: 0, 1, or NaN where they say nothing; shape (F,)."""
        if not self.shows_how:
            return np.zeros(len(self.embeddings), np.float32)
        p = self.progress
        return np.select([p > DONE_FROM, p < NOT_DONE_UNTIL], [1.0, 0.0], np.nan).astype(np.float32)


def progress_of_failures(
    failures: Sequence[CriticEpisode], shown: Sequence[CriticEpisode], text: FloatArray, worth: float
) -> list[FloatArray]:
    """Return what the frames of failures are held to be worth.

    Isotonic regression finds how far along the demonstrations of a task were, by time, when they looked as much like
    the instruction; a failure's frame gets ``worth`` of that.

    Args:
        failures: Episodes of one instruction.
        shown: Demonstrations of the same.
        text: Embedding of the instruction, unit norm, shape (D,).
        worth: In [0, 1].

    Returns:
        Progress in [0, ``worth``] of each episode's frames, float32, shape (F,); NaN without demonstrations.
    """
    if not shown:
        return [np.full(len(e.embeddings), np.nan, np.float32) for e in failures]
    alike = np.concatenate([e.embeddings @ text for e in shown])
    curve = IsotonicRegression(out_of_bounds="clip").fit(alike, np.concatenate([e.progress for e in shown]))
    return [(worth * curve.predict(e.embeddings @ text)).astype(np.float32) for e in failures]
