"""Change a large file so that a reader, or whoever comes after a crash, finds all of the change or nothing.

HDF5 can't be changed in place safely: a process that is killed while it writes leaves a file that nobody can open. So
the file is copied beside itself, the copy is changed, and takes the file's place. File systems that can share blocks
(btrfs, XFS, bcachefs) make the copy in no time and no room; others need as much room as the file takes, which is looked
for before.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from vlmreward.atomic import commit, storage_errors
from vlmreward.errors import DatasetError, StorageError

_SHARE_BLOCKS = 0x40049409  # ioctl FICLONE of Linux
_MARGIN = 16 << 20


@contextlib.contextmanager
def rewriting(path: Path, more: int = 0) -> Iterator[Path]:
    """Give a copy of a file to change, which takes the file's place when the block ends well.

    One process at a time: the copy always has the same name and is locked; what a kill has left of an earlier one is
    overwritten.

    Args:
        path: The file; no link.
        more: By how many bytes it will grow.

    Yields:
        The copy, in the same folder.

    Raises:
        DatasetError: Another process is changing the file.
        StorageError: There is no room for a copy, or the folder can't be written.
    """
    copy = leftover(path)
    with storage_errors(copy, making=True):
        descriptor = _lock(copy, path)
    try:
        with storage_errors(path):
            _fill(path, copy, descriptor, more)
            yield copy
        commit(copy, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(copy), os.fstat(descriptor)):  # by now it may be that of the next process
                copy.unlink()
        os.close(descriptor)


def leftover(path: Path) -> Path:
    """Return the name of the copy of a file that is being changed."""
    return path.with_name(f".{path.stem}.vlmreward.tmp{path.suffix}")


def _lock(copy: Path, path: Path) -> int:
    """Open the copy, empty or not, as its only owner.

    Raises:
        DatasetError: Another process has it.
    """
    while True:
        descriptor = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # between opening and locking, its owner may have given it the name of the file: it must not be touched
            if copy.exists() and os.path.samestat(os.stat(copy), os.fstat(descriptor)):
                return descriptor
        except BlockingIOError as e:
            os.close(descriptor)
            raise DatasetError(f"another process is writing labels into {path.name}: wait until it is done") from e
        os.close(descriptor)


def _fill(path: Path, copy: Path, descriptor: int, more: int) -> None:
    os.ftruncate(descriptor, 0)
    with path.open("rb") as source:
        try:
            fcntl.ioctl(descriptor, _SHARE_BLOCKS, source.fileno())
        except OSError:  # another file system: a real copy
            size, free = path.stat().st_size, shutil.disk_usage(path.parent).free
            if size + more + _MARGIN > free:
                raise StorageError(
                    f"changing {path.name} needs {(size + more) / 1e9:.2f} GB beside it for a copy, "
                    f"{free / 1e9:.2f} GB are free: free some room"
                ) from None
            with open(descriptor, "r+b", closefd=False) as target:
                shutil.copyfileobj(source, target, 16 << 20)
    shutil.copystat(path, copy)
