"""From signed steps of progress to progress: pure functions on arrays, each with its source.

A pairwise critic says how a pair of frames differs, ``c`` in [-1, 1]; these rules say where an episode then stands,
``v`` in [0, 1]. What is not known is NaN: a value stays unknown after an unknown step, until an anchored estimate
(:func:`fuse`) gives it back. Work is done in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Array = npt.NDArray[np.float64]
Rule = Literal["bounded", "simple", "mix", "inverse"]

NEARLY_DONE = 0.01
"""What is left of a task at its end, as VLAC counts it: without it no regression could lead away from 1."""
MIX_HALF, MIX_FLOOR = 0.5, 0.1
"""Above the half, VLAC's mixed rule undoes steps, but never below the floor."""


def remaining_delta(before: npt.ArrayLike, after: npt.ArrayLike) -> Array:
    """Return the step from one progress to another, as VLAC labels it: the signed share of what was left.

    ``c = (after - before) / (1 - before)``, cut off at -1: from frame i to frame i + D of T this is ``D / (T - i)``
    (VLAC, arXiv 2509.15937), and going back by more than what is left counts no more than that.

    Args:
        before: Progress in [0, 1], any shape.
        after: The same shape.

    Returns:
        float64 in [-1, 1]; 0 where nothing was left and nothing changed, -1 where nothing was left and ground was lost.
    """
    p, q = np.asarray(before, np.float64), np.asarray(after, np.float64)
    left = 1.0 - p
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(left > 0, (q - p) / left, np.sign(q - p))
    return np.clip(share, -1.0, 1.0)


def hop(before: npt.ArrayLike, after: npt.ArrayLike) -> Array:
    """Return the step from one progress to another, as Robo-Dopamine labels it (arXiv 2512.23703, eq. 2).

    Progress counts as a share of what was left, ``(q - p) / (1 - p)``, and regress as a share of what was reached,
    ``(q - p) / p``: the ``bounded`` rule undoes exactly that, so that it stays in [0, 1] by itself.

    Args:
        before: Progress p in [0, 1], any shape.
        after: Progress q in [0, 1], the same shape.

    Returns:
        float64 in [-1, 1]; 0 where nothing changed.
    """
    p, q = np.asarray(before, np.float64), np.asarray(after, np.float64)
    whole = np.where(q >= p, 1.0 - p, p)
    return np.where(q == p, 0.0, (q - p) / np.where(whole > 0, whole, 1.0))


def accumulate(deltas: Floats, rule: Rule = "bounded", start: npt.ArrayLike = 0.0) -> Array:
    """Return progress after each step.

    - ``bounded`` (Robo-Dopamine): ``v + (1 - v) c`` up, ``v + v c`` down. Never leaves [0, 1].
    - ``simple`` (VLAC, the paper's): ``v + (1 - v) c`` both ways; a regression weighs more the less was reached.
    - ``inverse`` (VLAC): as ``simple`` up; down ``1 - max(1 - v, 0.01) / (1 + c)``, which undoes a step up exactly.
    - ``mix`` (VLAC): as ``simple`` up; down as ``inverse``, but not below 0.1, above one half, and ``v (1 + c)`` below.

    What differs from VLAC's code: results are kept in [0, 1] (there (-20 %, -20 %) gives -44 %); ``c = -1`` leads to
    the smallest value of the rule, where there is a division by zero; ``c = 0`` changes nothing (there 100 % falls to
    99 %).

    Args:
        deltas: Steps in [-1, 1], shape (..., T); NaN where one is not known.
        rule: See above.
        start: Progress before the first step, in [0, 1], a number or of shape (...,). A clip played backwards starts
            at 1: from 0 nothing can be lost.

    Returns:
        float64 in [0, 1], shape (..., T + 1), the start first; NaN after an unknown step.
    """
    steps = np.asarray(deltas, np.float64)
    step = _RULES[rule]
    values = np.empty((*steps.shape[:-1], steps.shape[-1] + 1))
    values[..., 0] = start
    for t in range(steps.shape[-1]):
        values[..., t + 1] = step(values[..., t], steps[..., t])
    return values


