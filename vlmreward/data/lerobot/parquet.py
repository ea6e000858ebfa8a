"""Parquet files of a LeRobot dataset: one-line errors, rows of one episode found without reading the rest."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmreward.data.paths import inside, one_line
from vlmreward.errors import DatasetError, UnknownColumnError, VlmRewardError
from vlmreward.optional import require_package


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn what pyarrow says of a damaged file into one line that names it.

    Raises:
        DatasetError: The block met a file that is missing or damaged.
    """
    pa = require_package("pyarrow", "data")
    try:
        yield
    except VlmRewardError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as e:
        raise DatasetError(f"{name} can't be read: {one_line(e)}") from e


@contextlib.contextmanager
def opened(root: Path, name: str) -> Iterator[Any]:
    """Open a parquet file of a dataset for reading.

    Args:
        root: The dataset's folder.
        name: The file, relative to it.

    Yields:
        A ``pyarrow.parquet.ParquetFile``.

    Raises:
        DatasetError: The file is missing, leaves the dataset or is damaged.
    """
    path = inside(root, name)
    if not path.is_file():
        raise DatasetError(f"{name} is missing")
    parquet = require_package("pyarrow.parquet", "data")
    with reading(name):
        file = parquet.ParquetFile(path, pre_buffer=False)
    with file:
        yield file  # what goes wrong in the block is its own affair: it may be writing another file


def row_groups_of(file: Any, episode_index: int, start: int = 0) -> list[int]:
    """Return the row groups that may hold rows of an episode from row ``start`` on, by the file's own statistics."""
    if "episode_index" not in file.schema_arrow.names:
        raise DatasetError("there is no column episode_index")
    leaves = {file.schema.column(i).path: i for i in range(file.metadata.num_columns)}

    def bounds(group: int, name: str) -> tuple[float, float]:
        known: Any = file.metadata.row_group(group).column(leaves[name]).statistics if name in leaves else None
        return (known.min, known.max) if known is not None and known.has_min_max else (-math.inf, math.inf)

    found = []
    for group in range(file.metadata.num_row_groups):
        lowest, highest = bounds(group, "episode_index")
        if lowest <= episode_index <= highest and bounds(group, "frame_index")[1] >= start:
            found.append(group)
    return found


def read_episode(root: Path, name: str, episode_index: int, rows: int, columns: Sequence[str]) -> dict[str, Any]:
    """Read columns of one episode.

    Args:
        root: The dataset's folder.
        name: The data file, relative to it.
        episode_index: The episode's number as recorded.
        rows: How many rows it must have.
        columns: Names of columns.

    Returns:
        By name a pyarrow array of ``rows`` values, in the order of ``frame_index``.

    Raises:
        UnknownColumnError: There is no such column.
        DatasetError: The file is damaged, or holds another number of rows of the episode.
    """
    pa = require_package("pyarrow", "data")
    compute = require_package("pyarrow.compute", "data")
    with opened(root, name) as file, reading(name):
        for column in (*columns, "episode_index", "frame_index"):
            if column not in (there := file.schema_arrow.names):
                error = UnknownColumnError if column in columns else DatasetError
                raise error(f"{name} has no column {column!r}: there are {', '.join(there)}")
        wanted = list(dict.fromkeys([*columns, "episode_index", "frame_index"]))
        parts = []
        for group in row_groups_of(file, episode_index):
            table = file.read_row_group(group, columns=wanted)
            parts.append(table.filter(compute.equal(table["episode_index"], episode_index)))
        table = pa.concat_tables(parts) if parts else file.schema_arrow.empty_table().select(wanted)
        if table.num_rows != rows:
            raise DatasetError(f"{name} holds {table.num_rows} rows of episode {episode_index}, not {rows}")
        if rows and not np.array_equal(order := table["frame_index"].to_numpy(), np.arange(rows)):
            if not np.array_equal(np.sort(order), np.arange(rows)):
                raise DatasetError(f"{name}: frame_index of episode {episode_index} is not 0 to {rows - 1}")
            table = table.take(pa.array(np.argsort(order)))
        return {column: table[column].combine_chunks() for column in columns}


def to_numbers(array: Any, whose: str) -> npt.NDArray[np.float32]:
    """Return numbers, vectors or booleans of rows as float32, shape (T,) or (T, D).

    Raises:
        DatasetError: They are no numbers, vectors of several lengths, or some are null.
    """
    pa = require_package("pyarrow", "data")
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    length = len(array)
    width: int | None = None
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        inner = array.flatten()
        if array.null_count or (length and len(inner) % length):
            raise DatasetError(f"{whose} has vectors of several lengths")
        if not pa.types.is_fixed_size_list(array.type) and len(array):
            sizes = np.diff(array.offsets.to_numpy())
            if sizes.min() != sizes.max():
                raise DatasetError(f"{whose} has vectors of several lengths")
        width = len(inner) // length if length else 0
        array = inner
    kind = array.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DatasetError(f"{whose} must be numbers, is {kind}")
    if array.null_count:
        raise DatasetError(f"{whose} has {array.null_count} empty values: a number is needed in each row")
    numbers: npt.NDArray[np.float32] = array.to_numpy(zero_copy_only=False).astype(np.float32)
    return numbers if width is None else numbers.reshape(length, width)
