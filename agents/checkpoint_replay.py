"""Save a replay buffer in chunks: each checkpoint writes only the rows that are new since the last one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vlmreward.agents.checkpoint import REPLAY, StoredFile, describe_file, sync
from vlmreward.errors import CheckpointError, StorageError


class RowStore(Protocol):
    """A replay buffer that hands out its rows and takes them back, as ours do."""

    buffer_size: int
    n_added: int

    def rows_since(self, n_added: int) -> dict[str, np.ndarray]:
        """Return the rows added after the first ``n_added``; ``first`` is the number of the first one."""
        ...

    def restore_rows(self, arrays: dict[str, np.ndarray]) -> None:
        """Append rows that ``rows_since`` returned."""
        ...


class ReplayChunks:
    """Writes and reads the rows of one buffer.

    Args:
        folder: ``<run folder>/checkpoints``.
        buffer: The buffer; empty if it is to be loaded.
    """

    def __init__(self, folder: Path, buffer: RowStore) -> None:
        self.folder = folder
        self.buffer = buffer
        self._chunks: list[tuple[int, StoredFile]] = []  # (number of the row after the last, file), oldest first
        self._saved = 0  # rows on disk, counted since the run began

    def save(self) -> tuple[dict[str, Any], list[StoredFile]]:
        """Write the new rows.

        Returns:
            What ``load`` needs, and the files that hold the rows still in the buffer.

        Raises:
            StorageError: A chunk can't be written.
        """
        arrays = self.buffer.rows_since(self._saved)
        first, count = int(arrays["first"]), len(arrays["actions"])
        if count:
            self._chunks.append((first + count, self._write(arrays, first, first + count)))
            self._saved = first + count
        oldest = self.buffer.n_added - self.buffer.buffer_size
        self._chunks = [chunk for chunk in self._chunks if chunk[0] > oldest]
        return {"chunks": [[stop, file.name] for stop, file in self._chunks]}, [file for _, file in self._chunks]

    def load(self, state: dict[str, Any], shared: list[StoredFile]) -> None:
        """Fill the empty buffer.

        Args:
            state: What ``save`` returned.
            shared: The checkpoint's files, already verified.

        Raises:
            CheckpointError: A chunk can't be read, or belongs to a buffer of another shape.
        """
        files = {file.name: file for file in shared}
        for stop, name in state["chunks"]:
            try:
                with np.load(self.folder / name, allow_pickle=False) as chunk:
                    arrays = {key: chunk[key] for key in chunk.files}
            except (OSError, ValueError, KeyError) as e:
                raise CheckpointError(f"replay rows {self.folder / name} can't be read ({e}): train again") from e
            self.buffer.restore_rows(arrays)
            self._chunks.append((int(stop), files[name]))
            self._saved = int(stop)

    def _write(self, arrays: dict[str, np.ndarray], first: int, stop: int) -> StoredFile:
        # the name is new each time: a chunk that some checkpoint refers to is never written again
        name = f"{REPLAY}/rows_{first:012d}_{stop:012d}_{os.urandom(4).hex()}.npz"
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]  # the stub takes allow_pickle for an array
            sync(path)
            sync(path.parent)
        except OSError as e:
            path.unlink(missing_ok=True)
            raise StorageError(
                f"replay rows can't be written to {path.parent} ({(e.strerror or str(e)).lower()}): free some space, "
                "the previous checkpoint is intact"
            ) from e
        return describe_file(path, name)
