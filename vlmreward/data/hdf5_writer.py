"""What writers of new HDF5 datasets share: a file that gets its name when it is whole, and compressed pictures."""

from __future__ import annotations

import contextlib
import shutil
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vlmreward.atomic import open_temporary, storage_errors
from vlmreward.data.dataset import Frame
from vlmreward.data.recording import Shapes
from vlmreward.errors import ConfigError, DatasetError
from vlmreward.optional import require_package


class Hdf5Writer:
    """A new file under a temporary name beside the one it will have.

    What is written is removed when the object goes without having been finished; a kill leaves the temporary file.

    Args:
        root: Where the dataset will be.
        path: The file in it, or itself.
        fps: Rows a second.

    Raises:
        ConfigError: ``fps`` is not a number above 0.
        DatasetError: Something is there already.
        StorageError: The folder can't be written.
    """

    def __init__(self, root: Path, path: Path, fps: float) -> None:
        h5py = require_package("h5py", "data")
        if not 0 < fps <= 1e6:
            raise ConfigError(f"fps must be a number above 0, got {fps!r}")
        check_empty(root)
        self._path = path.absolute()
        # beside the root, not in it: there is no folder of the dataset's name before the dataset is whole
        place = root.absolute()
        beside = self._path if root == path else place.with_name(place.name + self._path.suffix)
        self._temporary = open_temporary(beside)
        self._cleanup = weakref.finalize(self, remove_quietly, self._temporary)
        with storage_errors(self._temporary):
            self._file = h5py.File(self._temporary, "w", locking=False)
        self._shapes: Shapes | None = None
        self._sizes: dict[str, tuple[int, int]] = {}
        self._count = 0

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

    def _close(self) -> None:
        self._file.close()


def check_empty(root: Path) -> None:
    """Refuse a place for a new dataset where something is.

    Raises:
        DatasetError: It is a file, or a folder that isn't empty.
    """
    if root.is_dir() and any(root.iterdir()):
        raise DatasetError(f"{root} is not empty: give a place for the new dataset")
    if root.exists() and not root.is_dir():
        raise DatasetError(f"{root} exists: give a place for the new dataset")


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


def remove_quietly(path: Path) -> None:
    """Remove a file or folder that nobody was promised."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
