"""Save a replay buffer in chunks: each checkpoint writes only the rows that are new since the last one.

A row's number counts every ``add`` since the run began, so a row keeps its number when the ring wraps. Rows that a
later ``add`` overwrote are left out when a chunk is read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.agents.checkpoint import REPLAY, StoredFile, describe_file, sync
from vlmreward.errors import CheckpointError, StorageError

CHUNK_ROWS = 50_000


class ReplayChunks:
    """Writes and reads the rows of one buffer.

    Args:
        folder: ``<run folder>/checkpoints``.
        buffer: An SB3 ``ReplayBuffer``; every array with ``buffer_size`` rows is saved, inside dicts too.
    """

    def __init__(self, folder: Path, buffer: Any) -> None:
        self.folder = folder
        self.buffer = buffer
        self.cuts: list[int] = []
        self._chunks: list[tuple[int, int, StoredFile]] = []
        self._saved = 0  # rows on disk
        self._rounds, self._last_pos = 0, int(buffer.pos)

    def total(self) -> int:
        """Return how many rows were added since the run began.

        The buffer counts only its position; it has gone round when the position is behind the last one seen, so this
        is called at least once per round (`follow`).
        """
        self.follow()
        return self._rounds * int(self.buffer.buffer_size) + int(self.buffer.pos)

    def follow(self) -> None:
        """Notice that the ring has wrapped."""
        position = int(self.buffer.pos)
        if position < self._last_pos:
            self._rounds += 1
        self._last_pos = position

    def save(self) -> tuple[dict[str, Any], list[StoredFile]]:
        """Write the new rows.

        Returns:
            What ``load`` needs, and the files that hold the rows still in the buffer.

        Raises:
            StorageError: A chunk can't be written.
        """
        total, size = self.total(), int(self.buffer.buffer_size)
        first = max(self._saved, total - size, 0)
        for start in range(first, total, CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, total)
            self._chunks.append((start, stop, self._write(start, stop)))
        self._saved = total
        self._chunks = [chunk for chunk in self._chunks if chunk[1] > total - size]
        self.cuts = [row for row in self.cuts if row >= total - size]
        state = {
            "total": total,
            "rounds": self._rounds,
            "chunks": [[start, stop, file.name] for start, stop, file in self._chunks],
            "cuts": self.cuts,
            "size": size,
        }
        return state, [file for _, _, file in self._chunks]

    def load(self, state: dict[str, Any], shared: list[StoredFile]) -> None:
        """Fill the buffer, and end the trajectories that were cut when the run stopped.

        Args:
            state: What ``save`` returned.
            shared: The checkpoint's files, already verified.

        Raises:
            CheckpointError: The chunks belong to a buffer of another shape.
        """
        size, total = int(self.buffer.buffer_size), int(state["total"])
        if size != state["size"]:
            raise CheckpointError(f"the replay buffer holds {state['size']} rows, the config says {size}")
        files = {file.name: file for file in shared}
        arrays = ring_arrays(self.buffer)
        self._chunks = []
        for start, stop, name in state["chunks"]:
            with np.load(self.folder / name, allow_pickle=False) as chunk:
                first = max(start, total - size, 0)
                rows = np.arange(first, stop) % size
                for key, array in arrays.items():
                    if key not in chunk.files or chunk[key].shape[1:] != array.shape[1:]:
                        raise CheckpointError(f"{self.folder / name} does not fit the buffer's {key} {array.shape}")
                    array[rows] = chunk[key][first - start :]
            self._chunks.append((start, stop, files[name]))
        self._saved, self._rounds = total, int(state["rounds"])
        self.buffer.pos, self.buffer.full = total % size, total >= size
        self._last_pos = self.buffer.pos
        # The environments start anew, so the newest row is the last of its episode: n-step returns must not go on.
        # It is not a true end, so it counts as a time limit.
        self.cuts = [int(row) for row in state["cuts"]]
        if total > 0 and total - 1 not in self.cuts:
            self.cuts.append(total - 1)
        for row in self.cuts:
            ended = self.buffer.dones[row % size].astype(bool)
            self.buffer.timeouts[row % size] = np.where(ended, self.buffer.timeouts[row % size], True)

    def _write(self, start: int, stop: int) -> StoredFile:
        rows = np.arange(start, stop) % int(self.buffer.buffer_size)
        # the name is new each time: a chunk that some checkpoint refers to is never written again
        name = f"{REPLAY}/rows_{start:012d}_{stop:012d}_{os.urandom(4).hex()}.npz"
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                np.savez(file, **{key: array[rows] for key, array in ring_arrays(self.buffer).items()})  # type: ignore[arg-type]
            sync(path)
            sync(path.parent)
        except OSError as e:
            path.unlink(missing_ok=True)
            raise StorageError(
                f"replay rows can't be written to {path.parent} ({(e.strerror or str(e)).lower()}): free some space, "
                "the previous checkpoint is intact"
            ) from e
        return describe_file(path, name)


def ring_arrays(buffer: Any) -> dict[str, np.ndarray]:
    """Return every array of a buffer that has one row per transition, by name (``observations``, ``rewards``, ...)."""
    found: dict[str, np.ndarray] = {}
    for name, value in vars(buffer).items():
        members = {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
        for key, array in members.items():
            if isinstance(array, np.ndarray) and array.ndim > 0 and array.shape[0] == buffer.buffer_size:
                found[key] = array
    return found
