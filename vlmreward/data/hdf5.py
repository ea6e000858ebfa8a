"""HDF5 files of others, read safely: nothing outside of the file, nothing larger than asked for, one-line errors.

An HDF5 file can name other files, in external links, external storage and virtual datasets. All three are refused.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.data.dataset import Frame, Undecodable
from vlmreward.data.paths import one_line, shown
from vlmreward.data.pictures import MAX_PIXELS, STARTS, decode_picture
from vlmreward.errors import DatasetError, VlmRewardError
from vlmreward.optional import require_package
from vlmreward.types import FloatArray

SUFFIXES = (".hdf5", ".h5")
MAX_ROWS = 50_000_000
"""An episode that says it is longer is damaged: a file of a few bytes can say so."""

_MAX_VALUES = 1 << 30
_BLOCK_BYTES = 8 << 20
_MAX_LINKS = 8
_MAX_DEPTH = 6
_MAX_LEAVES = 4096
_FAULTS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError)  # what h5py raises


@contextlib.contextmanager
def hdf5_errors(where: str) -> Iterator[None]:
    """Turn what h5py says of a damaged file into one line about ``where``.

    Raises:
        DatasetError: Something can't be read.
    """
    try:
        yield
    except VlmRewardError:
        raise
    except _FAULTS as e:
        raise DatasetError(f"{where} can't be read: {one_line(e)}; is the file whole?") from e


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Open a file for reading.

    Yields:
        The ``h5py.File``.

    Raises:
        DatasetError: It is missing, no HDF5 file, or cut short.
        DependencyNotInstalled: h5py is missing.
    """
    h5py = require_package("h5py", "data")
    if not path.is_file():  # a named pipe would block for ever
        raise DatasetError(f"{path.name} is {'no file' if path.exists() else 'missing'}: give an HDF5 file")
    with hdf5_errors(path.name):
        file = h5py.File(path, "r", locking="best-effort")
    try:
        yield file
    finally:
        file.close()


