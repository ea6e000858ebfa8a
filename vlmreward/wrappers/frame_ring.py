"""A bounded pool of frames in memory that the environments' processes and the scoring process share.

The pool is one mapped file without a name: created in /dev/shm when there is room (its blocks are reserved at once,
so that a full tmpfs is an error here and not a bus error later), in the temporary directory otherwise. Workers open it
through /proc/<pid>/fd/<fd>, so there is nothing to unlink after a crash or ``kill -9``, and no resource tracker. Where
a system has no /proc (macOS) the file has a name until :meth:`FrameRing.seal`, called when all workers are attached.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlmreward.errors import StorageError
from vlmreward.types import Frames

STEP, RESET = 0, 1
"""Columns of ``FrameRing.assigned``: the slot of an environment's next step, and of its next reset."""

FREE = -1
"""Entry of ``FrameRing.assigned`` whose slot was filled, or that has none yet."""

SLOT_DTYPE = np.dtype(
    [
        ("episode", "<i8"),  # counted per environment
        ("step", "<i8"),  # 0 is the frame of the reset
        ("env_reward", "<f8"),
        ("step_seconds", "<f4"),
        ("render_seconds", "<f4"),
        ("terminated", "?"),
        ("truncated", "?"),
        ("reason", "u1"),  # index into capture_frames.REASONS; 0 is a good frame
    ],
    align=True,
)
"""What is known of the frame in a slot."""


@dataclass(frozen=True)
class RingSpec:
    """All that a worker needs to attach to a ring.

    Attributes:
        path: File to map.
        slots: Number of frames in the pool.
        n_envs: Number of environments that write to it.
        frame_shape: (H, W, 3).
    """

    path: str
    slots: int
    n_envs: int
    frame_shape: tuple[int, int, int]


def free_bytes(directory: Path) -> int:
    """Return the room in a directory's file system, in bytes; 0 when there is no such directory."""
    try:
        stat = os.statvfs(directory)
    except FileNotFoundError:
        return 0
    return stat.f_bavail * stat.f_frsize


def default_directories() -> list[Path]:
    """Return where a ring may live, best first."""
    return [Path("/dev/shm"), Path(tempfile.gettempdir())]


class FrameRing:
    """The mapped pool and its control arrays. Build one with :meth:`create` or :meth:`attach`.

    Attributes:
        spec: What workers attach with.
        directory: Where the pool lives; None in a worker.
        frames: uint8, shape (slots, H, W, 3).
        meta: ``SLOT_DTYPE``, shape (slots,).
        assigned: int64, shape (n_envs, 2): the slots that each environment fills next, or ``FREE``.
    """

    def __init__(self, spec: RingSpec, fd: int, directory: Path | None = None) -> None:
        self.spec = spec
        self.directory = directory
        fields, size = _layout(spec)
        mapped = mmap.mmap(fd, size)
        arrays = {
            name: np.frombuffer(mapped, dtype, int(np.prod(shape)), offset).reshape(shape)
            for name, (offset, shape, dtype) in fields.items()
        }
        # The map lives as long as any of these arrays: a scoring thread may read on while the ring is closed.
        self.frames: Frames = arrays["frames"]
        self.meta: np.ndarray = arrays["meta"]
        self.assigned: npt.NDArray[np.int64] = arrays["assigned"]

    @classmethod
    def create(
        cls,
        slots: int,
        n_envs: int,
        frame_shape: tuple[int, int, int],
        directories: Sequence[Path] | None = None,
    ) -> FrameRing:
        """Make a new pool.

        Args:
            slots: Number of frames.
            n_envs: Number of environments.
            frame_shape: (H, W, 3).
            directories: Where to try, best first; default /dev/shm, then the temporary directory.

        Raises:
            StorageError: None of them has room.
        """
        spec = RingSpec("", slots, n_envs, frame_shape)
        size = _layout(spec)[1]
        refused = []
        for directory in directories or default_directories():
            free = free_bytes(directory)
            if free < size:
                refused.append(f"{directory} has {free / 1e6:.1f} MB free")
                continue
            try:
                fd, path, named = _open_file(directory, size)
            except OSError as e:
                refused.append(f"{directory}: {e.strerror}")
                continue
            ring = cls(replace(spec, path=path), fd, directory)
            ring.assigned[:] = FREE
            ring._seal = weakref.finalize(ring, _seal, fd, path if named else None)
            return ring
        raise StorageError(
            f"the frame ring of {slots} frames of {frame_shape[0]} x {frame_shape[1]} needs {size / 1e6:.1f} MB, and "
            f"{'; '.join(refused)}: free some room, set TMPDIR, or lower encode_batch or the frames' size"
        )

    @classmethod
    def attach(cls, spec: RingSpec) -> FrameRing:
        """Map the pool that another process made.

        Raises:
            StorageError: It is gone.
        """
        try:
            fd = os.open(spec.path, os.O_RDWR)
        except OSError as e:
            raise StorageError(f"can't open the frame ring {spec.path}: {e.strerror}: is its owner still there?") from e
        try:
            return cls(spec, fd)
        finally:
            os.close(fd)

    def seal(self) -> None:
        """Give up the file itself, when all workers are attached; the mapped memory stays."""
        self._seal()

    _seal: weakref.finalize = None  # type: ignore[assignment]  # set by create(); a worker has nothing to seal


def _layout(spec: RingSpec) -> tuple[dict[str, tuple[int, tuple[int, ...], np.dtype]], int]:
    """Return offset, shape and dtype of each array in the file, and the file's size in bytes."""
    parts: list[tuple[str, tuple[int, ...], np.dtype]] = [
        ("assigned", (spec.n_envs, 2), np.dtype(np.int64)),
        ("meta", (spec.slots,), SLOT_DTYPE),
        ("frames", (spec.slots, *spec.frame_shape), np.dtype(np.uint8)),
    ]
    fields, offset = {}, 0
    for name, shape, dtype in parts:
        fields[name] = (offset, shape, dtype)
        # 64 bytes: a cache line, so that no two arrays share one between processes
        offset += -(-int(np.prod(shape)) * dtype.itemsize // 64) * 64
    return fields, offset


def _open_file(directory: Path, size: int) -> tuple[int, str, bool]:
    """Open a file of ``size`` reserved bytes; return its descriptor, path for workers, and if it still has a name."""
    name = ""
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    except (AttributeError, OSError):  # not Linux, or a file system without unnamed files
        fd, name = tempfile.mkstemp(prefix="vlmreward-ring-", dir=directory)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:
            os.ftruncate(fd, size)
        path = f"/proc/{os.getpid()}/fd/{fd}"
        if not _can_open(path):
            if not name:
                raise OSError(95, f"unnamed files can't be opened through {path}")
            return fd, name, True
        if name:
            os.unlink(name)
        return fd, path, False
    except BaseException:
        os.close(fd)
        if name:
            os.unlink(name)
        raise


def _can_open(path: str) -> bool:
    """Return whether the path can be opened for writing."""
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError:
        return False
    return True


def _seal(fd: int, name: str | None) -> None:
    os.close(fd)
    if name is not None:
        os.unlink(name)
