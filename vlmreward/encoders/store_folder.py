"""The folder of an embedding store: what it holds, its segments, and the lock by which its writers take turns.

``store.json`` says whose embeddings these are. A segment is a pair of files that only grow: ``<number>-<random>.rows``
holds embeddings, ``.keys`` the hashes of the frames they are of. A row is written before its key, so what a killed
writer leaves half written has no key, is seen by nobody, and is cut off by the next one. Nothing here loads torch.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import mmap
import os
import re
import stat
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import numpy as np

from vlmreward.encoders.frame_hash import KEY_BYTES
from vlmreward.errors import ConfigError, StorageError
from vlmreward.types import Keys

Dtype = Literal["float16", "float32"]

VERSION = 1
META, LOCK = "store.json", ".lock"
_SEGMENT_FILE = re.compile(r"(\d{8}-[0-9a-f]{8})\.(rows|keys)")


@dataclass(frozen=True)
class StoreMeta:
    """Whose embeddings a store holds, and in which form; ``store.json``.

    Attributes:
        encoder: The encoder's ``id``.
        precision: Number format of its image tower, which its id does not tell; None if the encoder has none.
        dim: Length of an embedding.
        dtype: ``"float16"`` or ``"float32"``.
        runtime: Engine of its image tower, which its id does not tell either; None if the encoder has none.
        version: Of the files' form.

    Raises:
        ConfigError: There is no such dtype or length.
    """

    encoder: str
    precision: str | None
    dim: int
    dtype: Dtype
    runtime: str | None = None
    version: int = VERSION

    def __post_init__(self) -> None:
        """Check the fields."""
        texts = self.encoder, self.precision or "", self.runtime or ""
        if not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"encoder, precision and runtime must be names, got {texts}")
        if self.dtype not in ("float16", "float32"):
            raise ConfigError(f"embeddings are stored as float16 or float32, got {self.dtype!r}: choose one of them")
        if type(self.dim) is not int or self.dim < 1:
            raise ConfigError(f"dim must be the length of an embedding, got {self.dim!r}")

    @property
    def name(self) -> str:
        """Name of the store's folder."""
        # quoted: an id may have a slash in it
        parts = (self.encoder, self.precision, self.runtime, self.dtype)
        return "__".join(quote(part, safe="") for part in parts if part)

    @property
    def row_bytes(self) -> int:
        """Size of an embedding on the disk."""
        return self.dim * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Segment:
    """A pair of files, as long as they were when they were looked at.

    Attributes:
        name: Their name without the suffix; names sort by age.
        rows_size: Bytes of the file of embeddings.
        keys_size: Bytes of the file of keys.
        written: When something was added last, seconds since 1970.
        inode: Of the file of embeddings, 0 if there is none: a file that was put in its place is another segment.
    """

    name: str
    rows_size: int
    keys_size: int
    written: float
    inode: int

    def frames(self, row_bytes: int) -> int:
        """Return how many frames have both a key and a row."""
        return min(self.keys_size // KEY_BYTES, self.rows_size // row_bytes)

    @property
    def size(self) -> int:
        """Bytes of both files."""
        return self.rows_size + self.keys_size


class StoreFolder:
    """A store's folder on disk.

    Args:
        path: The folder; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows_path(self, name: str) -> Path:
        """Return the file of a segment's embeddings."""
        return self.path / f"{name}.rows"

    def keys_path(self, name: str) -> Path:
        """Return the file of a segment's keys."""
        return self.path / f"{name}.keys"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from adding and removing; makes the folder. The lock ends with the process.

        Raises:
            StorageError: The folder can't be made, written or locked.
        """
        with self._told():
            descriptor = self._lock()
        try:
            yield
        finally:
            os.close(descriptor)

    def read_meta(self) -> StoreMeta | None:
        """Return what the store holds; None if there is no store.

        Raises:
            StorageError: ``store.json`` is damaged, of another version, or can't be read.
        """
        path = self.path / META
        with self._told("read"):
            try:
                with _opened(path, os.O_RDONLY) as descriptor, open(descriptor, "rb", closefd=False) as file:
                    content = file.read()
            except (FileNotFoundError, NotADirectoryError):
                return None
        try:
            found = json.loads(content)
            if found["version"] == VERSION:
                return StoreMeta(**found)
        except (ValueError, TypeError, KeyError, ConfigError) as e:
            raise StorageError(
                f"{path} is damaged: remove the folder {self.path}, its embeddings are then made again"
            ) from e
        raise StorageError(f"{path} is of version {found['version']!r}, not {VERSION}: choose another cache=...")

    def write_meta(self, meta: StoreMeta) -> None:
        """Write what the store holds, in one step; under the lock."""
        temporary = self.path / f"{META}.tmp"
        with self._told():
            with _opened(temporary) as descriptor:
                _cut(descriptor, 0)
                _write_at(descriptor, json.dumps(asdict(meta)).encode(), 0)
                os.fsync(descriptor)
            temporary.replace(self.path / META)

    def use(self) -> int:
        """Mark the store as in use while the process lives or until the returned descriptor is closed."""
        with self._told():
            descriptor = _open_to_lock(self.path / META)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        return descriptor

    def is_used_by(self, descriptor: int) -> bool:
        """Return whether a descriptor of :meth:`use` marks the store that is there now, not one that is gone."""
        with self._told("read"):
            try:
                return os.path.samestat(os.fstat(descriptor), os.lstat(self.path / META))
            except FileNotFoundError:
                return False

    def in_use(self) -> bool:
        """Return whether a process has the store open."""
        with self._told():
            try:
                descriptor = _open_to_lock(self.path / META)
            except FileNotFoundError:
                return False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            finally:
                os.close(descriptor)
            return False

    def segments(self) -> list[Segment]:
        """Return the segments, oldest first."""
        files: dict[str, dict[str, os.stat_result]] = {}
        with self._told("read"), contextlib.suppress(FileNotFoundError), os.scandir(self.path) as entries:
            for entry in entries:
                if (match := _SEGMENT_FILE.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        files.setdefault(match[1], {})[match[2]] = entry.stat(follow_symlinks=False)
        segments = []
        for name, file in sorted(files.items()):
            if keys := file.get("keys"):
                size, inode = (rows.st_size, rows.st_ino) if (rows := file.get("rows")) else (0, 0)
                segments.append(Segment(name, size, keys.st_size, keys.st_mtime, inode))
        return segments

    def read(self, segment: Segment, start: int, meta: StoreMeta) -> tuple[Keys, np.ndarray] | None:
        """Map a segment's embeddings, and read the keys of its frames from ``start`` on.

        Args:
            segment: As it was found.
            start: Number of frames whose keys are known.
            meta: The form of the rows.

        Returns:
            Keys, uint64, shape (N, 2); and all rows in the store's dtype, shape (start + N, D). None if the segment was
            removed or replaced meanwhile.

        Raises:
            StorageError: It can't be read.
        """
        frames = segment.frames(meta.row_bytes)
        with self._told("read"):
            try:
                with (
                    _opened(self.keys_path(segment.name), os.O_RDONLY) as keys_file,
                    _opened(self.rows_path(segment.name), os.O_RDONLY) as rows_file,
                ):
                    found = os.fstat(rows_file)
                    content = os.pread(keys_file, (frames - start) * KEY_BYTES, start * KEY_BYTES)
                    whole = len(content) == (frames - start) * KEY_BYTES and found.st_size >= frames * meta.row_bytes
                    if found.st_ino != segment.inode or not whole:
                        return None
                    # copied on write, although nothing is ever written to it: torch takes no read-only memory
                    mapped = mmap.mmap(rows_file, frames * meta.row_bytes, access=mmap.ACCESS_COPY)
            except FileNotFoundError:
                return None
        return np.frombuffer(content, np.uint64).reshape(-1, 2), np.frombuffer(mapped, meta.dtype).reshape(frames, -1)

    def append(self, name: str, start: int, rows: bytes, keys: bytes) -> None:
        """Write to a segment, which is made if it is not there; under the lock.

        Args:
            name: The segment.
            start: Number of frames it holds.
            rows: Embeddings, in the store's dtype.
            keys: Their keys.

        Raises:
            StorageError: The disk is full or can't be written; what was stored before is whole.
        """
        row_bytes = len(rows) // (len(keys) // KEY_BYTES)
        # keys are opened first: a segment without its file of keys would be seen by nobody, and never removed
        with self._told(), _opened(self.keys_path(name)) as keys_file, _opened(self.rows_path(name)) as rows_file:
            # keys whose rows are lost must not meet new rows, not even if this process is killed in between
            _cut(keys_file, start * KEY_BYTES)
            # nor old rows new keys: a row that is written over may be the old one after a power cut, a new one is zeros
            _cut(rows_file, start * row_bytes)
            _write_at(rows_file, rows, start * row_bytes)
            _write_at(keys_file, keys, start * KEY_BYTES)

    def cut(self, name: str, frames: int, row_bytes: int) -> None:
        """Leave a segment its first frames; under the lock, and no process may have mapped the others."""
        with self._told(), _opened(self.keys_path(name)) as keys_file, _opened(self.rows_path(name)) as rows_file:
            _cut(keys_file, frames * KEY_BYTES)  # first: a row without a key is seen by nobody
            _cut(rows_file, frames * row_bytes)

    def seal(self, name: str) -> None:
        """Wait until a segment is on the disk itself: only the newest segment can suffer a power cut."""
        with self._told(), _opened(self.rows_path(name)) as rows_file, _opened(self.keys_path(name)) as keys_file:
            os.fsync(rows_file)
            os.fsync(keys_file)
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)  # that the files are there is written in it
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def new_name(self) -> str:
        """Return a name for the next segment; never one that was there before."""
        segments = self.segments()
        number = int(segments[-1].name.partition("-")[0]) + 1 if segments else 0
        return f"{number:08d}-{uuid.uuid4().hex[:8]}"

    def remove(self, name: str) -> None:
        """Remove a segment; under the lock. Processes that have mapped it can read on."""
        with self._told():
            self.rows_path(name).unlink(missing_ok=True)
            self.keys_path(name).unlink()  # last: without it nobody would know of the rows

    def trim(self, row_bytes: int) -> None:
        """Cut off rows without a key and keys without a row, which nobody reads; under the lock."""
        for segment in self.segments():
            self.cut(segment.name, segment.frames(row_bytes), row_bytes)

    def remove_folder(self) -> None:
        """Remove a store without segments; under the lock."""
        with self._told():
            (self.path / META).unlink(missing_ok=True)
            (self.path / LOCK).unlink()  # whoever waits for it makes the folder again
        with contextlib.suppress(OSError):  # a file of somebody else's is in it
            self.path.rmdir()

    def _lock(self) -> int:
        while True:
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = _open(self.path / LOCK, os.O_CREAT | os.O_RDWR)
            except FileNotFoundError:
                continue  # removed since the line before
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.lstat(self.path / LOCK)):
                    return descriptor
            os.close(descriptor)  # removed while we waited for it

    @contextlib.contextmanager
    def _told(self, what: str = "write") -> Iterator[None]:
        """Turn what the operating system refuses into one line."""
        try:
            yield
        except OSError as e:
            full = e.errno in (errno.ENOSPC, errno.EDQUOT)
            advice = "free some room, prune it with vlmreward cache," if full else "check its files and permissions,"
            raise StorageError(
                f"can't {what} embeddings {'to' if what == 'write' else 'of'} {self.path}: "
                f"{(e.strerror or str(e)).lower()}; {advice} or choose another folder"
            ) from e


def _open(path: Path, flags: int) -> int:
    """Open a file that is one: a link could lead out of the folder, and a pipe would be waited for."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as e:
        if e.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, f"{path.name} is a link") from e
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"{path.name} is not a file")
    return descriptor


def _open_to_lock(path: Path) -> int:
    """Open a file for ``flock``: for writing where it may be, since NFS gives an exclusive lock only to a writer."""
    try:
        return _open(path, os.O_RDWR)
    except OSError as e:
        if e.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return _open(path, os.O_RDONLY)


@contextlib.contextmanager
def _opened(path: Path, flags: int = os.O_CREAT | os.O_RDWR) -> Iterator[int]:
    descriptor = _open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _cut(descriptor: int, size: int) -> None:
    if os.fstat(descriptor).st_size > size:  # else left alone: a segment's age is that of its files
        os.ftruncate(descriptor, size)


def _write_at(descriptor: int, content: bytes, offset: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(descriptor, left, offset)
        left, offset = left[written:], offset + written
