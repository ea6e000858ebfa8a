"""Whether a quantised image tower may take the place of the one it was made from.

It may where the embeddings of frames that it was not calibrated on point the same way once their mean is taken off
(the mean is most of an embedding, and the same for all pictures of one scene), and where the rewards of those frames
stand in the same order. Both are asked of the user's own frames and reward: a tower that holds for photographs may fail
for a simulator's pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmreward.errors import ConfigError
from vlmreward.types import BoolArray, FloatArray, Frames

MIN_COSINE = 0.99
MIN_SPEARMAN = 0.995
MIN_CALIBRATION = 16  # frames
MIN_HELD_OUT = 64  # frames, and rewards of them

Score = Callable[[FloatArray], npt.NDArray[np.floating]]
"""From embeddings (N, D) of the held-out frames to each one's reward (N,), NaN where it has none."""


@dataclass(frozen=True)
class Agreement:
    """How a quantised tower agrees with the one it was made from, on held-out frames.

    Attributes:
        frames: How many, all different.
        rewards: How many of them have a reward by either tower.
        centred_cosine: Mean over frames of the cosine between the two embeddings, each less its mean over frames.
        spearman: Rank correlation of the rewards; NaN where they do not differ.
    """

    frames: int
    rewards: int
    centred_cosine: float
    spearman: float

    def __str__(self) -> str:
        """Return the figures in words."""
        return (
            f"centred cosine {self.centred_cosine:.4f} (at least {MIN_COSINE}) and rank correlation of rewards "
            f"{self.spearman:.4f} (at least {MIN_SPEARMAN}) to fp32 on {self.frames} held-out frames, "
            f"{self.rewards} rewards (at least {MIN_HELD_OUT})"
        )

    def check(self, advice: str = "use another precision, or calibrate on frames that show more") -> None:
        """Refuse a tower that does not agree.

        Args:
            advice: What to do then.

        Raises:
            ConfigError: A figure is below its threshold, or is none.
        """
        agrees = self.centred_cosine >= MIN_COSINE and self.spearman >= MIN_SPEARMAN  # NaN does not
        if not agrees or self.rewards < MIN_HELD_OUT:
            raise ConfigError(f"precision int8 is refused, {self}: {advice}")


def split_frames(
    frames: Frames, episode: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], BoolArray]:
    """Divide frames into those to calibrate on and those to judge by.

    Args:
        frames: uint8, shape (N, H, W, 3).
        episode: Number of each frame's episode, shape (N,); a number of its own for a frame of no known episode.

    Returns:
        Row numbers, in order, of every third episode, and of the others; and which of the latter are to be judged, no
        two of them equal and none equal to one of the former. The rest is context: a reward may need whole episodes.

    Raises:
        ConfigError: There are too few of either.
    """
    _, order = np.unique(episode, return_inverse=True)
    calibration = np.flatnonzero(order % 3 == 0)
    held_out = np.flatnonzero(order % 3)
    seen, judged = {frames[row].tobytes() for row in calibration}, np.zeros(len(held_out), bool)
    for number, row in enumerate(held_out):
        judged[number] = (picture := frames[row].tobytes()) not in seen
        seen.add(picture)
    if len(calibration) < MIN_CALIBRATION or judged.sum() < MIN_HELD_OUT:
        raise ConfigError(
            f"precision int8 needs {MIN_CALIBRATION} frames to calibrate on and {MIN_HELD_OUT} different ones of other "
            f"episodes to judge by, got {len(calibration)} and {judged.sum()}: use another "
            "precision, or give longer episodes"
        )
    return calibration, held_out, judged


def judge(reference: FloatArray, embeddings: FloatArray, judged: BoolArray, score: Score) -> Agreement:
    """Compare a quantised tower with the one it was made from.

    Args:
        reference: Embeddings of held-out frames in fp32, shape (N, D).
        embeddings: Those of the quantised tower, same shape.
        judged: Which of them count, shape (N,).
        score: The reward.
    """
    ours, theirs = score(embeddings), score(reference)
    known = np.isfinite(theirs) & judged  # a reward that only the quantised tower fails to give counts against it
    return Agreement(
        int(judged.sum()),
        int(np.isfinite(ours[known]).sum()),
        centred_cosine(reference[judged], embeddings[judged]),
        spearman(theirs[known], ours[known]),
    )


def centred_cosine(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    """Return the mean cosine between rows of two arrays (N, D), each less its mean row; NaN if there is none."""
    a, b = (x.astype(np.float64) - x.mean(axis=0, dtype=np.float64) for x in (a, b))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(np.mean((a * b).sum(axis=1) / lengths))


def spearman(a: npt.NDArray[np.floating], b: npt.NDArray[np.floating]) -> float:
    """Return the rank correlation of two arrays (N,), equal values sharing their mean rank; NaN if there is none."""
    if len(a) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()) or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]
