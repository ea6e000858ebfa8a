"""What rewards on single embeddings share: having them, and telling which rows can't be scored."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vlmreward.errors import FramesError
from vlmreward.types import NORM_TOLERANCE, Encoder, FloatArray, FrameBatch


def read_embeddings(batch: FrameBatch, dim: int, encoder: Encoder) -> npt.NDArray[np.floating]:
    """Return a batch's embeddings, or those of its frames where there are none.

    Args:
        batch: N rows with ``embeddings`` (N, D) or ``frames`` (N, H, W, 3).
        dim: Length of an embedding, D.
        encoder: Encodes the frames.

    Raises:
        FramesError: The batch has neither, or they do not fit.
    """
    if batch.embeddings is not None:
        embeddings = batch.embeddings
    elif batch.frames is not None:
        embeddings = encoder.encode_images(batch.frames)
    else:
        raise FramesError("the batch has neither embeddings nor frames: give one of them")
    check_embeddings(embeddings, dim, encoder)
    if len(embeddings) != len(batch):
        raise FramesError(f"the batch has {len(batch)} rows but {len(embeddings)} pictures: give one for each row")
    return embeddings


def check_embeddings(embeddings: npt.NDArray[np.floating], dim: int, encoder: Encoder) -> None:
    """Check that embeddings are float, shape (N, dim).

    Raises:
        FramesError: They are not.
    """
    if embeddings.ndim != 2 or embeddings.shape[1] != dim or not np.issubdtype(embeddings.dtype, np.floating):
        raise FramesError(
            f"embeddings must be float of shape (N, {dim}), got {embeddings.dtype} {embeddings.shape}: "
            f"encode the frames with encoder {encoder.id}"
        )


def why_unscorable(embedding: npt.NDArray[np.floating]) -> str:
    """Return why an embedding can't be scored."""
    if not np.isfinite(embedding).all():
        return "embedding is not finite"
    return f"embedding has norm {np.linalg.norm(embedding.astype(np.float64)):.3g} instead of 1"


def unit_rows(embeddings: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return embeddings divided by their norms, shape (N, D); NaN where one is not finite or its norm is not 1.

    A row's result does not depend on the other rows.
    """
    x = np.asarray(embeddings, np.float64)
    norm = np.sqrt(np.einsum("nd,nd->n", x, x))
    unit = np.abs(norm - 1) <= NORM_TOLERANCE  # False for NaN
    return np.where(unit[:, None], x / np.where(unit, norm, 1.0)[:, None], np.nan)


def unit_dots(embeddings: npt.NDArray[np.floating], directions: FloatArray) -> npt.NDArray[np.float64]:
    """Return dot products of image embeddings, made unit vectors, with fixed directions.

    A row's result does not depend on the other rows, to the last bit: ``einsum`` adds up each row in one
    order, where a matrix product may change its order with the number of rows.

    Args:
        embeddings: float, shape (N, D).
        directions: float32, shape (K, D).

    Returns:
        Shape (N, K); a row is NaN where the embedding is not finite or its norm is not 1.
    """
    x = np.ascontiguousarray(embeddings, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        norm = np.sqrt(np.einsum("nd,nd->n", x, x))
        dots = np.stack([np.einsum("nd,d->n", x, direction) for direction in directions], axis=1)
        unit = np.abs(norm - 1) <= NORM_TOLERANCE  # False for NaN
    result = np.full(dots.shape, np.nan)
    result[unit] = dots[unit] / norm[unit, None].astype(np.float64)
    return result
