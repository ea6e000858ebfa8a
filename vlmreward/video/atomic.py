"""Write a file so that a reader finds the whole of it or nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from vlmreward.errors import StorageError

_REASONS = {
    errno.ENOSPC: "no room left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the limit allows",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder",
}


def storage_error(path: Path, number: int) -> StorageError:
    """Return the one-line error for a file that can't be written.

    Args:
        path: The file that was asked for.
        number: The operating system's error number.
    """
    reason = _REASONS.get(number, os.strerror(number))
    return StorageError(f"can't write {path}: {reason}; free some room or choose another folder")


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into one line about ``path``.

    Raises:
        StorageError: The disk is full or read-only, or the folder can't be written.
    """
    try:
        yield
    except OSError as e:
        if e.errno in _REASONS:
            raise storage_error(path, e.errno) from e
        raise


def open_temporary(path: Path) -> Path:
    """Make an empty file beside the wanted one, in a folder that is made when missing.

    Returns:
        Its path; the suffix is that of ``path``.

    Raises:
        StorageError: The folder can't be written.
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    return temporary


def commit(temporary: Path, path: Path) -> None:
    """Flush a temporary file to the disk and give it its name.

    Raises:
        StorageError: The disk is full, or the name belongs to a folder.
    """
    with storage_errors(path):
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)  # the new name, too, survives a power cut


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside the wanted one, and rename it when the block ends well.

    Whatever goes wrong, the temporary file is removed and a file that stood at ``path`` before is left
    as it was.

    Args:
        path: The file to write; its folder is made when missing.

    Yields:
        The path of an empty file in the same folder, with the same suffix.

    Raises:
        StorageError: The disk is full or read-only, or the folder can't be written.
    """
    temporary = open_temporary(path)
    try:
        with storage_errors(path):
            yield temporary
        commit(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a whole file, or nothing.

    Raises:
        StorageError: The disk is full or read-only, or the folder can't be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
