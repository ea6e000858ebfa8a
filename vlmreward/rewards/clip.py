"""Similarity of a frame to a goal in words, with goal-baseline regularisation (VLM-RM, arXiv 2310.12921).

Original code: github.com/AlignmentResearch/vlmrm. What differs: the projection is worked out as two dot
products instead of a D x D matrix; the two lists of prompts may have different lengths; tokeniser and pixel
normalisation are the encoder's own; input that leaves no direction is refused instead of giving NaN.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vlmreward.errors import PromptError
from vlmreward.rewards.prompted import MIN_DIRECTION, PromptedReward, Prompts, as_directions, encode_prompts
from vlmreward.rewards.settings import check_number
from vlmreward.types import Encoder


class ClipReward(PromptedReward):
    """Reward frames for showing the goal, less what the baseline explains.

    With unit text embeddings, ``g`` the mean over the goal prompts, ``b`` the mean over the baseline prompts
    (neither mean is made a unit vector again), direction ``d = g - b`` and unit image embedding ``x``:
    project ``x - g`` partly onto the line through ``b`` and ``g``, and take ``r = 1 - |.|^2 / 2`` of what is left,

        r = 1 - 1/2 |alpha P (x - g) + (1 - alpha) (x - g)|^2,    P = d d^T / |d|^2
          = 1 - 1/2 [(1 - k) u^2 + k |x - g|^2],    k = (1 - alpha)^2,  u = (x - g) . d / |d|

    At ``alpha = 0`` and one goal prompt this is the cosine (several prompts add the constant
    ``(1 - |g|^2) / 2``). At ``alpha = 1`` only the place along the line counts, ``1 - u^2 / 2``, and going past
    the goal costs as much as falling short.

    Args:
        encoder: Frozen encoder of frames and prompts.
        goal: What the agent should bring about: one prompt or several.
        baseline: What is seen whatever the agent does, e.g. "a humanoid robot"; one prompt or several. Not used
            at ``alpha = 0``, and may be None there.
        alpha: Share of the projection, in [0, 1].

    Raises:
        ConfigError: alpha is outside [0, 1].
        PromptError: A prompt is blank, the baseline is missing, or goal and baseline mean the same to the encoder.
    """

    def __init__(self, encoder: Encoder, goal: Prompts, baseline: Prompts | None = None, alpha: float = 0.0) -> None:
        super().__init__(encoder, goal, baseline)
        self.alpha = check_number("alpha", alpha, 0, 1)
        if self.alpha == 0:
            g = encode_prompts(encoder, self.goal).mean(axis=0)
            self._directions = as_directions(g)
            along = 0.0
        else:
            g, unit = self._goal_and_direction(encoder)
            self._directions = as_directions(g, unit)
            along = float(g @ unit)
        self._keep = (1 - self.alpha) ** 2  # k above: weight of the whole distance to the goal
        self._goal_along = along
        self._goal_norm2 = float(g @ g)
        self.range = self._bounds()

    def _goal_and_direction(self, encoder: Encoder) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        if self.baseline is None:
            raise PromptError(
                f"alpha={self.alpha} needs a baseline prompt, got none: describe the scene without the goal in "
                "baseline=..., or set alpha=0"
            )
        texts = encode_prompts(encoder, self.goal + self.baseline)
        g, b = texts[: len(self.goal)].mean(axis=0), texts[len(self.goal) :].mean(axis=0)
        length = float(np.linalg.norm(g - b))
        if length < MIN_DIRECTION:
            raise PromptError(
                f"goal {list(self.goal)} and baseline {list(self.baseline)} have the same embedding "
                f"({length:.1e} apart): word the baseline without the goal, or set alpha=0"
            )
        return g, (g - b) / length

    def _bounds(self) -> tuple[float, float]:
        # |x - g| lies in [1 - |g|, 1 + |g|] and u in [-1 - g.d/|d|, 1 - g.d/|d|]; exact at alpha 0 and 1.
        keep, norm = self._keep, self._goal_norm2**0.5
        farthest = (1 - keep) * (1 + abs(self._goal_along)) ** 2 + keep * (1 + norm) ** 2
        return 1 - farthest / 2, 1 - keep * (1 - norm) ** 2 / 2

    def _reward(self, dots: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        distance2 = 1 + self._goal_norm2 - 2 * dots[:, 0]  # |x - g|^2 of a unit x
        if self.alpha == 0:
            return 1 - distance2 / 2
        past_goal = dots[:, 1] - self._goal_along  # u above
        return 1 - ((1 - self._keep) * past_goal**2 + self._keep * distance2) / 2
