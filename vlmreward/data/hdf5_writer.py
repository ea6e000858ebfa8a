"""What writers of new HDF5 datasets share: a file that gets its name when it is whole, and compressed pictures."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlmreward.atomic import storage_errors
from vlmreward.data.dataset import Frame, Recording
from vlmreward.data.recording import Shapes, check_fps, check_pictures, check_recording
from vlmreward.data.staging import Staged
from vlmreward.errors import ConfigError
from vlmreward.optional import require_package
from vlmreward.types import FloatArray


class Hdf5Writer(ABC):
    """A new file under a temporary name beside the one it will have.

    What is written is removed when the object goes without having been finished; what a kill leaves, when the next one
    of the same name begins.

    Args:
        root: Where the dataset will be.
        path: The file in it, or itself.
        fps: Rows a second.

    Raises:
        ConfigError: ``fps`` is not a number above 0.
        DatasetError: Something is there already.
        StorageError: The folder can't be written.
    """

    _reward_dtype: ClassVar[type[np.floating]]

    def __init__(self, root: Path, path: Path, fps: float) -> None:
        h5py = require_package("h5py", "data")
        check_fps(fps)
        self._root, self._path = root.absolute(), path.absolute()
        self._staged = Staged(self._root, self._path.suffix)
        with storage_errors(self._path):
            self._file = h5py.File(self._staged.path, "w", locking=False)
        self._shapes: Shapes | None = None
        self._sizes: dict[str, tuple[int, int]] = {}
        self._count = self._rows = 0

    def add(self, recording: Recording) -> None:
        """Write one episode; see :class:`~vlmreward.data.dataset.EpisodeWriter`.

        Raises:
            ConfigError: Its shapes differ from those of the first one, or it has no rows.
            StorageError: The disk is full.
        """
        self._check_open()
        shapes, seen, action = check_recording(recording, self._shapes)
        with storage_errors(self._path), self._whole(*self._place()) as group:
            group.attrs["has_rewards"] = recording.reward is not None
            if recording.success is not None:
                group.attrs["success"] = bool(recording.success)
            group["actions"] = action
            reward = np.zeros(len(action)) if recording.reward is None else recording.reward
            group["rewards"] = np.asarray(reward, dtype=self._reward_dtype)
            self._write(group, recording, seen)
            for camera in recording.frames:
                pictures = check_pictures(recording, camera, self._sizes.get(camera))
                self._sizes[camera] = write_pictures(group, pictures, self._picture_places(camera, len(action)))
        self._shapes = shapes
        self._count += 1
        self._rows += len(action)

    def finish(self) -> None:
        """Write what makes it a whole dataset; see :class:`~vlmreward.data.dataset.EpisodeWriter`.

        Raises:
            ConfigError: No episode was added.
        """
        self._check_open()
        if not self._count:
            raise ConfigError(f"{self._root.name} would hold no episode: add one before finishing")
        with storage_errors(self._path):
            self._complete()
            self._file.close()
        self._staged.commit(self._path)

    @abstractmethod
    def _place(self) -> tuple[Any, str]:
        """Return the group that episodes stand in, and the name of the next one."""

    @abstractmethod
    def _write(self, group: Any, recording: Recording, seen: FloatArray) -> None:
        """Write what a format has of its own; ``seen`` are the observations, float32, shape (T + 1, D)."""

    @abstractmethod
    def _picture_places(self, camera: str, rows: int) -> Sequence[tuple[str, int, int]]:
        """Return where the pictures of a camera go; see :func:`write_pictures`."""

    def _complete(self) -> None:  # noqa: B027 (most formats have nothing to add)
        """Write what needs all episodes."""

    @contextlib.contextmanager
    def _whole(self, parent: Any, name: str) -> Iterator[Any]:
        """Give a new group, which is taken away again when the block fails."""
        group = parent.create_group(name)
        try:
            yield group
        except BaseException:
            del parent[name]
            raise

    def _check_open(self) -> None:
        if not self._file:
            raise ConfigError(f"{self._path.name} was finished: write a new dataset")


def write_pictures(group: Any, pictures: Iterable[Frame], places: Sequence[tuple[str, int, int]]) -> tuple[int, int]:
    """Write pictures as they come, compressed without loss.

    Args:
        group: Where to.
        pictures: uint8 (H, W, 3), all of one size.
        places: Datasets below the group, each with the number of the first picture it takes and their count.

    Returns:
        Height and width.
    """
    nodes: list[Any] = []
    size = (0, 0)
    for number, picture in enumerate(pictures):
        if not nodes:
            size = picture.shape[:2]
            nodes = [
                group.create_dataset(
                    name,
                    shape=(count, *picture.shape),
                    dtype="u1",
                    chunks=(1, *picture.shape),
                    compression="gzip",
                    compression_opts=1,
                )
                for name, _, count in places
            ]
        for node, (_, first, count) in zip(nodes, places, strict=True):
            if first <= number < first + count:
                node[number - first] = picture
    return size
