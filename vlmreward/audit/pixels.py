"""Numbers that any picture has: thumbnails, brightness, change and distance in pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vlmreward.audit.sample import Array, IntArray
from vlmreward.errors import ConfigError
from vlmreward.types import BoolArray, FloatArray, Frames, check_frames

SIDE = 32
"""Cells of a thumbnail along each side: enough to see where things are, too few to see noise."""

FRAMES_AT_A_TIME = 64


def thumbnails(frames: Frames, side: int = SIDE) -> FloatArray:
    """Average frames over a grid of cells; a pure function of each frame.

    Args:
        frames: uint8, shape (N, H, W, 3); may be a memory map, a few are read at a time.
        side: Cells along each side; fewer where a frame has fewer pixels.

    Returns:
        float32 in [0, 255], shape (N, cells * 3). Cells differ by one pixel where ``side`` does not divide the size.

    Raises:
        FramesError: The frames break the contract.
        ConfigError: side is not positive.
    """
    check_frames(frames)
    if side < 1:
        raise ConfigError(f"side must be >= 1, got {side}")
    n, height, width, _ = frames.shape
    tops, lefts = (np.arange(min(side, size)) * size // min(side, size) for size in (height, width))
    pixels = np.diff(tops, append=height)[:, None, None] * np.diff(lefts, append=width)[:, None]
    out = np.empty((n, len(tops) * len(lefts) * 3), dtype=np.float32)
    for start in range(0, n, FRAMES_AT_A_TIME):
        some = np.asarray(frames[start : start + FRAMES_AT_A_TIME])
        rows = np.add.reduceat(some, tops, axis=1, dtype=np.uint32)  # wide sums: uint8 would wrap
        cells = np.add.reduceat(rows, lefts, axis=2) / pixels
        out[start : start + len(some)] = cells.reshape(len(some), -1)
    return out


def brightness(thumbs: FloatArray) -> Array:
    """Return the mean brightness of each picture, in [0, 255], shape (N,)."""
    return thumbs.mean(axis=1, dtype=np.float64)


def pixel_change(thumbs: FloatArray, group: IntArray, step: IntArray) -> Array:
    """Return how far each picture is from the first one of its rollout, in [0, 255], shape (N,).

    Args:
        thumbs: Thumbnails, shape (N, K).
        group: Rollout of each, shape (N,).
        step: Place in it, shape (N,).

    Returns:
        NaN for a picture that is a rollout of its own: nothing can have changed.
    """
    out = np.full(len(thumbs), np.nan)
    for rows in _several(group, step):
        out[rows] = distance(thumbs[rows], thumbs[rows[0]])
    return out


def distance(thumbs: FloatArray, reference: npt.NDArray[np.floating]) -> Array:
    """Return the root mean square difference of pictures (N, K) and a reference (K,), in [0, 255], shape (N,)."""
    return np.sqrt(np.mean((thumbs - reference) ** 2, axis=1, dtype=np.float64))


def nearness_to_last(thumbs: FloatArray, group: IntArray, step: IntArray) -> Array:
    """Baseline score: minus the pixel distance to the last frame of the same rollout, shape (N,), <= 0.

    It looks into the future and takes for granted that a rollout ends at the goal.

    Args:
        thumbs: Thumbnails, shape (N, K).
        group: Rollout of each, shape (N,).
        step: Place in it, shape (N,).

    Returns:
        NaN for a picture that is a rollout of its own: as its own last frame it would score best of all.
    """
    out = np.full(len(thumbs), np.nan)
    for rows in _several(group, step):
        out[rows] = -distance(thumbs[rows], thumbs[rows[-1]])
    return out


def nearness_to_success(thumbs: FloatArray, success: BoolArray, group: IntArray) -> Array:
    """Baseline score: minus the pixel distance to the mean success frame of the other rollouts, shape (N,), <= 0.

    It is told what success looks like, which a text score is not. The frame's own rollout is left out of the mean, or
    it would be compared with itself.

    Args:
        thumbs: Thumbnails, shape (N, K).
        success: True where the frame shows the goal reached, shape (N,).
        group: Rollout of each, shape (N,); ``arange(N)`` for independent frames.

    Returns:
        NaN for the frames of a rollout outside of which no frame shows success.
    """
    total = thumbs[success].sum(axis=0, dtype=np.float64)
    out = np.full(len(thumbs), np.nan)
    for rows in _rollouts(group, np.arange(len(group))):
        own = thumbs[rows][success[rows]]
        left = int(success.sum()) - len(own)
        if left:
            out[rows] = -distance(thumbs[rows], (total - own.sum(axis=0, dtype=np.float64)) / left)
    return out


def _rollouts(group: IntArray, step: IntArray) -> list[IntArray]:
    """Return the rows of each rollout, in order of time."""
    rows = np.lexsort((step, group))
    return np.split(rows, np.flatnonzero(np.diff(group[rows])) + 1)


def _several(group: IntArray, step: IntArray) -> list[IntArray]:
    """Return the rows of each rollout of more than one frame, in order of time."""
    return [rows for rows in _rollouts(group, step) if len(rows) > 1]
