"""Writes new datasets as folders: an ``.npz`` for each episode and ``episodes.jsonl``."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from vlmreward.atomic import storage_errors
from vlmreward.data.dataset import Recording
from vlmreward.data.recording import Shapes, check_fps, check_pictures, check_recording
from vlmreward.data.staging import Staged
from vlmreward.errors import ConfigError


class FolderWriter:
    """Writes a new dataset; see :class:`~vlmreward.data.dataset.EpisodeWriter`.

    Pictures are kept without loss, in ``episodes/<number>.npz`` with the actions, observations and rewards. Everything
    is written in a folder of another name, which gets its own at the end.

    Args:
        root: A folder that is empty or doesn't exist.
        fps: Rows a second.
        env_id: Environment, kept in the ``infos`` of each line.
        robot: Robot, likewise.
    """

    def __init__(self, root: Path, *, fps: float, env_id: str = "", robot: str = "") -> None:
        check_fps(fps)
        self._root = Path(root).expanduser().absolute()
        self._fps, self._about = fps, {k: v for k, v in {"env_id": env_id, "robot": robot}.items() if v}
        self._staged = Staged(self._root)
        self._shapes: Shapes | None = None
        self._sizes: dict[str, tuple[int, int]] = {}
        self._lines: list[str] = []

    def add(self, recording: Recording) -> None:
        """Write one episode; see :class:`~vlmreward.data.dataset.EpisodeWriter`.

        Raises:
            ConfigError: Its shapes differ from those of the first one, or it has no rows.
            StorageError: The disk is full.
        """
        if not self._staged.is_open:
            raise ConfigError(f"{self._root.name} was finished: write a new dataset")
        shapes, seen, action = check_recording(recording, self._shapes)
        name = f"episodes/{len(self._lines):06d}.npz"
        arrays = {"actions": action} | ({"observations": seen} if seen.shape[1] else {})
        if recording.reward is not None:
            arrays["rewards"] = np.asarray(recording.reward, dtype=np.float32)
        if taken := sorted(set(arrays) & set(recording.frames)):
            raise ConfigError(f"a camera can't be called {taken[0]!r} in a folder: give it another name")
        path = self._staged.path / name
        with storage_errors(path):
            path.parent.mkdir(exist_ok=True)
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for camera in recording.frames:
                    self._write_pictures(archive, recording, camera)
                for key, values in arrays.items():
                    with archive.open(f"{key}.npy", "w") as member:
                        npy.write_array(member, np.ascontiguousarray(values), allow_pickle=False)
        line: dict[str, Any] = {
            "episode_id": f"{len(self._lines):06d}",
            "video": {camera: f"{name}:{camera}" for camera in recording.frames},
            "task": recording.instruction,
            "fps": self._fps,
            **{key: f"{name}:{key}" for key in arrays},
            "terminated": bool(recording.terminated),
            "truncated": bool(recording.truncated),
            "infos": {**self._about, **recording.infos},
        }
        if recording.success is not None:
            line["success"] = bool(recording.success)
        self._lines.append(json.dumps(line, ensure_ascii=False))
        self._shapes = shapes

    def finish(self) -> None:
        """Write what makes it a whole dataset; see :class:`~vlmreward.data.dataset.EpisodeWriter`.

        Raises:
            ConfigError: No episode was added.
        """
        if not self._lines or not self._staged.is_open:
            raise ConfigError(f"{self._root.name} holds no episode or was finished: add episodes to a new one")
        with storage_errors(self._root):
            (self._staged.path / "episodes.jsonl").write_text("\n".join(self._lines) + "\n", encoding="utf-8")
        self._staged.commit()

    def _write_pictures(self, archive: zipfile.ZipFile, recording: Recording, camera: str) -> None:
        pictures = check_pictures(recording, camera, self._sizes.get(camera))
        with archive.open(f"{camera}.npy", "w", force_zip64=True) as member:
            for number, picture in enumerate(pictures):
                if not number:
                    self._sizes[camera] = picture.shape[:2]
                    shape = (len(recording.action) + 1, *picture.shape)
                    npy.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
                member.write(np.ascontiguousarray(picture).tobytes())
