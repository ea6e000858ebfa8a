"""Writes new datasets as Minari does, with h5py alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.atomic import write_bytes
from vlmreward.data.dataset import Recording
from vlmreward.data.hdf5_writer import Hdf5Writer
from vlmreward.errors import ConfigError
from vlmreward.types import FloatArray

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

    _reward_dtype = np.float64

    def __init__(self, root: Path, *, fps: float, env_id: str = "", robot: str = "") -> None:
        root = Path(root).expanduser()
        super().__init__(root, root / "data" / FILE, fps)
        self._about: dict[str, Any] = {"fps": fps, "env_id": env_id, "robot": robot}

    def add(self, recording: Recording) -> None:
        """Write one episode; see the base class. A camera can't be called ``state``."""
        if "state" in recording.frames:
            raise ConfigError("a camera can't be called 'state' in a Minari dataset: give it another name")
        super().add(recording)

    def finish(self) -> None:
        """Write what makes it a whole dataset; see the base class."""
        super().finish()
        write_bytes(self._path.with_name(METADATA), json.dumps(self._metadata(), ensure_ascii=False).encode())

    def _place(self) -> tuple[Any, str]:
        return self._file, f"episode_{self._count}"

    def _write(self, group: Any, recording: Recording, seen: FloatArray) -> None:
        rows = len(seen) - 1
        group.attrs["id"], group.attrs["total_steps"] = self._count, rows
        group.attrs["instruction"] = recording.instruction
        group.attrs["vlmreward_infos"] = json.dumps(dict(recording.infos), ensure_ascii=False)
        ends = np.zeros((2, rows), dtype=np.bool_)
        ends[:, -1] = recording.terminated, recording.truncated
        group["terminations"], group["truncations"] = ends
        group.create_group("infos")
        observations = group.create_group("observations")
        if seen.shape[1]:
            observations["state"] = seen

    def _picture_places(self, camera: str, rows: int) -> list[tuple[str, int, int]]:
        return [(f"observations/{camera}", 0, rows + 1)]

    def _metadata(self) -> dict[str, Any]:
        assert self._shapes is not None
        spaces = {"state": _box([self._shapes.observation], "float32")} if self._shapes.observation else {}
        spaces |= {camera: _picture_box(*size) for camera, size in self._sizes.items()}
        name = re.sub(r"[^\w-]+", "-", self._root.name, flags=re.ASCII).strip("-") or "dataset"
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
