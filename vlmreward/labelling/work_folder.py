"""The folder of a labelling job: a journal of shards, each of which is there whole or not at all.

``frames-<layout>/`` says which frame of a shard has which content, so that another goal needs no picture;
``labels-<run>/`` holds one goal's labels. Embeddings are in a store of their own.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import weakref
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmreward.atomic import storage_errors, temporary_pattern, write_bytes
from vlmreward.encoders.frame_hash import Keys
from vlmreward.errors import StorageError
from vlmreward.types import BoolArray, FloatArray


@dataclass(frozen=True)
class FrameRecord:
    """What is kept of a shard's frames: content hashes, uint64, shape (N, 2), and why rows have none."""

    keys: Keys
    reasons: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelRecord:
    """Labels of a shard's frames, each judged by itself; N rows.

    Attributes:
        reward: float32, shape (N,); NaN where invalid.
        valid: bool, shape (N,).
        success: float32 in [0, 1], shape (N,); NaN where the model gives none.
        progress: float32 in [0, 1], shape (N,); NaN where invalid.
        reasons: Why rows are invalid.
    """

    reward: FloatArray
    valid: BoolArray
    success: FloatArray
    progress: FloatArray
    reasons: Mapping[int, str] = field(default_factory=dict)


LOCK = ".lock"
"""File in the job's folder that every process that works there has a shared lock on."""


class WorkFolder:
    """Reads and writes the shards of one dataset's camera and, within it, of one labelling run.

    Args:
        path: The job's folder.
        layout: Of :func:`vlmreward.labelling.plan.layout_key`.
        run: Hash of everything that decides the labels.

    Attributes:
        path: As given.
        layout: As given.
        labels: Folder of the run's labels.
    """

    def __init__(self, path: Path, layout: str, run: str) -> None:
        self.path, self.layout = path, layout
        self._frames = path / f"frames-{layout}"
        self.labels = path / f"labels-{run}"

    def begin(self) -> None:
        """Mark the folder as in use while this object lives, and remove what a kill left half-written.

        Several processes may work in one folder, for several goals. What looks half-written may be what another one is
        writing, and stays then; whoever begins when nobody else is there removes it.

        Raises:
            StorageError: The folder can't be written.
        """
        with storage_errors(self.path, making=True):
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / LOCK, os.O_CREAT | os.O_RDWR)
        weakref.finalize(self, os.close, descriptor)
        if self._lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB):
            for folder in (self._frames, self.labels):
                for left in folder.glob(temporary_pattern(Path("shard.npz")).replace("shard", "*")):
                    left.unlink(missing_ok=True)
        self._lock(descriptor, fcntl.LOCK_SH)  # waits for another process that is removing

    def _lock(self, descriptor: int, how: int) -> bool:
        """Return whether the lock was got: not where another holds it, or where the file system has no locks."""
        try:
            fcntl.flock(descriptor, how)
        except OSError:
            return False
        return True

    def read_frames(self, shard: int) -> FrameRecord | None:
        """Return what is kept of a shard's frames; None if it isn't done."""
        found = _read(self._frames / _name(shard))
        return None if found is None else FrameRecord(found["keys"], _reasons(found))

    def write_frames(self, shard: int, record: FrameRecord) -> None:
        """Keep a shard's frames.

        Raises:
            StorageError: The disk is full, or the folder can't be written.
        """
        _write(self._frames / _name(shard), {"keys": record.keys}, record.reasons)

    def read_labels(self, shard: int) -> LabelRecord | None:
        """Return a shard's labels; None if it isn't done."""
        found = _read(self.labels / _name(shard))
        if found is None:
            return None
        return LabelRecord(found["reward"], found["valid"], found["success"], found["progress"], _reasons(found))

    def write_labels(self, shard: int, record: LabelRecord) -> None:
        """Keep a shard's labels.

        Raises:
            StorageError: The disk is full, or the folder can't be written.
        """
        arrays = {name: getattr(record, name) for name in ("reward", "valid", "success", "progress")}
        _write(self.labels / _name(shard), arrays, record.reasons)


def _name(shard: int) -> str:
    return f"{shard:06d}.npz"


def _reasons(found: Mapping[str, npt.NDArray[Any]]) -> dict[int, str]:
    return {int(row): reason for row, reason in json.loads(bytes(found["reasons"]).decode()).items()}


def _read(path: Path) -> dict[str, npt.NDArray[Any]] | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as e:
        raise StorageError(
            f"{path} can't be read ({' '.join(str(e).split())}): delete it, and its shard is done again"
        ) from e


def _write(path: Path, arrays: Mapping[str, npt.NDArray[Any]], reasons: Mapping[int, str]) -> None:
    text = json.dumps({str(row): reasons[row] for row in sorted(reasons)})
    content = io.BytesIO()
    np.savez(content, reasons=np.frombuffer(text.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    write_bytes(path, content.getvalue())
