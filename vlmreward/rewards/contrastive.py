"""Reward a frame for looking like positive prompts and unlike negative ones.

Two forms. ``difference`` is the contrasting language goal of VLM-RL (arXiv 2412.15544,
github.com/zihaosheng/VLM-RL): the paper writes ``a * sim_pos - b * sim_neg``, its code uses
``z = cos(neg) - cos(pos)``, without weights and with the other sign. Ours is the paper's form, so higher is better;
with both weights 1, the default, it is exactly ``-z``. ``softmax`` extends it to a choice between any number of
options.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from vlmreward.errors import PromptError
from vlmreward.rewards.prompted import MIN_DIRECTION, PromptedReward, Prompts, as_directions, encode_prompts
from vlmreward.rewards.settings import check_choice, check_number
from vlmreward.types import Encoder

Mode = Literal["difference", "softmax"]


class ContrastiveReward(PromptedReward):
    """Reward frames by positive and negative prompts.

    With unit image embedding ``x`` and unit prompt embeddings ``t_i``:

    - ``difference``: ``positive_weight * mean_pos(x . t_i) - negative_weight * mean_neg(x . t_i)``;
    - ``softmax``: ``sum_pos exp(s x . t_i) / sum_all exp(s x . t_i)``, ``s = logit_scale`` (1 / temperature): the
      probability that a positive prompt is chosen from all. Each prompt is an option of its own, so more
      negative prompts lower the reward everywhere.

    Args:
        encoder: Frozen encoder of frames and prompts.
        goal: Positive prompts, one or several. Named as in every reward, so that a command line fits all.
        baseline: Negative prompts, one or several.
        mode: ``"difference"`` or ``"softmax"``.
        positive_weight: Weight of the positive similarity in ``difference``, >= 0.
        negative_weight: Weight of the negative similarity in ``difference``, >= 0.
        logit_scale: Factor of the cosines in ``softmax``, > 0; CLIP models are trained with about 100.

    Raises:
        ConfigError: A setting is unknown or out of range.
        PromptError: A prompt is blank, there is no negative prompt, a prompt stands on both sides, or the two sides
            mean the same to the encoder.
    """

    def __init__(
        self,
        encoder: Encoder,
        goal: Prompts,
        baseline: Prompts | None = None,
        mode: Mode = "difference",
        positive_weight: float = 1.0,
        negative_weight: float = 1.0,
        logit_scale: float = 100.0,
    ) -> None:
        super().__init__(encoder, goal, baseline)
        check_choice("mode", mode, get_args(Mode))
        self.mode: Mode = mode
        self.positive_weight = check_number("positive_weight", positive_weight, 0)
        self.negative_weight = check_number("negative_weight", negative_weight, 0)
        self.logit_scale = check_number("logit_scale", logit_scale, 0, above=True)

        negatives = self._negatives()
        texts = encode_prompts(encoder, self.goal + negatives)
        positive, negative = texts[: len(self.goal)], texts[len(self.goal) :]
        if mode == "difference":
            self._use_difference(positive.mean(axis=0), negative.mean(axis=0))
        else:
            self._use_softmax(positive, negative)

    def _negatives(self) -> tuple[str, ...]:
        if self.baseline is None:
            raise PromptError(
                "reward 'contrastive' needs a negative prompt, got none: describe what must not be seen in baseline=..."
            )
        both = set(self.goal) & set(self.baseline)
        if both:
            raise PromptError(f"prompt {min(both)!r} is both goal and baseline: take it out of one")
        return self.baseline

    def _use_difference(self, positive: npt.NDArray[np.float64], negative: npt.NDArray[np.float64]) -> None:
        length = float(np.linalg.norm(self.positive_weight * positive - self.negative_weight * negative))
        if length < MIN_DIRECTION:
            raise PromptError(
                f"goal {list(self.goal)} and baseline {list(self.baseline or ())} cancel out ({length:.1e} is left): "
                "word them apart, or change positive_weight and negative_weight"
            )
        self._directions = as_directions(positive, negative)
        self.range = (-length, length)

    def _use_softmax(self, positive: npt.NDArray[np.float64], negative: npt.NDArray[np.float64]) -> None:
        gaps = np.linalg.norm(positive[:, None] - negative[None], axis=2)  # (positives, negatives)
        if gaps.min() < MIN_DIRECTION:
            i, j = np.unravel_index(gaps.argmin(), gaps.shape)
            raise PromptError(
                f"goal {self.goal[i]!r} and baseline {(self.baseline or ())[j]!r} have the same embedding "
                f"({gaps.min():.1e} apart): word them apart"
            )
        self._directions = as_directions(positive, negative)
        self.range = (0.0, 1.0)

    def _reward(self, dots: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        if self.mode == "difference":
            return self.positive_weight * dots[:, 0] - self.negative_weight * dots[:, 1]
        logits = self.logit_scale * dots
        count = len(self.goal)
        for_goal = np.logaddexp.reduce(logits[:, :count], axis=1)
        against = np.logaddexp.reduce(logits[:, count:], axis=1)
        return np.exp(-np.logaddexp(0.0, against - for_goal))  # 1 / (1 + exp(against - for_goal)), never overflowing

    def _parts(self, dots: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
        if self.mode == "difference":
            return {"positive": self.positive_weight * dots[:, 0], "negative": -self.negative_weight * dots[:, 1]}
        return {}
