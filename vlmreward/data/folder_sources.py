"""Where the pictures of an episode of a folder come from: a video, a folder of pictures, or an array."""

from __future__ import annotations

import contextlib
import math
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.lib import format as npy

from vlmreward.data.dataset import Frame, Undecodable
from vlmreward.data.paths import inside, one_line, shown
from vlmreward.data.pictures import MAX_PIXELS, decode_picture
from vlmreward.data.video import VideoInfo, decode_span, find_end, probe
from vlmreward.errors import DatasetError
from vlmreward.types import FloatArray

PICTURES = (".jpg", ".jpeg", ".png")
_FAULTS = (OSError, ValueError, EOFError, KeyError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
_MAX_VALUES = 1 << 30
_MAX_PICTURE_BYTES = 256 << 20
_FOR_EVER_S = 1e9
_CUT_SHORT = "is cut short: it says that it holds"


class Source(Protocol):
    """Pictures of one camera of one episode.

    Attributes:
        kind: In words, for people.
        count: Number of pictures.
        fps: Pictures a second, where the file says so.
    """

    kind: str
    count: int
    fps: float | None

    def frames(self, count: int, start: int = 0) -> Iterator[Frame | Undecodable]:
        """Decode pictures number ``start`` to ``count``, exactly ``count - start``."""
        ...

    def stamp(self, folder: Path) -> Sequence[object]:
        """Return what changes when the pictures change: names below ``folder``, sizes and times of change."""
        ...

    def check(self, count: int) -> str | None:
        """Return what is wrong with it, or None; decodes the last pictures only."""
        ...


def open_source(folder: Path, name: str) -> Source:
    """Look at what a line of the list names; decodes nothing.

    Raises:
        DatasetError: It is missing, outside of the folder, or can't be read.
    """
    file, key = split_key(name)
    path = inside(folder, file)
    if not path.exists():
        raise DatasetError(f"{shown(file)} is missing")
    if path.is_dir():
        return _PictureFolder(folder, path)
    if path.suffix in (".npy", ".npz"):
        return _Array(path, key)
    return _Video(path, probe(path))


def split_key(name: str) -> tuple[str, str]:
    """Return file and key of a name like ``"x.npz:frames"``."""
    file, mark, key = name.rpartition(".npz:")
    return (f"{file}.npz", key) if mark else (name, "")


class _Video:
    def __init__(self, path: Path, info: VideoInfo) -> None:
        self._path, self._info = path, info
        self.kind, self.count, self.fps = f"{info.codec} video {info.height}x{info.width}", info.frames, info.fps

    def frames(self, count: int, start: int = 0) -> Iterator[Frame | Undecodable]:
        begin = self._info.start_s
        return decode_span(self._path, begin, begin + _FOR_EVER_S, count, None, start)

    def stamp(self, folder: Path) -> Sequence[object]:
        return [_stamp(self._path, folder)]

    def check(self, count: int) -> str | None:
        find_end(self._path)
        return _miscount(self.count, count)


class _PictureFolder:
    fps: float | None = None

    def __init__(self, folder: Path, path: Path) -> None:
        def place(found: Path) -> tuple[list[int], str]:
            return [int(number[:18]) for number in re.findall(r"\d+", found.stem)], found.name

        try:
            names = [p for p in path.iterdir() if p.suffix.lower() in PICTURES and not p.name.startswith(".")]
        except OSError as e:
            raise DatasetError(f"{path.name} can't be read: {one_line(e)}") from e
        self._folder = folder
        self._files = sorted(names, key=place)
        self.kind, self.count = "folder of pictures", len(self._files)

    def frames(self, count: int, start: int = 0) -> Iterator[Frame | Undecodable]:
        for i in range(start, count):
            yield self._frame(i)

    def stamp(self, folder: Path) -> Sequence[object]:
        return [_stamp(file, folder) for file in self._files]

    def check(self, count: int) -> str | None:
        last = self._frame(self.count - 1)
        return last.reason if isinstance(last, Undecodable) else _miscount(self.count, count)

    def _frame(self, number: int) -> Frame | Undecodable:
        if number >= self.count:
            return Undecodable(f"there are {self.count} pictures, none of number {number}")
        try:
            file = inside(self._folder, self._files[number].relative_to(self._folder.resolve()).as_posix())
            if not file.is_file():
                return Undecodable(f"{file.name} is missing")
            if file.stat().st_size > _MAX_PICTURE_BYTES:
                return Undecodable(f"{file.name} is {file.stat().st_size} bytes long")
            return decode_picture(file.read_bytes())
        except DatasetError as e:
            return Undecodable(str(e))
        except OSError as e:
            return Undecodable(f"{self._files[number].name} can't be read: {one_line(e)}")


class _Array:
    fps: float | None = None

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        with open_array(path, key) as array:
            shape, dtype = array.shape, array.dtype
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape[1:]:
            raise DatasetError(f"{array.name} is {dtype} {shape}, not pictures uint8 (N, H, W, 3)")
        if math.prod(shape[1:3]) > MAX_PIXELS:
            raise DatasetError(f"{array.name} says its pictures are {shape[2]}x{shape[1]}: is it damaged?")
        self._name, self.kind, self.count = array.name, f"uint8 {shape[1:]}", shape[0]

    def frames(self, count: int, start: int = 0) -> Iterator[Frame | Undecodable]:
        due, reason = start, f"{self._name} holds {self.count} pictures"
        try:
            with open_array(self._path, self._key) as array:
                size = math.prod(array.shape[1:])
                if self._path.suffix == ".npy":
                    array.stream.seek(start * size, os.SEEK_CUR)
                else:  # piece by piece, as if they were given: damage of an archive shows in the same picture then
                    for _ in range(start):
                        array.stream.read(size)
                while due < min(count, self.count):
                    raw = array.stream.read(size)
                    if len(raw) != size:
                        reason = f"{self._name} {_CUT_SHORT} {self.count} pictures"
                        break
                    due += 1
                    yield np.frombuffer(bytearray(raw), np.uint8).reshape(array.shape[1:])
        except DatasetError as e:
            reason = str(e)
        except _FAULTS as e:
            reason = f"{self._name} can't be read: {one_line(e)}"
        for _ in range(due, count):
            yield Undecodable(reason)

    def stamp(self, folder: Path) -> Sequence[object]:
        return [_stamp(self._path, folder), self._key]

    def check(self, count: int) -> str | None:
        with open_array(self._path, self._key) as array:
            if array.room < math.prod(array.shape):
                return f"{self._name} {_CUT_SHORT} {self.count} pictures"
        return _miscount(self.count, count)


@dataclass(frozen=True)
class OpenArray:
    """A NumPy array in a file, its values not read yet.

    Attributes:
        name: For messages.
        stream: Stands at the first value.
        shape: Its shape.
        dtype: Of its values; never objects.
        room: Bytes that there are for its values, by the size of the file or by the archive's list of contents.
    """

    name: str
    stream: IO[bytes]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    room: int


@contextlib.contextmanager
def open_array(path: Path, key: str) -> Iterator[OpenArray]:
    """Open an array of a ``.npy`` or ``.npz`` file without reading its values.

    Args:
        path: The file.
        key: Name in the ``.npz``; "" where it holds one array.

    Raises:
        DatasetError: It can't be read, holds Python objects (a pickle), or is stored column by column.
    """
    name = f"{path.name}:{key}" if key else path.name
    if not path.is_file():  # a named pipe would block for ever
        raise DatasetError(f"{path.name} is missing or no file")
    with contextlib.ExitStack() as stack:
        try:
            stream: IO[bytes] = stack.enter_context(path.open("rb"))
            size = path.stat().st_size
            if path.suffix == ".npz":
                archive = stack.enter_context(zipfile.ZipFile(stream))
                members = archive.namelist()
                if not key and len(members) != 1:
                    raise DatasetError(f"{name} holds {len(members)} arrays: name one, as in {name}:frames")
                member = f"{key}.npy" if key else members[0]
                if member not in members:
                    known = ", ".join(m.removesuffix(".npy") for m in members[:9])
                    raise DatasetError(f"{name} is not in the file: it holds {known or 'nothing'}")
                stream, size = stack.enter_context(archive.open(member)), archive.getinfo(member).file_size
            version = npy.read_magic(stream)
            read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
            if read_header is None:
                raise DatasetError(f"{name} is of version {version} of NumPy's format: save it again")
            shape, in_columns, dtype = read_header(stream)
            room = size - stream.tell()
        except DatasetError:
            raise
        except _FAULTS as e:
            raise DatasetError(f"{name} can't be read as an array: {one_line(e)}") from e
        if dtype.hasobject:
            raise DatasetError(f"{name} holds Python objects (dtype object), which are never unpickled: save numbers")
        if in_columns and len(shape) > 1:
            raise DatasetError(f"{name} is stored in Fortran order: save numpy.ascontiguousarray(...) of it")
        yield OpenArray(name, stream, shape, dtype, room)


def read_numbers(folder: Path, name: str, rows: int | None) -> FloatArray:
    """Read an array of numbers with a row for each step.

    Args:
        folder: Of the dataset.
        name: ``"x.npy"`` or ``"x.npz:key"``.
        rows: How many rows are needed; None takes all.

    Returns:
        float32, shape (rows, D).

    Raises:
        DatasetError: It can't be read, holds no numbers, or fewer rows.
    """
    file, key = split_key(name)
    path = inside(folder, file)
    with open_array(path, key) as array:
        if array.dtype.kind not in "fiub" or not array.shape:
            raise DatasetError(f"{array.name} is {array.dtype} {array.shape}, not numbers with a row for each step")
        if rows is not None and array.shape[0] < rows:
            raise DatasetError(f"{array.name} has {array.shape[0]} rows, {rows} expected")
        count = math.prod(array.shape)
        if count > _MAX_VALUES:
            raise DatasetError(f"{array.name} says it holds {array.shape} values: is it damaged?")
        due = count * array.dtype.itemsize
        try:
            raw = array.stream.read(due)
        except _FAULTS as e:
            raise DatasetError(f"{array.name} can't be read: {one_line(e)}") from e
    if len(raw) != due:
        raise DatasetError(f"{array.name} holds {len(raw)} bytes, {due} expected: it is cut short")
    width = math.prod(array.shape[1:])
    values = np.frombuffer(raw, array.dtype).astype(np.float32).reshape(array.shape[0], width)
    return values if rows is None else values[:rows]


def _stamp(path: Path, folder: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError:
        return path.name, -1, -1
    return path.relative_to(folder.resolve()).as_posix(), found.st_size, found.st_mtime_ns


def _miscount(found: int, expected: int) -> str | None:
    return None if found == expected else f"{found} pictures, {expected} expected"
