"""A new dataset under a temporary name beside its own, which it gets when it is whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import weakref
from pathlib import Path

from vlmreward.atomic import commit, open_temporary, storage_errors, temporary_pattern
from vlmreward.errors import DatasetError


class Staged:
    """A file or folder of a new dataset, locked while it is written, and removed unless it gets its name.

    What a kill left of an earlier one is removed first. Where the file system has no locks, nobody can tell that its
    writer is gone, and it stays.

    Args:
        root: Where the dataset will be; not there, or a folder without a file in it.
        suffix: Of the file that is written, e.g. ``".hdf5"``; "" writes a folder.

    Attributes:
        path: What is written now: an empty file or folder.

    Raises:
        DatasetError: Something is at ``root``, or another writer is at work there.
        StorageError: The place can't be written.
    """

    def __init__(self, root: Path, suffix: str = "") -> None:
        check_empty(root)
        self._root = root
        # beside the root, not in it: there is no folder of the dataset's name before the dataset is whole
        wanted = root if not suffix or root.suffix == suffix else root.with_name(root.name + suffix)
        _remove_left(wanted)
        self.path, descriptor = _make(wanted, folder=not suffix)
        self._cleanup = weakref.finalize(self, _discard, self.path, descriptor)

    @property
    def is_open(self) -> bool:
        """Whether it has no name yet."""
        return self._cleanup.alive

    def commit(self, path: Path | None = None) -> None:
        """Give it its name, on the disk.

        Args:
            path: A file in the root; None is the root itself.

        Raises:
            DatasetError: Something is at the root by now.
            StorageError: The disk is full, or the place can't be written.
        """
        check_empty(self._root)
        path = path or self._root
        with storage_errors(path, making=True):
            if path == self._root and path.is_dir():
                _remove_empty(path)
            path.parent.mkdir(parents=True, exist_ok=True)
        commit(self.path, path)
        self._cleanup()  # unlocks it; there is nothing of the old name to remove


def check_empty(root: Path) -> None:
    """Refuse a place for a new dataset where something is.

    Raises:
        DatasetError: It is a file, or a folder with a file anywhere in it.
    """
    if is_taken(root):
        why = "is not empty" if root.is_dir() else "exists"
        raise DatasetError(f"{root} {why}: give a place for the new dataset")


def is_taken(root: Path) -> bool:
    """Return whether there is a file at or below a place; empty folders may be left of a commit that was cut short."""
    return any(not path.is_dir() for path in root.rglob("*")) if root.is_dir() else root.exists()


def _open(path: Path) -> int:
    return os.open(path, os.O_NOFOLLOW | (os.O_RDONLY if path.is_dir() else os.O_RDWR))


def _make(wanted: Path, folder: bool) -> tuple[Path, int]:
    """Make a temporary file or folder and lock it; returns its path, and what holds the lock."""
    while True:
        path = open_temporary(wanted, folder)
        try:
            descriptor = _open(path)
        except FileNotFoundError:
            continue  # between the two lines, another process that begins took it for left over
        with contextlib.suppress(OSError):  # the file system has no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            return path, descriptor
        os.close(descriptor)


def _remove_left(wanted: Path) -> None:
    for left in wanted.parent.glob(temporary_pattern(wanted)):
        try:
            descriptor = _open(left)
        except OSError:
            continue  # it has got its name meanwhile, or is another user's
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise DatasetError(f"{wanted} is being written by another: wait for it, or give another place") from e
        except OSError:
            continue  # the file system has no locks
        else:
            _remove(left)
        finally:
            os.close(descriptor)


def _discard(path: Path, descriptor: int) -> None:
    _remove(path)
    os.close(descriptor)


def _remove_empty(root: Path) -> None:
    """Remove a folder's folders, which are empty."""
    for folder in sorted(root.rglob("*"), reverse=True):
        folder.rmdir()


def _remove(path: Path) -> None:
    """Remove a file or folder that nobody was promised."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
