"""What one shard's frames become: keys and embeddings, and reasons where there are none; the decoding of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from vlmreward.data.dataset import Frame, Undecodable
from vlmreward.encoders.frame_hash import Keys, hash_frames
from vlmreward.labelling.plan import Shard
from vlmreward.types import FloatArray, Frames
from vlmreward.wrappers.capture_frames import is_constant

NO_KEY = 0
"""Both halves of the key of a frame that has none."""

Decode = Callable[[int, int], Iterator[Frame | Undecodable]]
"""Gives an episode's frames by its number, from the one of a number on."""


@dataclass(frozen=True)
class Batch:
    """Frames that are encoded together.

    Attributes:
        shard: Number of their shard.
        rows: Their places in it, int64, shape (N,).
        frames: uint8, shape (N, H, W, 3).
    """

    shard: int
    rows: np.ndarray
    frames: Frames


@dataclass
class ShardFrames:
    """A shard's frames after decoding, and after encoding.

    Attributes:
        number: Of the shard.
        keys: Content hashes, uint64, shape (N, 2); ``NO_KEY`` where there is no frame.
        embeddings: float32, shape (N, D); NaN where there is none (yet).
        reasons: Why there is no frame: row to reason.
    """

    number: int
    keys: Keys
    embeddings: FloatArray
    reasons: dict[int, str] = field(default_factory=dict)


class ShardDecoder:
    """Decodes shards one after another, and goes on in an episode that the shard before has left off in.

    Where that shard lost frames, the next one is begun anew: what a reader makes of damage may depend on where it
    began, and a shard must not depend on the one before.

    Args:
        decode: Gives frames.
        batch_size: Largest number of frames of a batch.
    """

    def __init__(self, decode: Decode, batch_size: int) -> None:
        self._decode, self._batch_size = decode, batch_size
        self._open: tuple[int, int, Iterator[Frame | Undecodable]] | None = None  # episode, next frame, its frames

    def batches(self, shard: Shard, reasons: dict[int, str]) -> Iterator[Batch]:
        """Yield a shard's frames in batches; only as many are held as one batch has.

        A batch ends before a frame of another size. A frame that can't be decoded, or shows one colour only, is left
        out, with the reason in ``reasons``.

        Args:
            shard: Which frames.
            reasons: Filled in: row of the shard to reason.
        """
        rows: list[int] = []
        frames: list[Frame] = []
        row = 0
        for span in shard.spans:
            for frame in self._frames(span.episode, span.start, span.stop):
                if isinstance(frame, Undecodable):
                    reasons[row] = frame.reason
                elif is_constant(frame):
                    reasons[row] = "the picture is of one colour"
                else:
                    if frames and (len(frames) == self._batch_size or frame.shape != frames[0].shape):
                        yield Batch(shard.number, np.array(rows), np.stack(frames))
                        rows, frames = [], []
                    rows.append(row)
                    frames.append(frame)
                row += 1
        if frames:
            yield Batch(shard.number, np.array(rows), np.stack(frames))

    def _frames(self, episode: int, start: int, stop: int) -> Iterator[Frame | Undecodable]:
        if self._open is not None and self._open[:2] == (episode, start):
            frames = self._open[2]
        else:
            frames = iter(self._decode(episode, start))
        self._open = None
        count, whole = 0, True
        for frame in islice(frames, stop - start):
            whole = whole and not isinstance(frame, Undecodable)
            yield frame
            count += 1
        assert count == stop - start, "a reader gave fewer frames than its episode has"
        if whole:
            self._open = (episode, stop, frames)


def empty_shard(shard: Shard, dim: int) -> ShardFrames:
    """Return a shard of which nothing is known yet."""
    keys = np.full((len(shard), 2), NO_KEY, np.uint64)
    return ShardFrames(shard.number, keys, np.full((len(shard), dim), np.nan, np.float32))


def hash_batch(batch: Batch) -> Keys:
    """Return the content hashes of a batch, uint64, shape (N, 2)."""
    return hash_frames(batch.frames)
