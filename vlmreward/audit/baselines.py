"""Scores that understand nothing, measured by the same functions as any other sweep.

A score that does not beat the time index has shown nothing of the goal, one that does not beat a pixel distance
nothing of language. Those on pixels are in :mod:`vlmreward.audit.pixels`.
"""

from __future__ import annotations

import numpy as np

from vlmreward.audit.sample import Array, IntArray


def time_index(step: IntArray) -> Array:
    """Return the place of each frame in its rollout as its score, shape (N,): VOC 1 by construction."""
    return step.astype(np.float64)


def constant(n: int) -> Array:
    """Return the same score for n frames: ties everywhere, so correlations are undefined and accuracies 1/2."""
    return np.zeros(n)


def random(n: int, seed: int = 0) -> Array:
    """Return independent uniform scores in [0, 1), shape (n,)."""
    return np.random.default_rng(seed).random(n)
