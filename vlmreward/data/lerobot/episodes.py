"""Episodes of a LeRobot dataset and where their rows and pictures lie: v3.0 (parquet) and v2.1 (JSON lines)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlmreward.data.dataset import Episode, Problem
from vlmreward.data.lerobot.layout import Info, fill_template
from vlmreward.data.lerobot.parquet import opened, reading
from vlmreward.data.paths import inside, one_line
from vlmreward.errors import DatasetError
from vlmreward.optional import require_package

EPISODES_V30 = "meta/episodes"
EPISODES_V21 = "meta/episodes.jsonl"
MAX_ROWS = 10_000_000
"""Of one episode: 92 hours at 30 pictures a second. A larger number is damage, and nobody could hold its labels."""


@dataclass(frozen=True)
class VideoSpan:
    """Where the pictures of an episode lie.

    Attributes:
        name: The video, relative to the dataset's folder.
        start_s: Time of the first picture in it.
        end_s: Where the next episode begins.
    """

    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Located:
    """An episode and where it lies.

    Attributes:
        episode: What everybody knows of it.
        recorded: Its ``episode_index`` in the files.
        data: Its data file, relative to the dataset's folder.
        start: ``index`` of its first row.
        videos: By feature.
    """

    episode: Episode
    recorded: int
    data: str
    start: int
    videos: Mapping[str, VideoSpan] = field(default_factory=dict)


def read_episodes(root: Path, info: Info) -> tuple[list[Located], list[Problem]]:
    """Find the episodes of a dataset; opens no data file and no video.

    Returns:
        The episodes with rows, by ``episode_index``, and what was wrong with the others and with their tasks.

    Raises:
        DatasetError: What lists the episodes is missing or damaged.
    """
    listed = _list_v30(root, info) if info.version == "v3.0" else _list_v21(root, info)
    found: list[Located] = []
    problems: list[Problem] = []
    for located, tasks, wrong in sorted(listed, key=lambda item: item[0].recorded):
        where = f"episode {located.recorded}"
        problems += [Problem(where, what) for what in wrong]
        if found and found[-1].recorded == located.recorded:
            raise DatasetError(f"{where} is listed twice in {EPISODES_V30 if info.version == 'v3.0' else EPISODES_V21}")
        if located.episode.rows == 0:
            problems.append(Problem(where, "it has no rows and is left out: its length is 0"))
            continue
        texts, more = _texts(tasks)
        problems += [Problem(where, what) for what in more]
        episode = replace(located.episode, index=len(found), instruction=texts[0] if texts else "")
        found.append(replace(located, episode=episode))
    if not found:
        raise DatasetError("the dataset holds no episodes with rows: record some first")
    return found, problems


def list_episode_files(root: Path) -> list[str]:
    """Return the names of the parquet files that list the episodes of a v3.0 dataset, in order.

    Raises:
        DatasetError: There are none.
    """
    folder = inside(root, EPISODES_V30)
    try:
        names = sorted(p.relative_to(folder).as_posix() for p in folder.glob("chunk-*/file-*.parquet"))
    except OSError as e:
        raise DatasetError(f"{EPISODES_V30} can't be listed: {one_line(e)}") from e
    if not names:
        raise DatasetError(f"{EPISODES_V30} holds no chunk-*/file-*.parquet: the list of episodes is missing")
    return [f"{EPISODES_V30}/{name}" for name in names]


def _list_v30(root: Path, info: Info) -> Iterator[tuple[Located, list[bytes], list[str]]]:
    videos = [name for name, feature in info.features.items() if feature.dtype == "video"]
    scalars = ["episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index"]
    scalars += ["dataset_to_index"]
    for key in videos:
        scalars += [f"videos/{key}/{part}" for part in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")]
    for name in list_episode_files(root):
        with opened(root, name) as file, reading(name):
            missing = [c for c in scalars if c not in file.schema_arrow.names]
            if missing:
                raise DatasetError(f"{name} has no column {missing[0]!r}: is it of version {info.version}?")
            has_tasks = "tasks" in file.schema_arrow.names
            for group in range(file.metadata.num_row_groups):
                table = file.read_row_group(group, columns=[*scalars, *(["tasks"] if has_tasks else [])])
                tasks = _as_bytes(table["tasks"], name) if has_tasks else [[]] * table.num_rows
                columns = {c: table[c].to_pylist() for c in scalars}
                for row in range(table.num_rows):
                    values = {c: columns[c][row] for c in scalars}
                    yield _locate_v30(info, videos, values, name), tasks[row], _spans_wrong(info, videos, values)


def _locate_v30(info: Info, videos: Sequence[str], values: Mapping[str, Any], name: str) -> Located:
    recorded = _whole(values, "episode_index", name)
    rows = _rows(values, "length", name, recorded)
    start = _whole(values, "dataset_from_index", name)
    data = {part: _whole(values, f"data/{part}", name) for part in ("chunk_index", "file_index")}
    spans = {}
    for key in videos:
        place: dict[str, int | str] = {
            part: _whole(values, f"videos/{key}/{part}", name) for part in ("chunk_index", "file_index")
        }
        spans[key] = VideoSpan(
            fill_template(info.video_path, {**place, "video_key": key}, "video_path"),
            _seconds(values[f"videos/{key}/from_timestamp"]),
            _seconds(values[f"videos/{key}/to_timestamp"]),
        )
    episode = Episode(index=0, name=f"episode_{recorded}", rows=rows, frames=rows)
    return Located(episode, recorded, fill_template(info.data_path, data, "data_path"), start, spans)


def _spans_wrong(info: Info, videos: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Return what disagrees within one row of the list of episodes."""
    wrong = []
    length, start, end = values["length"], values["dataset_from_index"], values["dataset_to_index"]
    if not isinstance(end, int) or end - start != length:
        wrong.append(f"length is {length}, dataset_from_index to dataset_to_index are {start} to {end}")
    for key in videos:
        first, last = (_seconds(values[f"videos/{key}/{part}_timestamp"]) for part in ("from", "to"))
        if not (math.isfinite(first) and math.isfinite(last)):
            wrong.append(f"video {key!r} spans {first} s to {last} s: no pictures can be decoded")
        elif abs((last - first) * info.fps - length) > 0.5:
            pictures = (last - first) * info.fps
            wrong.append(
                f"video {key!r} spans {first:.3f} s to {last:.3f} s: {pictures:.1f} pictures, length is {length}"
            )
    return wrong


