"""Writes new datasets as robomimic does, in one HDF5 file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from vlmreward.atomic import commit, storage_errors
from vlmreward.data.dataset import Recording
from vlmreward.data.hdf5 import SUFFIXES
from vlmreward.data.hdf5_writer import Hdf5Writer, write_pictures
from vlmreward.data.recording import check_pictures, check_recording
from vlmreward.errors import ConfigError

FILE = "demo.hdf5"


class RobomimicWriter(Hdf5Writer):
    """Writes a new dataset; see :class:`~vlmreward.data.dataset.EpisodeWriter`.

    Pictures stand in ``obs/<camera>`` and, one later, in ``next_obs/<camera>``, compressed without loss;
    observations in ``obs/state``. ``dones`` is 1 at the end of each episode, as robomimic's ``done_mode`` 1 has it;
    true ends, time limits, success, the task (``ep_meta``, as RoboCasa has it) and infos are attributes of the demo.
    Rewards are 0 where none are recorded, because robomimic needs some, and the attribute ``has_rewards`` says so.

    Args:
        root: A file that doesn't exist, ``*.hdf5``; or a folder that is empty or doesn't exist, for a ``demo.hdf5``.
        fps: Rows a second.
        env_id: Environment, kept in ``env_args``.
        robot: Robot, kept in ``env_args``.
    """

    def __init__(self, root: Path, *, fps: float, env_id: str = "", robot: str = "") -> None:
        root = Path(root).expanduser()
        path = root if root.suffix.lower() in SUFFIXES else root / FILE
        super().__init__(root, path, fps)
        self._data = self._file.create_group("data")
        about = {"env_name": env_id, "type": 2, "fps": fps, "env_kwargs": {"robots": robot} if robot else {}}
        self._data.attrs["env_args"] = json.dumps(about)
        self._rows = 0

    def add(self, recording: Recording) -> None:
        """Write one episode; see :class:`~vlmreward.data.dataset.EpisodeWriter`.

        Raises:
            ConfigError: Its shapes differ from those of the first one, or it has no rows.
            StorageError: The disk is full.
        """
        self._check_open()
        shapes, seen, action = check_recording(recording, self._shapes)
        rows = len(action)
        name = f"demo_{self._count}"
        with storage_errors(self._path), self._whole(self._data, name) as group:
            group.attrs["num_samples"] = rows
            group.attrs["ep_meta"] = json.dumps({"lang": recording.instruction}, ensure_ascii=False)
            group.attrs["infos"] = json.dumps(dict(recording.infos), ensure_ascii=False)
            group.attrs["has_rewards"] = recording.reward is not None
            group.attrs["terminated"], group.attrs["truncated"] = bool(recording.terminated), bool(recording.truncated)
            if recording.success is not None:
                group.attrs["success"] = bool(recording.success)
            group["actions"] = action
            reward = np.zeros(rows) if recording.reward is None else recording.reward
            group["rewards"] = np.asarray(reward, dtype=np.float32)
            group["dones"] = (np.arange(rows) == rows - 1).astype(np.int64)
            if seen.shape[1]:
                group["obs/state"], group["next_obs/state"] = seen[:-1], seen[1:]
            for camera in recording.frames:
                pictures = check_pictures(recording, camera, self._sizes.get(camera))
                self._sizes[camera] = write_pictures(
                    group, pictures, [(f"obs/{camera}", 0, rows), (f"next_obs/{camera}", 1, rows)]
                )
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
            raise ConfigError(f"{self._path.name} would hold no episode: add one before finishing")
        with storage_errors(self._path):
            self._data.attrs["total"] = self._rows
            self._close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        commit(self._temporary, self._path)
        self._cleanup.detach()
