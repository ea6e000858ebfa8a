"""Read a folder of pictures with labels from a CSV file.

The file has a column ``file`` (path of the picture, relative to the CSV file) and one or both of ``success`` (0 or 1,
true or false) and ``progress`` (any number that grows towards the goal). ``episode`` and ``step`` say which pictures
belong to one rollout, in which order; without them every picture stands alone.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from vlmreward.audit.survey import BLOCK, Block
from vlmreward.errors import ConfigError
from vlmreward.types import Frames

_TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def read_folder(path: Path) -> Iterator[Block]:
    """Yield the pictures that a CSV file lists.

    Args:
        path: The CSV file, or a folder with a single one in it.

    Raises:
        ConfigError: There is no such file, a column is missing or holds something else, a picture is missing,
            unreadable, outside the folder or of another size, or the labels are all alike.
    """
    table = _find_table(path)
    rows = _read_rows(table)
    paths = [_inside(table, row, number) for number, row in enumerate(rows, 2)]
    success = _column(table, rows, "success", _truth)
    progress = _column(table, rows, "progress", _number)
    if success is None and progress is None:
        raise ConfigError(f"{table} has neither a column success nor progress: add one, or audit without labels")
    if success is not None and len(set(success)) == 1:
        raise ConfigError(f"all {len(rows)} rows of {table} have success {int(success[0])}: an audit needs both kinds")
    if success is None and len(set(progress or ())) == 1:
        raise ConfigError(f"all {len(rows)} rows of {table} have the same progress: an audit needs different ones")
    episode = _column(table, rows, "episode", str)
    numbers = {name: i for i, name in enumerate(dict.fromkeys(episode or ()))}
    episodes = np.array([numbers[e] for e in episode] if episode else np.arange(len(rows)), np.int64)
    step = _column(table, rows, "step", _whole)
    steps = np.array(step if step is not None else _places(episodes), np.int64)
    shape: tuple[int, ...] | None = None
    for start in range(0, len(rows), BLOCK):
        part = slice(start, start + BLOCK)
        frames = [_read_picture(p) for p in paths[part]]
        for frame, name in zip(frames, paths[part], strict=True):
            shape = shape or frame.shape
            if frame.shape != shape:
                raise ConfigError(
                    f"pictures of different sizes: {name} is {_size(frame.shape)}, {paths[0]} is {_size(shape)}; "
                    "bring them to one size"
                )
        yield Block(
            np.stack(frames),
            "folder",
            episodes[part],
            steps[part],
            None if success is None else np.array(success[part], bool),
            None if progress is None else np.array(progress[part], np.float64),
        )


def _find_table(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.csv"))
        if len(found) != 1:
            raise ConfigError(f"{path} holds {len(found)} CSV files: give the one with the labels as frames=<file>.csv")
        return found[0]
    if not path.is_file():
        raise ConfigError(f"no labels at {path}: give a CSV file, or a folder with one in it")
    return path


def _read_rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or ()
            if "file" not in columns:
                raise ConfigError(
                    f"{table} has no column 'file', got {list(columns)}: its first line names the columns"
                )
            rows = list(reader)
    except (csv.Error, UnicodeDecodeError) as e:
        raise ConfigError(f"{table} is not a CSV file in UTF-8 ({e})") from e
    if not rows:
        raise ConfigError(f"{table} lists no pictures: add a row for each")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise ConfigError(f"line {number} of {table} has another number of values than the first line: mend it")
    return rows


def _column(table: Path, rows: Sequence[Mapping[str, str]], name: str, read: Callable[[str], Any]) -> list[Any] | None:
    """Return a column's values, or None where there is no such column."""
    if name not in rows[0]:
        return None
    values = []
    for number, row in enumerate(rows, 2):
        try:
            values.append(read(row[name].strip()))
        except (KeyError, ValueError) as e:
            what = {"success": "0 or 1", "progress": "a number", "step": "a whole number"}[name]
            raise ConfigError(f"line {number} of {table}: {name} must be {what}, got {row[name]!r}") from e
    return values


def _truth(text: str) -> bool:
    return _TRUTH[text.lower()]


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    return int(text)


def _inside(table: Path, row: Mapping[str, str], number: int) -> Path:
    """Return the path of a row's picture, which must lie in the table's folder."""
    path = table.parent / row["file"]
    if not path.resolve().is_relative_to(table.parent.resolve()):
        raise ConfigError(f"line {number} of {table} names a file outside its folder, {row['file']!r}: move it inside")
    if not path.is_file():
        raise ConfigError(f"line {number} of {table} names {row['file']!r}, which is not there")
    return path


def _read_picture(path: Path) -> Frames:
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError) as e:
        raise ConfigError(f"{path} can't be read as a picture: {' '.join(str(e).split())}") from e


def _places(episodes: np.ndarray) -> list[int]:
    """Return each row's place in its episode, in the order of the rows."""
    counts: dict[int, int] = {}
    places = []
    for episode in episodes.tolist():
        places.append(counts.get(episode, 0))
        counts[episode] = places[-1] + 1
    return places


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]}"
