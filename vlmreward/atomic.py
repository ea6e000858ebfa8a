"""Write a file so that a reader finds the whole of it or nothing."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from vlmreward.errors import StorageError

# What the operating system says of a place that takes no file.
DISK_FULL = {
    errno.ENOSPC: "no room left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than the limit allows",
}
PLACE_REFUSED = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder",
    errno.ENOENT: "there can be no such file",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a link of the path leads back to itself",
}


def storage_error(path: Path, number: int) -> StorageError:
    """Return the one-line error for a file that can't be written.

    Args:
        path: The file that was asked for.
        number: The operating system's error number.
    """
    reason = {**DISK_FULL, **PLACE_REFUSED}.get(number, os.strerror(number).lower())
    advice = "choose another path" if number in PLACE_REFUSED else "free some room or choose another folder"
    return StorageError(f"can't write {path}: {reason}; {advice}")


@contextlib.contextmanager
def storage_errors(path: Path, making: bool = False) -> Iterator[None]:
    """Turn the operating system's refusals to write into one line about ``path``.

    Args:
        path: The file or folder that was asked for.
        making: The block makes files only: a missing one means that the place takes none, as in ``/proc``.

    Raises:
        StorageError: The disk is full or read-only, or the folder can't be written.
    """
    try:
        yield
    except OSError as e:
        if e.errno in (*DISK_FULL, *PLACE_REFUSED) and (making or e.errno != errno.ENOENT):
            raise storage_error(path, e.errno) from e
        raise


def check_writable(path: Path) -> None:
    """Refuse a file that can't be written, so that this is told before hours of work; nothing is left or made.

    Raises:
        StorageError: The name belongs to a folder, or its folder can't be made or written.
    """
    with storage_errors(path, making=True):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = path.parent
        while not folder.exists():
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):  # some file systems refuse although the permissions are there
            pass


def temporary_pattern(path: Path) -> str:
    """Return the pattern of the names that temporary files of ``path`` have, for whoever removes what a kill left."""
    return f".{glob.escape(path.stem)}.{'[0-9a-f]' * 8}.tmp{glob.escape(path.suffix)}"


def open_temporary(path: Path, folder: bool = False) -> Path:
    """Make an empty file or folder beside the wanted one, in a folder that is made when missing.

    Returns:
        Its path; the suffix is that of ``path``.

    Raises:
        StorageError: The folder can't be written.
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.tmp{path.suffix}")
    with storage_errors(path, making=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        if folder:
            temporary.mkdir()
        else:
            temporary.touch()
    return temporary


def commit(temporary: Path, path: Path) -> None:
    """Flush a temporary file or folder to the disk and give it its name.

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
