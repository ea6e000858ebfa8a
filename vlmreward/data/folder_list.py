"""``episodes.jsonl``: what each line says, checked."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmreward.data.dataset import Problem
from vlmreward.data.paths import one_line, shown
from vlmreward.errors import DatasetError
from vlmreward.registry import suggest

ARRAYS = ("actions", "observations", "rewards")
_KEYS = ("episode_id", "video", "task", "success", "fps", "camera", "terminated", "truncated", "infos", *ARRAYS)
_MAX_LINE = 16 << 20


@dataclass(frozen=True)
class Entry:
    """One line of the list.

    Attributes:
        line: Its number, from 1.
        name: ``episode_id``; the number of the episode where there is none.
        videos: Camera to the name of what holds its pictures.
        task: In words; "" where none is given.
        success: Whether it ended in success, where that is said.
        fps: Pictures a second, where that is said.
        arrays: ``actions``, ``observations``, ``rewards`` to the names of their arrays, as far as given.
        terminated: Whether it ended in a true end.
        truncated: Whether it was cut off.
    """

    line: int
    name: str
    videos: dict[str, str]
    task: str
    success: bool | None
    fps: float | None
    arrays: dict[str, str]
    terminated: bool
    truncated: bool


def read_list(path: Path) -> tuple[list[Entry], list[Problem]]:
    """Read the list of episodes.

    Returns:
        The episodes in the order of the lines, and what is odd about them.

    Raises:
        DatasetError: It can't be read; the message names the line.
    """
    entries: list[Entry] = []
    found: list[Problem] = []
    seen: dict[str, int] = {}
    if not path.is_file():
        raise DatasetError(f"{path.name} is missing or no file")
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(_MAX_LINE + 1):
                number += 1
                if len(raw) > _MAX_LINE:
                    raise DatasetError(f"{path.name}, line {number}: longer than {_MAX_LINE} bytes")
                if not raw.strip():
                    continue
                try:
                    entry = _read_line(raw, number, len(entries), found)
                except DatasetError as e:
                    raise DatasetError(f"{path.name}, line {number}: {e}") from e
                if entry.name in seen:
                    again = f"episode_id {shown(entry.name)} stands in line {seen[entry.name]} already"
                    raise DatasetError(f"{path.name}, line {number}: {again}")
                seen[entry.name] = number
                entries.append(entry)
    except OSError as e:
        if isinstance(e, DatasetError):
            raise
        raise DatasetError(f"{path.name} can't be read: {one_line(e)}") from e
    if not entries:
        raise DatasetError(f"{path.name} is empty: write a JSON object for each episode, one a line")
    return entries, found


def _read_line(raw: bytes, line: int, index: int, found: list[Problem]) -> Entry:
    try:
        said = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as e:
        raise DatasetError(f"not UTF-8: {one_line(e)}") from e
    except (ValueError, RecursionError) as e:
        raise DatasetError(f"no JSON: {one_line(e)}") from e
    if not isinstance(said, dict):
        raise DatasetError(f"must be a JSON object, got {shown(said)}")
    for key in said:
        if key not in _KEYS:
            found.append(Problem(f"line {line}", f"unknown key {shown(key)}: {suggest(key, _KEYS)}"))
    name = said.get("episode_id", index)
    if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
        raise DatasetError(f"episode_id must be text or a whole number, got {shown(name)}")
    task = _typed(said, "task", str, "text") or ""
    if any("\ud800" <= letter <= "\udfff" for letter in task):
        raise DatasetError(f"task is not UTF-8: {shown(task)}")
    fps = said.get("fps")
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < math.inf):
        raise DatasetError(f"fps must be a number above 0, got {shown(fps)}")
    return Entry(
        line=line,
        name=str(name),
        videos=_videos(said),
        task=task.strip(),
        success=_typed(said, "success", bool, "true or false"),
        fps=None if fps is None else float(fps),
        arrays={key: text for key in ARRAYS if (text := _typed(said, key, str, "the name of an array")) is not None},
        terminated=bool(_typed(said, "terminated", bool, "true or false")),
        truncated=bool(_typed(said, "truncated", bool, "true or false")),
    )


def _videos(said: dict[str, Any]) -> dict[str, str]:
    video = said.get("video")
    camera = _typed(said, "camera", str, "text") or "video"
    videos = {camera: video} if isinstance(video, str) else video
    if not isinstance(videos, dict) or not videos or not all(isinstance(v, str) and v for v in videos.values()):
        raise DatasetError(f"video must be a path, or an object of cameras and paths, got {shown(video)}")
    return videos


def _typed(said: dict[str, Any], key: str, kind: type, what: str) -> Any:
    value = said.get(key)
    if value is not None and not isinstance(value, kind):
        raise DatasetError(f"{key} must be {what}, got {shown(value)}")
    return value
