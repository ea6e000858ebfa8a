"""Writes new datasets as Minari does, with h5py alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.atomic import commit, storage_errors, write_bytes
from vlmreward.data.dataset import Recording
from vlmreward.data.hdf5_writer import Hdf5Writer, write_pictures
from vlmreward.data.recording import check_pictures, check_recording
from vlmreward.errors import ConfigError

FILE = "main_data.hdf5"
METADATA = "metadata.json"
VERSION = "0.5.4"
"""Of Minari: what is written has the form that this version reads."""


class MinariWriter(Hdf5Writer):
    """Writes a new dataset; see :class:`~vlmreward.data.dataset.EpisodeWriter`.

    The observation space is a Dict of the cameras and, where there are observations, ``state``. Pictures are compressed
    without loss (``jpeg_encoding`` is false). The task, success, environment and infos are attributes of the episode;
    ``metadata.json``, which also holds ``fps``, comes last.

    Args:
        root: A folder that is empty or doesn't exist.
        fps: Rows a second.
        env_id: Environment, kept in the metadata; it is no ``env_spec``, which only Gymnasium could give.
        robot: Robot, kept in the metadata.
    """

    def __init__(self, root: Path, *, fps: float, env_id: str = "", robot: str = "") -> None:
        root = Path(root).expanduser()
        super().__init__(root, root / "data" / FILE, fps)
        self._about: dict[str, Any] = {"fps": fps, "env_id": env_id, "robot": robot}
        self._name = root.absolute().name
        self._rows = 0

    def add(self, recording: Recording) -> None:
        """Write one episode; see :class:`~vlmreward.data.dataset.EpisodeWriter`.

        Raises:
            ConfigError: Its shapes differ from those of the first one, or it has no rows.
            StorageError: The disk is full.
        """
        self._check_open()
        shapes, seen, action = check_recording(recording, self._shapes)
        if "state" in recording.frames:
            raise ConfigError("a camera can't be called 'state' in a Minari dataset: give it another name")
        rows = len(action)
        with storage_errors(self._path), self._whole(self._file, f"episode_{self._count}") as group:
            group.attrs["id"], group.attrs["total_steps"] = self._count, rows
            group.attrs["instruction"] = recording.instruction
            group.attrs["vlmreward_infos"] = json.dumps(dict(recording.infos), ensure_ascii=False)
            group.attrs["has_rewards"] = recording.reward is not None
            if recording.success is not None:
                group.attrs["success"] = bool(recording.success)
            ends = np.zeros((2, rows), dtype=np.bool_)
            ends[:, -1] = recording.terminated, recording.truncated
            group["actions"] = action
            reward = np.zeros(rows) if recording.reward is None else recording.reward
            group["rewards"] = np.asarray(reward, dtype=np.float64)
            group["terminations"], group["truncations"] = ends
            group.create_group("infos")
            observations = group.create_group("observations")
            if seen.shape[1]:
                observations["state"] = seen
            for camera in recording.frames:
                pictures = check_pictures(recording, camera, self._sizes.get(camera))
                self._sizes[camera] = write_pictures(observations, pictures, [(camera, 0, rows + 1)])
        self._shapes = shapes
        self._count += 1
        self._rows += rows

    def finish(self) -> None:
        """Write what makes it a whole dataset; see :class:`~vlmreward.data.dataset.EpisodeWriter`.

        Raises:
            ConfigError: No episode was added.
        """
        self._check_open()
        if not self._count:
            raise ConfigError(f"{self._name} would hold no episode: add one before finishing")
        with storage_errors(self._path):
            self._close()
            self._path.parent.mkdir(parents=True, exist_ok=True)
        commit(self._temporary, self._path)
        self._cleanup.detach()
        write_bytes(self._path.with_name(METADATA), json.dumps(self._metadata(), ensure_ascii=False).encode())

    def _metadata(self) -> dict[str, Any]:
        assert self._shapes is not None
        spaces = {"state": _box([self._shapes.observation], "float32")} if self._shapes.observation else {}
        spaces |= {camera: _picture_box(*size) for camera, size in self._sizes.items()}
        name = re.sub(r"[^\w-]+", "-", self._name, flags=re.ASCII).strip("-") or "dataset"
        return {
            "total_episodes": self._count,
            "total_steps": self._rows,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "observation_space": json.dumps({"type": "Dict", "subspaces": dict(sorted(spaces.items()))}),
            "action_space": json.dumps(_box([self._shapes.action], "float32")),
            "dataset_id": name if re.search(r"-v\d+$", name) else f"{name}-v0",
            "minari_version": VERSION,
            "dataset_size": round(self._path.stat().st_size / 1e6, 1),
            **self._about,
        }


def _box(shape: list[int], dtype: str) -> dict[str, Any]:
    count = int(np.prod(shape))
    low: Any = np.full(count, -np.inf).reshape(shape).tolist()
    high: Any = np.full(count, np.inf).reshape(shape).tolist()
    return {"type": "Box", "dtype": dtype, "shape": shape, "low": low, "high": high}


def _picture_box(height: int, width: int) -> dict[str, Any]:
    shape = [height, width, 3]
    low, high = np.zeros(shape, int).tolist(), np.full(shape, 255).tolist()
    return {"type": "Box", "dtype": "uint8", "shape": shape, "low": low, "high": high}