def find(group: Any, name: str, links: int = 0) -> Any:
    """Return the group or dataset of a name, or None where there is none.

    Args:
        group: An ``h5py.Group``.
        name: Path below it, with ``/``.
        links: Number of soft links that were followed on the way.

    Raises:
        DatasetError: It is in another file, a link leads in a circle, or the file is damaged.
    """
    h5py = require_package("h5py", "data")
    node = group
    for part in name.split("/"):
        if part in ("", "."):
            continue
        if not isinstance(node, h5py.Group):
            return None
        where = f"{node.name}/{part}".replace("//", "/")
        with hdf5_errors(where):
            link = node.get(part, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise DatasetError(
                    f"{where} is a link to another file, {shown(link.filename)}: copy its data into this one"
                )
            if isinstance(link, h5py.SoftLink):
                if links >= _MAX_LINKS:
                    raise DatasetError(f"{where} is a link in a circle: remove it")
                node = find(node.file if link.path.startswith("/") else node, link.path, links + 1)
            else:
                node = None if link is None else node[part]
        if node is None:
            return None
    if isinstance(node, h5py.Dataset):
        with hdf5_errors(str(node.name)):
            if node.external or node.is_virtual:
                raise DatasetError(f"{node.name} has its data in other files: copy them into this one")
    return node


def leaves(group: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the datasets below a group, with their paths relative to it; what is nested very deep is left out.

    Raises:
        DatasetError: As in :func:`find`, or there are thousands of them.
    """
    h5py = require_package("h5py", "data")
    with hdf5_errors(str(group.name)):
        names = list(group)
    if len(names) > _MAX_LEAVES:
        raise DatasetError(f"{group.name} holds {len(names)} parts, more than {_MAX_LEAVES}: is it an episode?")
    for name in names:
        node = find(group, name)
        if isinstance(node, h5py.Dataset):
            yield prefix + name, node
        elif isinstance(node, h5py.Group) and depth < _MAX_DEPTH:
            yield from leaves(node, f"{prefix}{name}/", depth + 1)


def read_attribute(node: Any, name: str) -> Any:
    """Return an attribute as a plain value: text, a number, or None where there is none or it is something else.

    Raises:
        DatasetError: It can't be read, or is text that isn't UTF-8.
    """
    with hdf5_errors(f"attribute {name} of {node.name}"):
        value = node.attrs.get(name)
    return plain(value, f"attribute {name} of {node.name}")


def plain(value: Any, where: str) -> Any:
    """Return a value as Python's own text or number, or None where it is neither.

    Raises:
        DatasetError: It is text that isn't UTF-8.
    """
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="surrogateescape")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise DatasetError(f"{where} is not UTF-8: {shown(value)}")
        return value
    return value if isinstance(value, (bool, int, float)) else None


def length_of(node: Any) -> int:
    """Return the number of rows of a dataset; -1 where it has none, as a single number has.

    Raises:
        DatasetError: It says more than can be.
    """
    shape = node.shape
    if not shape:
        return -1
    if shape[0] > MAX_ROWS:
        raise DatasetError(f"{node.name} says it has {shape[0]} rows, more than {MAX_ROWS}: is the file damaged?")
    return int(shape[0])


def is_numeric(node: Any) -> bool:
    """Return whether a dataset holds one number or a vector, matrix, ... of them for each row."""
    return node.dtype.kind in "fiub" and bool(node.shape)


def read_rows(node: Any, rows: int) -> FloatArray:
    """Read the first rows of a dataset of numbers, each row as a vector.

    Returns:
        float32, shape (rows, D).

    Raises:
        DatasetError: It holds no numbers or fewer rows, or is damaged.
    """
    if not is_numeric(node):
        raise DatasetError(f"{node.name} is {node.dtype} {node.shape}, not numbers with a row for each step")
    if length_of(node) < rows:
        raise DatasetError(f"{node.name} has {node.shape[0]} rows, {rows} expected")
    width = math.prod(node.shape[1:])
    if rows * width > _MAX_VALUES:
        raise DatasetError(f"{node.name} says it holds {node.shape} values: is the file damaged?")
    with hdf5_errors(str(node.name)):
        return np.asarray(node[:rows], dtype=np.float32).reshape(rows, width)


def is_encoded(node: Any) -> bool:
    """Return whether a dataset holds an encoded picture (JPEG, PNG) in each row, as Minari stores them."""
    h5py = require_package("h5py", "data")
    variable = h5py.check_vlen_dtype(node.dtype)
    if variable != np.uint8 and not (node.dtype == np.uint8 and node.ndim == 2):
        return False
    if len(node.shape) not in (1, 2) or not length_of(node) > 0:
        return False
    with hdf5_errors(str(node.name)):
        start = np.asarray(node[0] if variable else node[0, :8]).tobytes()
    return start.startswith(STARTS)


def picture_shape(node: Any) -> tuple[int, int] | None:
    """Return height and width of the pictures of a dataset, uint8 (N, H, W, 3) or encoded; None where it has none.

    Raises:
        DatasetError: It is damaged.
    """
    h5py = require_package("h5py", "data")
    if not isinstance(node, h5py.Dataset) or not node.shape:
        return None
    if node.dtype == np.uint8 and node.ndim == 4:
        height, width, channels = node.shape[1:]
        length_of(node)
        return (height, width) if channels == 3 and 0 < height * width <= MAX_PIXELS else None
    if not is_encoded(node):
        return None
    with hdf5_errors(str(node.name)):
        first = decode_picture(np.asarray(node[0]).tobytes())
    return (0, 0) if isinstance(first, Undecodable) else (first.shape[0], first.shape[1])


def read_pictures(node: Any, start: int, stop: int) -> Iterator[Frame | Undecodable]:
    """Read pictures of a dataset in order, a few MB at a time.

    Args:
        node: An ``h5py.Dataset``: uint8 (N, H, W, 3), or encoded pictures.
        start: The first one.
        stop: Behind the last one.

    Yields:
        Exactly ``stop - start`` items.
    """
    try:
        raw = node.dtype == np.uint8 and node.ndim == 4
        if picture_shape(node) is None:
            reason = f"{node.name} is {node.dtype} {node.shape}, not pictures uint8 (N, H, W, 3)"
            yield from (Undecodable(reason) for _ in range(start, stop))
            return
    except VlmRewardError as e:
        reason = str(e)
        yield from (Undecodable(reason) for _ in range(start, stop))
        return
    held = min(stop, node.shape[0])
    size = math.prod(node.shape[1:]) if raw else 1 << 16
    block = max(1, min(_BLOCK_BYTES // max(size, 1), 1024))
    chunk = node.chunks[0] if node.chunks else 1
    if chunk > 1:  # a chunk is decompressed as a whole: twice if a block ended within it
        block = max(block // chunk, 1) * chunk if chunk * size <= 8 * _BLOCK_BYTES else block
    begin = start
    while begin < held:
        end = min((begin // block + 1) * block, held)
        yield from _read_block(node, begin, end, raw)
        begin = end
    for missing in range(max(start, held), stop):
        yield Undecodable(f"{node.name} holds {node.shape[0]} pictures, none of number {missing}")


def _read_block(node: Any, begin: int, end: int, raw: bool) -> Iterator[Frame | Undecodable]:
    try:
        values = node[begin:end]
    except _FAULTS as e:
        if end - begin > 1:  # one damaged chunk is no reason to lose its neighbours
            for i in range(begin, end):
                yield from _read_block(node, i, i + 1, raw)
        else:
            yield Undecodable(f"picture {begin} of {node.name} can't be read: {one_line(e)}")
        return
    for value in values:
        yield np.array(value) if raw else decode_picture(np.asarray(value).tobytes())
