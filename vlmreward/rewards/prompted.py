"""What rewards on prompts share: encoding the prompts once, scoring unit embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vlmreward.errors import PromptError
from vlmreward.rewards.embeddings import check_embeddings, read_embeddings, unit_dots, why_unscorable
from vlmreward.types import Context, Encoder, FloatArray, FrameBatch, RewardBatch

Prompts = str | Sequence[str]

MIN_DIRECTION = 1e-4
"""Shortest difference between two mean text embeddings that is a direction.

Two wordings of one meaning are 1e-2 apart and more; float32 encoders repeat themselves to about 1e-6,
so anything shorter than this would reward rounding noise.
"""


def check_prompts(prompts: Prompts, name: str) -> tuple[str, ...]:
    """Return prompts as a tuple, each taken literally.

    Args:
        prompts: One prompt or several.
        name: What they are for ("goal", "baseline"), for the error message.

    Raises:
        PromptError: There is none, or one is not text or blank.
    """
    several = (prompts,) if isinstance(prompts, str) else prompts
    if not isinstance(several, Sequence) or len(several) == 0:
        raise PromptError(f"{name} must be a prompt or a list of prompts, got {prompts!r}: say it in words")
    for prompt in several:
        if not isinstance(prompt, str) or not prompt.strip():
            raise PromptError(f"{name} must hold prompts that are text and not blank, got {prompt!r}: say it in words")
    return tuple(several)


def encode_prompts(encoder: Encoder, prompts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Encode prompts in one call and make them unit vectors.

    All prompts of a reward go through here together, so that equal prompts get equal embeddings whatever
    the encoder's arithmetic does with the batch size.

    Args:
        encoder: Encoder of the prompts.
        prompts: M prompts.

    Returns:
        Unit vectors, shape (M, D); float64, because the few vectors made from them are worked out once.

    Raises:
        PromptError: An embedding is not finite or has no length.
    """
    raw = np.asarray(encoder.encode_texts(list(prompts)), dtype=np.float32).astype(np.float64)
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    for prompt, norm in zip(prompts, norms[:, 0], strict=True):
        if not np.isfinite(norm) or norm == 0:
            raise PromptError(
                f"prompt {prompt!r} has no usable embedding (norm {norm}): reword it or check the weights of "
                f"encoder {encoder.id}"
            )
    return raw / norms


class PromptedReward(ABC):
    """A reward that is a function of the dot products of a frame's embedding with a few fixed directions.

    Everything that depends on the prompts is worked out in the constructor; a frame then costs K dot products
    of length D. The prompts given to the constructor decide: ``FrameBatch.instruction`` is not read.

    Embeddings may be float16 (the stored form) or wider and are computed on in float32. Each row is divided by
    its norm, which takes out the drift of stored float16; a row whose norm is off by more than
    ``NORM_TOLERANCE`` was not made by an encoder that keeps its contract, and is invalid.

    Attributes:
        encoder: Encodes frames when a batch comes without embeddings.
        goal: The goal prompts.
        baseline: The baseline prompts, or None.
        context: One row's reward depends on its own frame alone.
        causal: No reward depends on a later frame.
        needs: The batch fields the model reads.
        range: Smallest and largest possible reward, before scaling.
    """

    context: Context = "frame"
    causal: bool = True
    needs: tuple[str, ...] = ("embeddings",)
    range: tuple[float, float]

    def __init__(self, encoder: Encoder, goal: Prompts, baseline: Prompts | None) -> None:
        self.encoder = encoder
        self.goal = check_prompts(goal, "goal")
        self.baseline = None if baseline is None else check_prompts(baseline, "baseline")
        self._directions: FloatArray = np.empty((0, 0), dtype=np.float32)  # (K, D), set by the subclass

    @abstractmethod
    def _reward(self, dots: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the rewards, shape (N,), of dot products with the directions, shape (N, K)."""

    def _parts(self, dots: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
        """Return named terms of the reward, each of shape (N,)."""
        return {}

    def score_embeddings(self, embeddings: npt.NDArray[np.floating]) -> FloatArray:
        """Score embeddings; a pure function of each row.

        Args:
            embeddings: Unit-norm image embeddings, float, shape (N, D).

        Returns:
            Rewards, float32, shape (N,); NaN where a row is not finite or not of unit norm.

        Raises:
            FramesError: The shape is not (N, D) with the encoder's D.
        """
        check_embeddings(embeddings, self._directions.shape[1], self.encoder)
        return self._score(unit_dots(embeddings, self._directions))

    def compute_reward(self, batch: FrameBatch) -> RewardBatch:
        """Score every row of the batch, from its embeddings, or from its frames where there are none.

        Args:
            batch: N rows with ``embeddings`` (N, D) or ``frames`` (N, H, W, 3).

        Returns:
            Rewards of N rows. A row whose embedding is not a finite unit vector is invalid, with a reason.

        Raises:
            FramesError: The batch has neither embeddings nor frames, or they do not fit.
        """
        embeddings = read_embeddings(batch, self._directions.shape[1], self.encoder)
        dots = unit_dots(embeddings, self._directions)
        reward = self._score(dots)
        valid = np.isfinite(dots[:, 0])
        return RewardBatch(
            reward=reward,
            valid=valid,
            parts={name: part.astype(np.float32) for name, part in self._parts(dots).items()},
            reasons={int(row): why_unscorable(embeddings[row]) for row in np.flatnonzero(~valid)},
        )

    def _score(self, dots: npt.NDArray[np.float64]) -> FloatArray:
        with np.errstate(invalid="ignore"):  # NaN marks a row that can't be scored and stays NaN
            return self._reward(dots).astype(np.float32)


def as_directions(*vectors: npt.NDArray[np.float64]) -> FloatArray:
    """Stack vectors of shape (D,) or (M, D) into contiguous float32 directions, shape (K, D)."""
    return np.ascontiguousarray(np.concatenate([np.atleast_2d(v) for v in vectors]), dtype=np.float32)
