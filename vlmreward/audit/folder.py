"""Read a folder of pictures with labels from a CSV file.

The file has a column ``file`` (path of the picture, relative to the CSV file) and one or both of ``success`` (0 or 1,
true or false) and ``progress`` (any number below 1e30 in size that grows towards the goal). ``episode`` and ``step``
say which pictures belong to one rollout, in which order; without them every picture stands alone.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlmreward.audit.survey import BLOCK, Block
from vlmreward.errors import ConfigError
from vlmreward.types import Frames

MOST = 1e30
"""Bound of progress: sums of its squares stay finite."""

_TRUTH = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def read_folder(path: Path) -> Iterator[Block]:
    """Yield the pictures that a CSV file lists.

    Args:
        path: The CSV file, or a folder with a single one in it.

    Raises:
        ConfigError: There is no such file, it can't be read, a column is missing or holds something else, a picture
            is missing, unreadable, outside the folder or of another size, two are the same step of an episode, or the
            labels are all alike.
    """
    try:
        table = _find_table(path)
        rows = _read_rows(table)
    except OSError as e:
        raise ConfigError(f"{path} can't be read ({e.strerror}): give a CSV file, or a folder with one in it") from e
    paths = [_inside(table, row) for row in rows]
    success = _column(table, rows, "success", _truth)
    progress = _column(table, rows, "progress", _number)
    if success is None and progress is None:
        raise ConfigError(f"{table} has neither a column success nor progress, got {list(rows[0].values)}: add one")
    if success is not None and len(set(success)) == 1:
        raise ConfigError(f"all {len(rows)} rows of {table} have success {int(success[0])}: an audit needs both kinds")
    if success is None and len(set(progress or ())) == 1:
        raise ConfigError(f"all {len(rows)} rows of {table} have the same progress: an audit needs different ones")
    episode = _column(table, rows, "episode", str)
    numbers = {name: i for i, name in enumerate(dict.fromkeys(episode or ()))}
    episodes = np.array([numbers[e] for e in episode] if episode else np.arange(len(rows)), np.int64)
    step = _column(table, rows, "step", _whole)
    steps = np.array(step if step is not None else _places(episodes), np.int64)
    _check_places(table, rows, episodes, steps)
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


@dataclass(frozen=True)
class _Row:
    """A line of the table: its number in the file, and its values by column."""

    line: int
    values: dict[str, str]


def _find_table(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.csv"))
        if len(found) != 1:
            raise ConfigError(f"{path} holds {len(found)} CSV files: give the one with the labels as frames=<file>.csv")
        return found[0]
    if not path.is_file():
        raise ConfigError(f"no labels at {path}: give a CSV file, or a folder with one in it")
    return path


def _read_rows(table: Path) -> list[_Row]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            if "file" not in columns:
                raise ConfigError(f"{table} has no column 'file', got {columns}: its first line names the columns")
            rows = [_Row(reader.line_num, row) for row in reader]  # a reader skips blank lines, its numbers don't
    except (csv.Error, UnicodeDecodeError) as e:
        raise ConfigError(f"{table} is not a CSV file in UTF-8 ({e})") from e
    if not rows:
        raise ConfigError(f"{table} lists no pictures: add a row for each")
    for row in rows:
        if None in row.values or None in row.values.values():
            raise ConfigError(f"line {row.line} of {table} has another number of values than the first line: mend it")
    return [_Row(row.line, {name: text.strip() for name, text in row.values.items()}) for row in rows]


def _column(table: Path, rows: Sequence[_Row], name: str, read: Callable[[str], Any]) -> list[Any] | None:
    """Return a column's values, or None where there is no such column."""
    if name not in rows[0].values:
        return None
    values = []
    for row in rows:
        try:
            values.append(read(row.values[name]))
        except (KeyError, ValueError) as e:
            what = {
                "success": "0 or 1",
                "progress": f"a number below {MOST:g} in size",
                "step": "a whole number of 64 bits",
            }[name]
            raise ConfigError(f"line {row.line} of {table}: {name} must be {what}, got {row.values[name]!r}") from e
    return values


def _truth(text: str) -> bool:
    return _TRUTH[text.lower()]


def _number(text: str) -> float:
    value = float(text)
    if not abs(value) < MOST:  # nor NaN
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    value = int(text)
    if not -(2**63) <= value < 2**63:
        raise ValueError(text)
    return value


def _inside(table: Path, row: _Row) -> Path:
    """Return the path of a row's picture, which must lie in the table's folder."""
    name = row.values["file"]
    path = table.parent / name
    try:
        inside, there = path.resolve().is_relative_to(table.parent.resolve()), path.is_file()
    except (OSError, RuntimeError, ValueError) as e:  # too long, links in a circle, a NUL in it
        raise ConfigError(f"line {row.line} of {table} names {name!r}, which is no path of a file: {e}") from e
    if not inside:
        raise ConfigError(f"line {row.line} of {table} names a file outside its folder, {name!r}: move it inside")
    if not there:
        raise ConfigError(f"line {row.line} of {table} names {name!r}, which is not there")
    return path


def _check_places(table: Path, rows: Sequence[_Row], episodes: np.ndarray, steps: np.ndarray) -> None:
    """Refuse two pictures of the same step of an episode."""
    seen: dict[tuple[int, int], int] = {}
    for row, place in zip(rows, zip(episodes.tolist(), steps.tolist(), strict=True), strict=True):
        if place in seen:
            raise ConfigError(
                f"lines {seen[place]} and {row.line} of {table} are both step {place[1]} of episode "
                f"{row.values['episode']!r}: number the steps of an episode apart"
            )
        seen[place] = row.line


def _read_picture(path: Path) -> Frames:
    try:
        with Image.open(path) as picture:
            return np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as e:  # all that Pillow says of bad files
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
