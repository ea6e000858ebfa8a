"""What an audit compares: scores of many sweeps on the same frames, beside what is known of those frames.

A sweep is one way of scoring: an encoder, a reward, its prompts and settings. All sweeps are compared on the same
resamples of the frames, so that a difference between two of them has an interval of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from vlmreward.errors import ConfigError, NonFiniteError
from vlmreward.types import BoolArray

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """N frames scored by S sweeps; built by :func:`make_sample`, rows in the order of group and step.

    Attributes:
        scores: Shape (N, S); NaN where a sweep could not score a frame.
        success: True where the frame shows the goal reached, shape (N,), or None.
        labels: Numbers to compare the scores with, each of shape (N,): ``"progress"`` and the cues; a cue is NaN
            where a frame has no such number.
        group: Number of each frame's rollout in 0..G-1, shape (N,), ascending.
        groups: G, the number of independent units that a bootstrap draws.
        rollouts: True if groups are rollouts with an order of time, False if every frame is a group of its own.
        width: Width of the range of possible rewards, shape (S,), or None; NaN where a sweep declares none.
        noise: Smallest difference of two scores that means anything, shape (S,), or None; NaN where unknown.
        margin: Frames whose progress differs by no more than this are not compared in pairs.
        partial: In a part of :meth:`split`, the cues that are NaN for some of its frames; ``labels`` lacks them.
    """

    scores: Array
    success: BoolArray | None
    labels: Mapping[str, Array]
    group: IntArray
    groups: int
    rollouts: bool
    step: IntArray
    width: Array | None
    noise: Array | None
    margin: float
    partial: Mapping[str, Array] = field(default_factory=dict)

    @property
    def frames(self) -> IntArray:
        """Return the number of frames that each sweep scored, shape (S,)."""
        return np.isfinite(self.scores).sum(axis=0)

    def facts(self) -> set[str]:
        """Return what is known beside the scores: ``success``, labels by name, ``rollouts``, ``width``, ``noise``."""
        named = {name for name in ("success", "width", "noise") if getattr(self, name) is not None}
        return named | set(self.labels) | ({"rollouts"} if self.rollouts else set())

    def split(self) -> Iterator[tuple[BoolArray, IntArray, Sample]]:
        """Yield sweeps that scored the same frames together, with those frames alone.

        Yields:
            Which rows, shape (N,), which columns, and the sample of these without NaN; groups keep their numbers.
            There is nothing for sweeps that scored no frame.
        """
        scored, which = np.unique(np.isfinite(self.scores), axis=1, return_inverse=True)
        for pattern, rows in enumerate(scored.T):
            columns = np.flatnonzero(which == pattern)
            if rows.any():
                yield rows, columns, self._part(rows, columns)

    def known(self, cue: str) -> Sample | None:
        """Return the frames that have a value of a cue in ``partial``, with no other label; None if there are none."""
        values = self.partial[cue]
        rows = np.isfinite(values)
        alone = replace(self, success=None, labels={cue: values})
        return alone._part(rows, np.arange(self.scores.shape[1])) if rows.any() else None

    def _part(self, rows: BoolArray, columns: IntArray) -> Sample:
        labels = {name: label[rows] for name, label in self.labels.items()}
        whole = {name: label for name, label in labels.items() if np.isfinite(label).all()}
        return replace(
            self,
            scores=self.scores[np.ix_(rows, columns)],
            success=None if self.success is None else self.success[rows],
            labels=whole,
            partial={name: label for name, label in labels.items() if name not in whole},
            group=self.group[rows],
            step=self.step[rows],
            width=None if self.width is None else self.width[columns],
            noise=None if self.noise is None else self.noise[columns],
        )


def make_sample(
    scores: npt.ArrayLike,
    *,
    success: npt.ArrayLike | None = None,
    progress: npt.ArrayLike | None = None,
    cues: Mapping[str, npt.ArrayLike] | None = None,
    group: npt.ArrayLike | None = None,
    step: npt.ArrayLike | None = None,
    valid: npt.ArrayLike | None = None,
    width: npt.ArrayLike | None = None,
    noise: npt.ArrayLike | None = None,
    margin: float = 0.0,
) -> Sample:
    """Check and bring together what an audit compares.

    Args:
        scores: Shape (N,) or (N, S). NaN is a frame that could not be scored.
        success: True where the frame shows the goal reached, bool, shape (N,).
        progress: How near the frame is to the goal, any monotone scale, shape (N,).
        cues: Other numbers of each frame by name (brightness, ...), each of shape (N,), to warn of a trivial score;
            NaN where a frame has no such number.
        group: Rollout of each frame, integers, shape (N,); frames of one rollout are dependent and are drawn
            together. None: every frame is independent of the others.
        step: Place of each frame in its rollout, shape (N,); None: the order of the rows.
        valid: False where a score must not be used, shape (N,) or (N, S); None: wherever it is not NaN.
        width: Width of the range of possible rewards, one number or shape (S,), > 0 or NaN.
        noise: Smallest difference of scores that means anything, one number or shape (S,), > 0 or NaN: encoding in
            bfloat16 moves a cosine by up to about 1e-3, storing embeddings in float16 by up to 1e-4.
        margin: Frames whose progress differs by no more than this are not compared in pairs, >= 0.

    Raises:
        ConfigError: An array has the wrong shape or type, or a number is out of range.
        NonFiniteError: A score is infinite, or a score marked valid or a label of a scored frame is not finite (a cue
            may be NaN, not infinite).
    """
    table = _as_table(scores, valid)
    n, sweeps = table.shape
    used: BoolArray = np.logical_or.reduce(np.isfinite(table), axis=1)
    labels = {} if progress is None else {"progress": _as_label("progress", progress, used)}
    for name, cue in (cues or {}).items():
        if name in {"success", "progress", "rollouts", "width", "noise"}:
            raise ConfigError(f"a cue may not be named {name!r}: choose another name")
        labels[name] = _as_label(name, cue, used, gaps=True)
    if not np.isfinite(margin) or margin < 0:
        raise ConfigError(f"margin must be a finite number >= 0, got {margin!r}")

    marks = None if success is None else np.asarray(success)
    if marks is not None and (marks.dtype != np.bool_ or marks.shape != (n,)):
        raise ConfigError(f"success must be bool of shape ({n},), got {marks.dtype} {marks.shape}")
    number = np.arange(n) if group is None else _as_integers("group", group, n)
    names, number = np.unique(number, return_inverse=True)
    place = np.arange(n) if step is None else _as_integers("step", step, n)
    rows = np.lexsort((place, number))
    return Sample(
        scores=table[rows],
        success=None if marks is None else marks[rows],
        labels={name: label[rows] for name, label in labels.items()},
        group=number[rows],
        groups=len(names),
        rollouts=group is not None,
        step=place[rows],
        width=_per_sweep("width", width, sweeps),
        noise=_per_sweep("noise", noise, sweeps),
        margin=float(margin),
    )


def _as_table(scores: npt.ArrayLike, valid: npt.ArrayLike | None) -> Array:
    """Return scores of shape (N, S), NaN where they must not be used."""
    table = np.array(scores, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or table.shape[1] == 0:
        raise ConfigError(f"scores must have shape (N,) or (N, S) with S > 0, got {np.shape(scores)}")
    if valid is not None:
        mask = np.asarray(valid)
        if mask.dtype != np.bool_ or mask.shape not in {table.shape, table.shape[:1]}:
            raise ConfigError(f"valid must be bool of shape {table.shape[:1]} or {table.shape}, got {mask.shape}")
        mask = np.broadcast_to(mask if mask.ndim == 2 else mask[:, None], table.shape)
        bad = int((mask & ~np.isfinite(table)).sum())
        if bad:
            raise NonFiniteError(f"{bad} of {mask.sum()} scores marked valid are not finite: mark such rows invalid")
        table[~mask] = np.nan
    infinite = int(np.isinf(table).sum())
    if infinite:
        raise NonFiniteError(f"{infinite} of {table.size} scores are infinite: mark such rows invalid")
    return table


def _as_label(name: str, values: npt.ArrayLike, used: BoolArray, gaps: bool = False) -> Array:
    """Return a label as float64, shape (N,): finite wherever a frame is used, or NaN there too if gaps are allowed."""
    label = np.asarray(values, dtype=np.float64)
    if label.shape != used.shape:
        raise ConfigError(f"{name} must have shape {used.shape}, got {label.shape}: give one number for each frame")
    bad = int((used & (np.isinf(label) if gaps else ~np.isfinite(label))).sum())
    if bad:
        raise NonFiniteError(f"{name} is not finite for {bad} of {used.sum()} scored frames: mark such rows invalid")
    return label


def _as_integers(name: str, values: npt.ArrayLike, n: int) -> IntArray:
    numbers = np.asarray(values)
    if numbers.shape != (n,) or not np.issubdtype(numbers.dtype, np.integer):
        raise ConfigError(f"{name} must be integers of shape ({n},), got {numbers.dtype} {numbers.shape}")
    return numbers.astype(np.int64)


def _per_sweep(name: str, values: npt.ArrayLike | None, sweeps: int) -> Array | None:
    if values is None:
        return None
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape not in {(), (sweeps,)} or (numbers <= 0).any() or np.isinf(numbers).any():
        raise ConfigError(f"{name} must be one number or {sweeps}, each > 0 or NaN, got {values!r}")
    return np.broadcast_to(numbers, (sweeps,)).copy()
