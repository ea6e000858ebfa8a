"""Writes new datasets as robomimic does, in one HDF5 file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.data.dataset import Recording
from vlmreward.data.hdf5 import SUFFIXES
from vlmreward.data.hdf5_writer import Hdf5Writer
from vlmreward.types import FloatArray

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

    _reward_dtype = np.float32

    def __init__(self, root: Path, *, fps: float, env_id: str = "", robot: str = "") -> None:
        root = Path(root).expanduser()
        path = root if root.suffix.lower() in SUFFIXES else root / FILE
        super().__init__(root, path, fps)
        self._data = self._file.create_group("data")
        about = {"env_name": env_id, "type": 2, "fps": fps, "env_kwargs": {"robots": robot} if robot else {}}
        self._data.attrs["env_args"] = json.dumps(about)

    def _place(self) -> tuple[Any, str]:
        return self._data, f"demo_{self._count}"

    def _write(self, group: Any, recording: Recording, seen: FloatArray) -> None:
        rows = len(seen) - 1
        group.attrs["num_samples"] = rows
        group.attrs["ep_meta"] = json.dumps({"lang": recording.instruction}, ensure_ascii=False)
        group.attrs["infos"] = json.dumps(dict(recording.infos), ensure_ascii=False)
        group.attrs["terminated"], group.attrs["truncated"] = bool(recording.terminated), bool(recording.truncated)
        group["dones"] = (np.arange(rows) == rows - 1).astype(np.int64)
        if seen.shape[1]:
            group["obs/state"], group["next_obs/state"] = seen[:-1], seen[1:]

    def _picture_places(self, camera: str, rows: int) -> list[tuple[str, int, int]]:
        return [(f"obs/{camera}", 0, rows), (f"next_obs/{camera}", 1, rows)]

    def _complete(self) -> None:
        self._data.attrs["total"] = self._rows