def _list_v21(root: Path, info: Info) -> Iterator[tuple[Located, list[bytes], list[str]]]:
    path = inside(root, EPISODES_V21)
    videos = [name for name, feature in info.features.items() if feature.dtype == "video"]
    if not path.is_file():
        raise DatasetError(f"{EPISODES_V21} is missing")
    listed = []
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                # Bytes that are no UTF-8 become lone surrogates, which _texts finds again: one bad task, not a dataset.
                entry = json.loads(line.decode("utf-8", "surrogateescape"))
                if not isinstance(entry, dict):
                    raise DatasetError(f"{EPISODES_V21} line {number} must be a JSON object")
                listed.append(entry)
    except (OSError, ValueError, RecursionError) as e:
        if isinstance(e, DatasetError):
            raise
        raise DatasetError(f"{EPISODES_V21} can't be read as JSON lines: {one_line(e)}") from e
    start = 0
    for entry in sorted(listed, key=lambda e: _whole(e, "episode_index", EPISODES_V21)):
        recorded = _whole(entry, "episode_index", EPISODES_V21)
        rows = _rows(entry, "length", EPISODES_V21, recorded)
        place: dict[str, int | str] = {"episode_chunk": recorded // info.chunks_size, "episode_index": recorded}
        spans = {
            key: VideoSpan(
                fill_template(info.video_path, {**place, "video_key": key}, "video_path"), 0.0, rows / info.fps
            )
            for key in videos
        }
        data = fill_template(info.data_path, place, "data_path")
        tasks = entry.get("tasks", [])
        texts = [t.encode("utf-8", "surrogateescape") for t in tasks if isinstance(t, str)] if tasks else []
        yield Located(Episode(0, f"episode_{recorded}", rows, rows), recorded, data, start, spans), texts, []
        start += rows


def _texts(tasks: Sequence[bytes]) -> tuple[list[str], list[str]]:
    """Return the tasks of an episode that can be read, and what is wrong with them."""
    wrong = []
    texts = []
    for task in tasks:
        try:
            texts.append(task.decode("utf-8"))
        except UnicodeDecodeError:
            wrong.append(f"its task is not UTF-8 and is left out: {task[:60]!r}")
    if len(texts) > 1:
        wrong.append(f"it has {len(texts)} tasks, the first is used: {texts[0]!r}")
    return texts, wrong


def _as_bytes(column: Any, name: str) -> list[list[bytes]]:
    """Return a column of lists of strings undecoded: a string that is not UTF-8 would fail the whole column."""
    pa = require_package("pyarrow", "data")

    kind = column.type
    if pa.types.is_string(kind):  # some writers keep one task as a plain string
        return [[] if task is None else [task] for task in column.cast(pa.binary()).to_pylist()]
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not (
        pa.types.is_string(kind.value_type)
        or pa.types.is_large_string(kind.value_type)
        or pa.types.is_null(kind.value_type)
    ):
        raise DatasetError(f"{name}: tasks must be lists of strings, are {kind}")
    lists = column.cast(pa.list_(pa.large_binary()) if pa.types.is_list(kind) else pa.large_list(pa.large_binary()))
    return [[t for t in tasks or [] if t is not None] for tasks in lists.to_pylist()]


def _whole(values: Mapping[str, Any], key: str, name: str) -> int:
    value = values.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 62:
        raise DatasetError(f"{name}: {key} must be a whole number of at least 0, got {value!r:.80}")
    return value


def _rows(values: Mapping[str, Any], key: str, name: str, recorded: int) -> int:
    rows = _whole(values, key, name)
    if rows > MAX_ROWS:
        raise DatasetError(f"{name}: episode {recorded} claims {rows} rows, more than {MAX_ROWS}: is it damaged?")
    return rows


def _seconds(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
