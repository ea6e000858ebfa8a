"""A judge that knows the true state, for tests and studies: with a known share of errors, and as slow as it is told."""

from __future__ import annotations

import time

import numpy as np

from vlmreward.encoders.frame_hash import hash_frames
from vlmreward.errors import ConfigError
from vlmreward.rewards.annotators.answers import Answer, Rating
from vlmreward.rewards.settings import check_number
from vlmreward.types import FloatArray, FrameBatch, Keys


class ScriptedAnnotator:
    """Reads the environment's own reward of frames, and errs on a share of them.

    Whether it errs depends on what the pictures show and on the seed alone: asked again, or in the other order, it says
    the same. So its errors survive ``BothOrders``, as those of a judge that misreads a scene do.

    Args:
        errors: Share of questions that are answered wrongly: the other frame, or another level.
        favours_first: Share of pairs where it says ``first`` whatever is there, in either order.
        margin: Difference of rewards up to which a pair is ``unsure``.
        low: Reward that is rated 0.
        high: Reward that is rated 1.
        levels: Number of ratings that it knows, evenly spaced from 0 to 1.
        seconds: How long a call of either method sleeps.
        seed: Of the errors.

    Raises:
        ConfigError: A setting is out of range.
    """

    calls_per_pair = calls_per_frame = 1
    privileged = True

    def __init__(
        self,
        errors: float = 0.0,
        favours_first: float = 0.0,
        margin: float = 0.0,
        low: float = 0.0,
        high: float = 1.0,
        levels: int = 5,
        seconds: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.errors = check_number("errors", errors, 0, 1)
        self.favours_first = check_number("favours_first", favours_first, 0, 1)
        self.margin = check_number("margin", margin, 0)
        self.low, self.high = check_number("low", low), check_number("high", high, low, above=True)
        self.seconds = check_number("seconds", seconds, 0)
        if type(levels) is not int or levels < 2:
            raise ConfigError(f"levels must be a whole number >= 2, got {levels!r}")
        self.levels, self.seed = levels, seed
        self.calls = 0

    def compare(self, first: FrameBatch, second: FrameBatch) -> list[Answer]:
        """Return an answer for each pair."""
        self._work(len(first))
        gain = _truth(second) - _truth(first)
        assert first.frames is not None
        assert second.frames is not None
        one, two = hash_frames(first.frames), hash_frames(second.frames)
        # a pair has one pair of draws, whichever way round it is
        wrong, blind = self._draws(one ^ two)[:2]
        answers = []
        for row, value in enumerate(gain.tolist()):
            if blind[row] < self.favours_first:
                answers.append(Answer("first", "favours the first"))
            elif abs(value) <= self.margin:
                answers.append(Answer("unsure", f"the rewards differ by {abs(value):.3g}"))
            else:
                right = Answer("second" if value > 0 else "first")
                answers.append(right.swapped() if wrong[row] < self.errors else right)
        return answers

    def rate(self, batch: FrameBatch) -> list[Rating]:
        """Return the nearest level for each frame."""
        self._work(len(batch))
        assert batch.frames is not None
        steps = self.levels - 1
        share = np.clip((_truth(batch) - self.low) / (self.high - self.low), 0, 1)
        right = np.rint(share * steps).astype(int)
        wrong, other = self._draws(hash_frames(batch.frames))[:2]
        shifted = (right + 1 + np.floor(other * steps).astype(int)) % self.levels
        return [Rating(float(level) / steps) for level in np.where(wrong < self.errors, shifted, right)]

    def _work(self, questions: int) -> None:
        self.calls += questions
        time.sleep(self.seconds)

    def _draws(self, keys: Keys) -> FloatArray:
        """Return numbers in [0, 1) that depend on the keys and the seed alone, shape (2, N)."""
        streams = [np.random.default_rng([self.seed, *map(int, key)]).random(2) for key in keys]
        return np.array(streams, np.float32).reshape(len(keys), 2).T


def _truth(batch: FrameBatch) -> FloatArray:
    if batch.env_reward is None or not np.isfinite(batch.env_reward).all():
        raise ConfigError("the scripted annotator reads the environment's own reward, and these frames have none")
    return batch.env_reward
