"""Keep the pictures of episodes on disk until the film is written: 70 MB an episode at 480 pixels would fill memory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from typing import Self

import numpy as np

from vlmreward.errors import FramesError, StorageError
from vlmreward.types import Frames


@contextlib.contextmanager
def _no_room() -> Iterator[None]:
    """Tell what to do about a temporary directory that can't take the pictures."""
    try:
        yield
    except OSError as e:
        reason = (e.strerror or str(e)).lower()
        raise StorageError(
            f"pictures can't be kept in {tempfile.gettempdir()} ({reason}): set TMPDIR to a folder with room, "
            "about 70 MB an episode at size=480"
        ) from e


class FrameSpool:
    """Holds pictures, episode after episode, in one file without a name; use it in a ``with`` block.

    The file lies in the temporary directory (``TMPDIR``) and is gone with the process, however that ends. What
    ``episode`` returns reads from it, and stays valid after the block.

    Raises:
        StorageError: The temporary directory is full or can't be written.
        FramesError: A picture has another size than the first of its episode.
    """

    def __init__(self) -> None:
        with _no_room():
            self._file = tempfile.TemporaryFile(prefix="vlmreward-")  # noqa: SIM115 (closed by close())
        self._starts: list[int] = []  # offset of each episode in the file
        self._counts: list[int] = []
        self._shapes: list[tuple[int, ...]] = []

    def __enter__(self) -> Self:
        """Return the spool."""
        return self

    def __exit__(self, *error: object) -> None:
        """Give the disk's room back, as soon as no episode is in use."""
        self.close()

    def __len__(self) -> int:
        """Return the number of episodes."""
        return len(self._starts)

    def start(self) -> None:
        """Begin an episode."""
        self._starts.append(self._file.tell())
        self._counts.append(0)
        self._shapes.append(())

    def add(self, frame: Frames) -> None:
        """Add one picture, RGB, uint8, shape (H, W, 3), to the episode begun last."""
        if not self._counts[-1]:
            self._shapes[-1] = frame.shape
        if frame.shape != self._shapes[-1]:
            raise FramesError(f"all pictures of an episode must be {self._shapes[-1]}, got {frame.shape}")
        with _no_room():
            self._file.write(np.ascontiguousarray(frame, dtype=np.uint8).data)
        self._counts[-1] += 1

    def episode(self, number: int) -> Frames:
        """Return the pictures of an episode, uint8, shape (T, H, W, 3), read from the disk when they are used."""
        with _no_room():
            self._file.flush()
        shape = (self._counts[number], *self._shapes[number])
        return np.memmap(self._file, np.uint8, "r", self._starts[number], shape)

    def close(self) -> None:
        """Close the file; episodes that were returned keep it until they are gone themselves."""
        self._file.close()
