"""From log-probabilities of possible answers to one number, or to bounds where a server tells no more."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vlmreward.rewards.judges.questions import LogProb

NEGLIGIBLE = 0.02
"""Largest share of probability that may be on answers whose own one isn't known."""


def share_of_first(logprobs: Sequence[LogProb]) -> tuple[float, float]:
    """Return the bounds of ``P(first) / (P(first) + ... + P(last))``.

    Args:
        logprobs: Of the possible answers; the first one's bounds may not both be -inf unless another's are finite.

    Returns:
        Least and most, in [0, 1]; NaN where nothing is likely at all.
    """
    first, others = logprobs[0], logprobs[1:]
    return _share(first.low, [o.high for o in others]), _share(first.high, [o.low for o in others])


def _share(first: float, others: Sequence[float]) -> float:
    top = max(first, *others)
    if top == -math.inf:
        return math.nan
    own = math.exp(first - top)
    return own / (own + math.fsum(math.exp(other - top) for other in others))


def expected(values: list[float], logprobs: tuple[LogProb, ...], what: str) -> float | str:
    """Return the mean of possible answers by their probability, or why there is none.

    Args:
        values: What each answer means.
        logprobs: Of the answers. One with bounds counts as impossible where it is surely negligible.
        what: They are, for the reason.
    """
    top = max(logprob.low for logprob in logprobs)
    if top == -math.inf:
        return f"none of the model's likely answers is {what}"
    weights = [math.exp(logprob.low - top) for logprob in logprobs]
    doubt = math.fsum(math.exp(logprob.high - top) for logprob in logprobs) - math.fsum(weights)
    if doubt > NEGLIGIBLE * math.fsum(weights):
        return f"the server lists too few of the answers that are {what}"
    return math.fsum(w * v for w, v in zip(weights, values, strict=True)) / math.fsum(weights)