def accumulate_strided(deltas: Floats, stride: int, rule: Rule = "bounded", start: float = 0.0) -> Array:
    """Return progress where each step leads from the frame ``stride`` frames before, or from the first one.

    Args:
        deltas: Step to each frame, in [-1, 1], shape (T,); that of the first frame is not looked at.
        stride: Frames between the two of a step, >= 1.
        rule: Of :func:`accumulate`.
        start: Progress in the first frame, in [0, 1].

    Returns:
        float64 in [0, 1], shape (T,), the start first; NaN after an unknown step.
    """
    progress = np.full(len(deltas), start)
    for phase in range(1, min(stride, len(deltas) - 1) + 1):  # steps that follow on one another
        progress[phase::stride] = accumulate(deltas[phase::stride], rule, start)[1:]
    return progress


def fuse(forward: Floats, backward: Floats, deltas: Floats, sharpness: float = 20.0) -> tuple[Array, Array]:
    """Return progress from three estimates of it, as far as two of them agree, and how far they do.

    Robo-Dopamine (arXiv 2512.23703, eq. 11): with ``m`` the mean of the two anchored estimates and ``w =
    exp(-sharpness D^2)``, ``D = |backward - forward| / m``,

        F <- F + w/2 [(m - F) + dF],        dF the ``bounded`` rule's own step from F.

    Where the anchored two contradict each other, ``w`` goes to 0 and progress stays what it was. What differs: D is
    taken relative to at least 0.1, for near the start any disagreement is large against a mean near 0; and where the
    last value is not known, or the step is not, the anchored mean stands alone.

    Args:
        forward: Progress as the distance from the episode's first frame, of T + 1 frames, shape (..., T + 1).
        backward: Progress as 1 less the distance to a goal frame, the same shape.
        deltas: Steps from each frame to the next one, in [-1, 1], shape (..., T).
        sharpness: How fast disagreement is punished, > 0.

    Returns:
        Progress in [0, 1] and ``w`` in [0, 1], float64, shape (..., T + 1) both; NaN where an anchored estimate is.
    """
    ahead, back = (np.clip(np.asarray(x, np.float64), 0.0, 1.0) for x in (forward, backward))
    steps = np.asarray(deltas, np.float64)
    mean = (ahead + back) / 2
    weight = np.exp(-sharpness * (np.abs(back - ahead) / np.maximum(mean, 0.1)) ** 2)
    values = np.empty_like(mean)
    values[..., 0] = weight[..., 0] / 2 * mean[..., 0]  # from 0, with no step
    for t in range(steps.shape[-1]):
        last = values[..., t]
        moved = _bounded(last, steps[..., t]) - last
        new = last + weight[..., t + 1] / 2 * ((mean[..., t + 1] - last) + moved)
        values[..., t + 1] = np.where(np.isnan(moved), mean[..., t + 1], np.clip(new, 0.0, 1.0))
    return values, weight


def _up(v: Array, c: Array) -> Array:
    return v + (1 - v) * c


def _undo(v: Array, c: Array) -> Array:
    """Return VLAC's value after a regression that undoes the step up which led here; -inf for c = -1."""
    with np.errstate(divide="ignore"):
        return 1 - np.maximum(1 - v, NEARLY_DONE) / (1 + c)


def _bounded(v: Array, c: Array) -> Array:
    return np.where(c >= 0, _up(v, c), v * (1 + c))


def _simple(v: Array, c: Array) -> Array:
    return np.clip(_up(v, c), 0.0, 1.0)


def _inverse(v: Array, c: Array) -> Array:
    return np.where(c >= 0, _up(v, c), np.clip(_undo(v, np.minimum(c, 0.0)), 0.0, 1.0))


def _mix(v: Array, c: Array) -> Array:
    down = np.where(v > MIX_HALF, np.maximum(MIX_FLOOR, _undo(v, np.minimum(c, 0.0))), v * (1 + c))
    return np.where(c >= 0, _up(v, c), down)


_RULES: dict[Rule, Callable[[Array, Array], Array]] = {
    "bounded": _bounded,
    "simple": _simple,
    "inverse": _inverse,
    "mix": _mix,
}
