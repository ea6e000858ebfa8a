"""Embeddings on disk, so that a frame is encoded once ever.

A store belongs to one encoder. Processes that write to it take turns, and each looks for what the others have added
before it adds: a frame has one embedding, the first, whoever asks. Rows are mapped into memory, keys are hashed.

``kill -9`` costs nothing that was added. A power cut may cost rows of the newest segment that had not reached the disk:
:meth:`EmbeddingStore.add` does not wait for it, which on a busy disk takes longer than encoding several frames. It is
waited for when a segment is full, and the newest segment is looked through when a store is opened that no process has
open: it ends before the first lost row.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from vlmreward.encoders.frame_hash import distinct
from vlmreward.encoders.key_index import KeyIndex
from vlmreward.encoders.store_folder import StoreFolder, StoreMeta
from vlmreward.errors import ConfigError
from vlmreward.types import NORM_TOLERANCE, BoolArray, FloatArray, Keys

SEGMENT_BYTES = 64 * 2**20
"""Size of the embeddings from which on a new segment is begun: 65,536 rows of 512 numbers in float16."""

_BLOCK = 2**20  # numbers that are widened to float32 at a time: with fewer, the Python around them takes longer
_ROW_BITS = 40  # of a place: the number of its segment stands above

# One for all stores of a process, and taken while it forks: a child finds every index whole and no lock held.
_LOCK = threading.Lock()
os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


def are_unit(embeddings: npt.NDArray[np.floating]) -> BoolArray:
    """Return which embeddings are finite and of unit norm, as an encoder has to give them, bool, shape (N,).

    Args:
        embeddings: float, shape (N, D).
    """
    unit = np.empty(len(embeddings), bool)
    step = max(1, _BLOCK // embeddings.shape[1])
    for start in range(0, len(embeddings), step):
        norms = torch.linalg.vector_norm(torch.from_numpy(embeddings[start : start + step]).float(), dim=1)
        unit[start : start + step] = np.abs(norms.numpy() - 1) <= NORM_TOLERANCE  # False for NaN
    return unit


@dataclass
class _Mapped:
    """A segment as far as this process knows it: ``rows`` holds an embedding for each of its keys in the index."""

    name: str
    inode: int
    rows: np.ndarray


class EmbeddingStore:
    """The embeddings of one encoder, by the content of the frame.

    Several processes and threads may read and add at once, before and after a fork. What is read is what was stored: of
    float32 every bit; of float16 the rounded row, made a unit vector again, within 5e-4 of the one that was added.

    An open store holds 32 to 64 bytes of memory for each frame.

    Args:
        cache: The folder of all stores; this one gets a folder of its own in it.
        meta: Whose embeddings, and in which form.

    Raises:
        ConfigError: The store's folder belongs to another encoder, dimension or version.
        StorageError: It is damaged, or can't be made, read or written.
    """

    def __init__(self, cache: Path, meta: StoreMeta) -> None:
        self.meta = meta
        self.path = cache / meta.name
        self._files = StoreFolder(self.path)
        self._dtype = np.dtype(meta.dtype)
        self._index = KeyIndex()
        self._segments: list[_Mapped] = []
        self._claimed = -1
        self._release: weakref.finalize | None = None
        with _LOCK, self._files.locked():
            mapped = self._files.in_use()
            self._claim()
            if not mapped:  # else who opened it first has done so, and files must not get shorter under its maps
                self._cut_off_lost_rows()
            self._take_notice()

    def __len__(self) -> int:
        """Return how many frames are known."""
        return len(self._index)

    def refresh(self) -> None:
        """Take notice of what other processes have added."""
        with _LOCK:
            self._take_notice()

    def find(self, keys: Keys) -> npt.NDArray[np.int64]:
        """Return where the embedding of each frame is, -1 for unknown frames, int64, shape (N,).

        Args:
            keys: Of :func:`vlmreward.encoders.frame_hash.hash_frames`, uint64, shape (N, 2).
        """
        with _LOCK:
            return self._index.find(keys)

    def read(self, places: npt.NDArray[np.int64]) -> FloatArray:
        """Return embeddings, unit vectors, float32, shape (N, D).

        Args:
            places: Of :meth:`find`, all of known frames, int64, shape (N,).
        """
        out = np.empty((len(places), self.meta.dim), np.float32)
        for where, rows in self._blocks(places):
            out[where] = self._divide_by_norms(rows, rows).numpy()
        return out

    def project(self, keys: Keys, directions: FloatArray) -> tuple[FloatArray, BoolArray]:
        """Return the products of the frames' embeddings with vectors: a new goal's score costs this and no encoder.

        Equal to the products of what :meth:`read` returns up to float32 rounding.

        Args:
            keys: Of :func:`vlmreward.encoders.frame_hash.hash_frames`, uint64, shape (N, 2).
            directions: float32, shape (D, K).

        Returns:
            Products, float32, shape (N, K), NaN for unknown frames; and which frames are known, bool, shape (N,).
        """
        places = self.find(keys)
        valid = places >= 0
        known = np.flatnonzero(valid)
        out = np.full((len(keys), directions.shape[1]), np.nan, np.float32)
        weights = torch.from_numpy(np.array(directions, np.float32))
        for where, rows in self._blocks(places[known]):
            out[known[where]] = self._divide_by_norms(rows @ weights, rows).numpy()
        return out, valid

    def add(self, keys: Keys, embeddings: FloatArray) -> None:
        """Store embeddings: of frames that no process has stored yet, those that are finite and of unit norm.

        Args:
            keys: Of :func:`vlmreward.encoders.frame_hash.hash_frames`, uint64, shape (N, 2).
            embeddings: float, shape (N, D).

        Raises:
            StorageError: The disk is full or can't be written. Nothing that was stored before is lost.
            ConfigError: The folder was removed, and belongs to something else now.
            ValueError: The embeddings are of another shape.
        """
        if embeddings.shape != (len(keys), self.meta.dim):
            raise ValueError(f"embeddings must be ({len(keys)}, {self.meta.dim}), got {embeddings.shape}")
        with np.errstate(over="ignore"):
            rows = embeddings.astype(self._dtype)
        first, _ = distinct(keys)
        first = first[are_unit(rows[first])]
        with _LOCK, self._files.locked():
            if not self._files.is_used_by(self._claimed):  # pruned, or removed by hand, and maybe made again
                self._claim()
            self._take_notice()
            new = first[self._index.find(keys[first]) < 0]
            if len(new):
                self._append(keys[new], rows[new])
                self._take_notice()

    def _claim(self) -> None:
        """Make the folder ours, or check that it is, and mark it as in use."""
        found = self._files.read_meta()
        if found is None:
            self._files.write_meta(self.meta)
        elif found != self.meta:
            raise ConfigError(f"{self.path} holds embeddings of {found}, wanted {self.meta}: choose another cache=...")
        if self._release is not None:
            self._release()
        self._claimed = self._files.use()
        self._release = weakref.finalize(self, os.close, self._claimed)

    def _cut_off_lost_rows(self) -> None:
        """End the newest segment before what a power cut has kept from the disk: file systems show it as zeros.

        What follows goes too, and is encoded again: nothing is copied, so there is no moment at which a kill or a full
        disk could leave lost rows in a segment that is not the newest, where nobody looks for them.
        """
        for segment in reversed(self._files.segments()):
            if segment.frames(self.meta.row_bytes) == 0:
                continue
            if (content := self._files.read(segment, 0, self.meta)) is None:
                continue
            keys, rows = content
            good = are_unit(rows) & keys.any(axis=1)
            if not good.all():
                self._files.cut(segment.name, int(good.argmin()), self.meta.row_bytes)
            if good[0]:
                return

    def _append(self, keys: Keys, rows: np.ndarray) -> None:
        newest = None
        for segment in self._files.segments():
            if segment.frames(self.meta.row_bytes):
                newest = segment
            else:  # half removed, or half begun; a name is never used again, for others may have mapped what it was
                self._files.remove(segment.name)
        frames = newest.frames(self.meta.row_bytes) if newest else 0
        if newest and frames * self.meta.row_bytes < SEGMENT_BYTES:
            name = newest.name
        else:
            if newest:
                self._files.seal(newest.name)
            name, frames = self._files.new_name(), 0
        self._files.append(name, frames, rows.tobytes(), keys.tobytes())

    def _take_notice(self) -> None:
        """Index what the segments have gained."""
        numbers = {(segment.name, segment.inode): number for number, segment in enumerate(self._segments)}
        for found in self._files.segments():
            number = numbers.get((found.name, found.inode), len(self._segments))
            start = len(self._segments[number].rows) if number < len(self._segments) else 0
            if found.frames(self.meta.row_bytes) <= start:
                continue
            if (content := self._files.read(found, start, self.meta)) is None:
                continue  # pruned by another process; what is mapped stays readable
            keys, rows = content
            self._segments[number : number + 1] = [_Mapped(found.name, found.inode, rows)]
            which, _ = distinct(keys)  # in a damaged file equal ones may stand, which take the index quadratic time
            which = which[keys[which].any(axis=1)]  # zeros: not on the disk yet when the power went
            self._index.insert(keys[which], (number << _ROW_BITS) + start + which)

    def _divide_by_norms(self, values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Take out of values, shape (N, K), how rounding has changed the rows' norms."""
        return values / torch.linalg.vector_norm(rows, dim=1, keepdim=True) if self._dtype.itemsize == 2 else values

    def _blocks(self, places: npt.NDArray[np.int64]) -> Iterator[tuple[npt.NDArray[np.int64], torch.Tensor]]:
        """Yield (which of the places, their rows in float32), a block of one segment at a time.

        The rows are in the same memory each time: new memory for each block takes longer than widening it.
        """
        order = np.argsort(places, kind="stable")  # neighbours on the disk are read together
        numbers, local = places[order] >> _ROW_BITS, places[order] & ((1 << _ROW_BITS) - 1)
        step = max(1, _BLOCK // self.meta.dim)
        wide = torch.empty((min(step, len(places)), self.meta.dim))
        first_of_segments = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
        for begin, end in itertools.pairwise([*first_of_segments, len(places)]):
            rows = self._segments[numbers[begin]].rows
            for start in range(begin, end, step):
                part = local[start : min(start + step, end)]
                run = bool((np.diff(part) == 1).all())
                block = rows[part[0] : part[-1] + 1] if run else rows[part]
                yield order[start : start + len(part)], wide[: len(part)].copy_(torch.from_numpy(np.asarray(block)))
