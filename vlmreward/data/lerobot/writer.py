"""Writes new LeRobot datasets of version 3.0 with pyarrow and PyAV, episode by episode."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.atomic import storage_errors, write_bytes
from vlmreward.data.dataset import Recording
from vlmreward.data.lerobot.layout import INFO, SHORT, fill_template
from vlmreward.data.lerobot.stats import PictureStats, Stats, Whole, of_rows, to_lists
from vlmreward.data.lerobot.video_file import CHUNKS_SIZE, VIDEO_MB, VIDEO_PATH, VideoFile
from vlmreward.data.recording import Shapes, check_fps, check_pictures, check_recording
from vlmreward.data.staging import Staged
from vlmreward.errors import ConfigError
from vlmreward.optional import require_package
from vlmreward.types import FloatArray

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
DATA_MB = 100
_EPISODES_AT_ONCE = 64  # rows of the list of episodes that are held before they are written


class LeRobotWriter:
    """Writes a new dataset; see :class:`~vlmreward.data.dataset.EpisodeWriter`.

    A row is a frame: of the T + 1 pictures and observations of a recording the last is not kept, as LeRobot has no
    place for it. Cameras become ``observation.images.<name>``, the observation ``observation.state``; rewards, ends and
    success stand in ``next.reward``, ``next.done`` (either end), ``next.terminated``, ``next.truncated`` and
    ``next.success`` (true in the last row of a success), which concern what follows the row's action. Everything is
    written in a folder of another name, which gets its own at the end.

    Args:
        root: A folder that is empty or doesn't exist.
        fps: Rows a second.
        env_id: Environment; stands with ``infos`` of each recording, as JSON, in the list of episodes.
        robot: ``robot_type``.
        codec: Of the videos, as PyAV names it, e.g. ``"libx264"`` or ``"libsvtav1"``.
        codec_options: Options of the codec; None is near lossless for libx264, the codec's own default for others.

    Raises:
        DatasetError: The folder isn't empty, or another writer is at work there.
        ConfigError: ``fps`` is not a number above 0, or the codec isn't known.
    """

    def __init__(
        self,
        root: Path,
        *,
        fps: float,
        env_id: str = "",
        robot: str = "",
        codec: str = "libx264",
        codec_options: Mapping[str, str] | None = None,
    ) -> None:
        av = require_package("av", "data")
        require_package("pyarrow", "data")
        check_fps(fps)
        if codec not in av.codecs_available:
            raise ConfigError(f"codec {codec!r} is not in this PyAV: use 'libx264'")
        self._root = Path(root).expanduser().absolute()
        self._staged = Staged(self._root)
        self._fps, self._env_id, self._robot, self._codec = float(fps), env_id, robot, codec
        fine = {"crf": "18", "preset": "veryfast"} if codec == "libx264" else {}
        self._options = fine if codec_options is None else dict(codec_options)
        self._videos: dict[str, VideoFile] = {}
        self._features: dict[str, dict[str, Any]] = {}
        self._shapes: Shapes | None = None
        self._data: Any = None
        self._data_file = -1
        self._episodes: Any = None
        self._listed: list[dict[str, Any]] = []
        self._tasks: dict[str, int] = {}
        self._whole: dict[str, Whole] = {}
        self._rows = 0
        self._count = 0
        self._broken = False

    def add(self, recording: Recording) -> None:
        """Write one episode; see :class:`~vlmreward.data.dataset.EpisodeWriter`.

        Raises:
            ConfigError: Its shapes differ from those of the first one, it has no rows or values that are not finite, or
                an earlier one failed.
            StorageError: The disk is full.
        """
        if self._broken or not self._staged.is_open:
            state = "failed while an episode was written" if self._broken else "was finished"
            raise ConfigError(f"the dataset {self._root.name} {state}: write a new one")
        shapes, seen, action = check_recording(recording, self._shapes)
        columns = self._columns(recording, seen, action)
        rows = len(action)
        self._broken = True  # until all of the episode is written: pictures can't be taken back out of a video
        stats: dict[str, Stats] = {}
        spans: dict[str, Any] = {}
        for camera in recording.frames:
            stats[SHORT + camera], spans[SHORT + camera] = self._add_video(recording, camera, rows)
        if not self._count:
            self._features |= {name: _feature(values) for name, values in columns.items()}
        task = self._tasks.setdefault(recording.instruction, len(self._tasks))
        columns |= {
            "timestamp": (np.arange(rows) / self._fps).astype(np.float32),
            "frame_index": np.arange(rows),
            "episode_index": np.full(rows, self._count),
            "index": self._rows + np.arange(rows),
            "task_index": np.full(rows, task),
        }
        with storage_errors(self._root):
            place = self._write_rows(columns)
            stats |= {name: of_rows(values) for name, values in columns.items()}
            self._list(recording, rows, place, spans, stats)
        for name, of_episode in stats.items():
            self._whole.setdefault(name, Whole()).add(of_episode)
        self._shapes = shapes
        self._rows += rows
        self._count += 1
        self._broken = False

    def finish(self) -> None:
        """Write what makes it a whole dataset (list of episodes, tasks, statistics, ``info.json``) and name it.

        Raises:
            ConfigError: No episode was added, or one failed.
        """
        if self._broken or not self._staged.is_open or not self._count:
            state = "holds no episode" if not self._count else "failed or was finished before"
            raise ConfigError(f"the dataset {self._root.name} {state}: add episodes to a new one")
        with storage_errors(self._root):
            for video in self._videos.values():
                video.close()
            self._data.close()
            self._flush_episodes()
            self._episodes.close()
            self._write_tasks()
        whole = {name: to_lists(whole.stats()) for name, whole in self._whole.items()}
        write_bytes(self._staged.path / "meta/stats.json", _json(whole))
        write_bytes(self._staged.path / INFO, _json(self._info()))
        self._staged.commit()

    def _columns(self, recording: Recording, seen: FloatArray, action: FloatArray) -> dict[str, Any]:
        """Return the columns of an episode's rows that come from the recording."""
        rows = len(action)
        ends = np.zeros((2, rows), dtype=np.bool_)
        ends[:, -1] = recording.terminated, recording.truncated
        columns: dict[str, Any] = {"observation.state": seen[:-1]} if seen.shape[1] else {}
        columns["action"] = action
        if recording.reward is not None:
            columns["next.reward"] = np.asarray(recording.reward, dtype=np.float32)
        columns |= {"next.done": ends.any(axis=0), "next.terminated": ends[0], "next.truncated": ends[1]}
        if recording.success is not None:
            columns["next.success"] = np.arange(rows) == (rows - 1 if recording.success else rows)
        if self._count and ("next.success" in columns) != ("next.success" in self._features):
            raise ConfigError(
                "next.success is recorded of some episodes and not of others: record it of all or of none"
            )
        for name, values in columns.items():
            if not np.isfinite(values).all():
                raise ConfigError(f"{name} of an episode has values that are not finite: leave the episode out")
        return columns

    def _add_video(self, recording: Recording, camera: str, rows: int) -> tuple[Stats, dict[str, Any]]:
        key = SHORT + camera
        size = tuple(self._features[key]["shape"][:2]) if key in self._features else None
        found = PictureStats()
        every = max(1, rows // 1000)
        video = self._videos.setdefault(key, VideoFile(self._staged.path, key, self._fps, self._codec, self._options))
        begin = 0
        for count, picture in enumerate(check_pictures(recording, camera, size)):
            height, width = picture.shape[:2]
            if key not in self._features:
                self._features[key] = self._video_feature(key, height, width)
            if not count:
                video.begin(width, height)
                begin = video.frames
            if count < rows:  # the picture after the last action has no row
                video.add(picture)
                if count % every == 0:
                    found.add(picture)
        return found.stats(), {**video.place, "from": begin / self._fps, "to": video.frames / self._fps}

    def _video_feature(self, key: str, height: int, width: int) -> dict[str, Any]:
        if height % 2 or width % 2:
            raise ConfigError(f"pictures of {key} are {width}x{height}: video needs even sizes, render them so")
        names = {"libx264": "h264", "libsvtav1": "av1", "libaom-av1": "av1", "libx265": "hevc"}
        of_video = {
            "video.height": height,
            "video.width": width,
            "video.codec": names.get(self._codec, self._codec),
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": _plain(self._fps),
            "video.channels": 3,
            "has_audio": False,
        }
        shape = [height, width, 3]
        return {"dtype": "video", "shape": shape, "names": ["height", "width", "channels"], "info": of_video}

    def _write_rows(self, columns: Mapping[str, Any]) -> dict[str, int]:
        """Write the rows of an episode as a row group; returns chunk and number of the file."""
        pa = require_package("pyarrow", "data")
        parquet = require_package("pyarrow.parquet", "data")
        arrays = {name: _array(pa, values) for name, values in columns.items()}
        if self._data is None or self._data_path().stat().st_size >= DATA_MB << 20:
            if self._data is not None:
                self._data.close()
            self._data_file += 1
            self._data_path().parent.mkdir(parents=True, exist_ok=True)
            schema = pa.schema([(name, array.type) for name, array in arrays.items()])
            described = {"info": {"features": {f.name: _hf_feature(pa, f.type) for f in schema}}}
            schema = schema.with_metadata({"huggingface": json.dumps(described)})
            self._data = parquet.ParquetWriter(self._data_path(), schema, compression="snappy")
        table = pa.table(arrays, schema=self._data.schema)
        self._data.write_table(table, row_group_size=table.num_rows)
        return {"chunk_index": self._data_file // CHUNKS_SIZE, "file_index": self._data_file % CHUNKS_SIZE}

    def _data_path(self) -> Path:
        place = {"chunk_index": self._data_file // CHUNKS_SIZE, "file_index": self._data_file % CHUNKS_SIZE}
        return self._staged.path / fill_template(DATA_PATH, place, "data_path")

    def _list(
        self,
        recording: Recording,
        rows: int,
        place: Mapping[str, int],
        spans: Mapping[str, Any],
        stats: Mapping[str, Stats],
    ) -> None:
        entry: dict[str, Any] = {
            "episode_index": self._count,
            "tasks": [recording.instruction],
            "length": rows,
            "data/chunk_index": place["chunk_index"],
            "data/file_index": place["file_index"],
            "dataset_from_index": self._rows,
            "dataset_to_index": self._rows + rows,
        }
        for key, span in spans.items():
            entry |= {f"videos/{key}/{part}": span[part] for part in ("chunk_index", "file_index")}
            entry |= {f"videos/{key}/{part}_timestamp": span[part] for part in ("from", "to")}
        for name, of_episode in stats.items():
            entry |= {f"stats/{name}/{what}": value for what, value in to_lists(of_episode).items()}
        entry |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        entry["infos"] = json.dumps({"env_id": self._env_id} | dict(recording.infos), ensure_ascii=False)
        self._listed.append(entry)
        if len(self._listed) >= _EPISODES_AT_ONCE:
            self._flush_episodes()

    def _flush_episodes(self) -> None:
        pa = require_package("pyarrow", "data")
        parquet = require_package("pyarrow.parquet", "data")
        if not self._listed:
            return
        path = self._staged.path / EPISODES_PATH
        if self._episodes is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._episodes = parquet.ParquetWriter(
                path, pa.Table.from_pylist(self._listed).schema, compression="snappy"
            )
        self._episodes.write_table(pa.Table.from_pylist(self._listed, schema=self._episodes.schema))
        self._listed.clear()

    def _write_tasks(self) -> None:
        """Write the tasks as LeRobot does: a pandas table whose index is the text."""
        pa = require_package("pyarrow", "data")
        parquet = require_package("pyarrow.parquet", "data")
        table = pa.table({"task_index": pa.array(self._tasks.values(), pa.int64()), "task": pa.array(self._tasks)})
        text = {"pandas_type": "unicode", "numpy_type": "object"}
        described = {
            "index_columns": ["task"],
            "column_indexes": [{"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}],
            "columns": [
                {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
                | {"metadata": None},
                {"name": "task", "field_name": "task", **text, "metadata": None},
            ],
            "creator": {"library": "pyarrow", "version": pa.__version__},
            "pandas_version": "2.2.3",
        }
        parquet.write_table(
            table.replace_schema_metadata({"pandas": json.dumps(described)}), self._staged.path / "meta/tasks.parquet"
        )

    def _info(self) -> dict[str, Any]:
        numbers = (
            ("timestamp", "float32"),
            *((n, "int64") for n in ("frame_index", "episode_index", "index", "task_index")),
        )
        given = {"dtype": "", "shape": [1], "names": None}
        return {
            "codebase_version": "v3.0",
            "robot_type": self._robot or None,
            "total_episodes": self._count,
            "total_frames": self._rows,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNKS_SIZE,
            "data_files_size_in_mb": DATA_MB,
            "video_files_size_in_mb": VIDEO_MB,
            "fps": _plain(self._fps),
            "splits": {"train": f"0:{self._count}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._videos else None,
            "features": self._features | {name: given | {"dtype": dtype} for name, dtype in numbers},
        }


def _feature(values: Any) -> dict[str, Any]:
    """Return the entry of ``info.json`` for a column of shape (T,) or (T, D)."""
    shape = [int(values.shape[1])] if values.ndim == 2 else [1]
    return {"dtype": str(values.dtype), "shape": shape, "names": None}


def _array(pa: Any, values: Any) -> Any:
    """Return a column as LeRobot writes it: one number a row is a plain column."""
    if values.ndim == 1 or values.shape[1] == 1:
        return pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values.shape[1])


def _hf_feature(pa: Any, kind: Any) -> dict[str, Any]:
    """Return how Hugging Face datasets describes a column."""
    if pa.types.is_fixed_size_list(kind):
        return {"feature": _hf_feature(pa, kind.value_type), "length": kind.list_size, "_type": "Sequence"}
    return {"dtype": {"float": "float32"}.get(str(kind), str(kind)), "_type": "Value"}


def _plain(number: float) -> int | float:
    return int(number) if float(number).is_integer() else number


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=4, ensure_ascii=False).encode("utf-8")
