"""Reads LeRobot datasets of versions 3.0 and 2.1 with pyarrow and PyAV; lerobot itself is never imported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vlmreward.data.dataset import Episode, Frame, Problem, Transitions, Undecodable
from vlmreward.data.lerobot.check import find_problems
from vlmreward.data.lerobot.episodes import Located, read_episodes
from vlmreward.data.lerobot.images import decode_images
from vlmreward.data.lerobot.layout import Info, read_info, short_name
from vlmreward.data.lerobot.origins import read_origins, stamp
from vlmreward.data.lerobot.parquet import opened, read_episode, reading, to_numbers
from vlmreward.data.paths import inside
from vlmreward.data.video import decode_span
from vlmreward.errors import DatasetError
from vlmreward.types import FloatArray

_NUMBERS = ("float", "int", "uint", "bool")
SUCCESS = "next.success"
_SUCCESS_COLUMNS = ("episode_index", "frame_index", SUCCESS)


class LeRobotReader:
    """A LeRobot dataset, v3.0 or v2.1, opened for reading; see :class:`~vlmreward.data.dataset.EpisodeDataset`.

    A row is a frame: ``episode.frames == episode.rows``, so the last row of an episode has no successor. Cameras are
    features of pictures; ``observation.images.front`` is called ``front``, and both names are understood. The
    instruction is the episode's first task.

    Args:
        root: The dataset's folder.

    Raises:
        DatasetError: It is damaged, of another version, or holds no episode.
        DependencyNotInstalled: pyarrow is missing.
    """

    format = "lerobot"

    def __init__(self, root: Path) -> None:
        self.root = Path(root).expanduser().resolve()
        self.info: Info = read_info(self.root)
        self.fps: float | None = self.info.fps
        keys = [name for name, feature in self.info.features.items() if feature.is_camera]
        short = [short_name(key) for key in keys]
        self._keys = dict(zip(short if len(set(short)) == len(keys) else keys, keys, strict=True))
        self.cameras = tuple(self._keys)
        self.features: Mapping[str, str] = {
            name: f"{f.dtype} ({', '.join(map(str, f.shape))}{',' if len(f.shape) == 1 else ''})"
            for name, f in self.info.features.items()
        }
        self.located, self._listed_wrong = read_episodes(self.root, self.info)
        if SUCCESS in self.info.features:
            self.located = _with_success(self.root, self.located)
        self.episodes: Sequence[Episode] = [located.episode for located in self.located]

    def frames(self, episode: Episode, camera: str, start: int = 0) -> Iterator[Frame | Undecodable]:
        """Decode the pictures of an episode; see :class:`~vlmreward.data.dataset.EpisodeDataset`.

        Raises:
            DatasetError: There is no such camera.
        """
        key = self._key(camera)
        located = self.located[episode.index]
        if self.info.features[key].dtype == "image":
            return decode_images(self.root, located, key, start)
        span = located.videos[key]
        try:
            path = inside(self.root, span.name)
        except DatasetError as e:
            return iter([Undecodable(str(e))] * (episode.frames - start))
        return decode_span(path, span.start_s, span.end_s, episode.frames, self.info.fps, start)

    def transitions(self, episode: Episode) -> Transitions:
        """Read everything of an episode but its pictures.

        The observation is ``observation.state`` and whatever else of ``observation.*`` are numbers, in the dataset's
        order; the one after the last action is the last one again. ``next.terminated`` is a true end where it is
        recorded, else ``next.done`` where ``next.truncated`` isn't set. An end that isn't recorded is truncated.

        Raises:
            DatasetError: There are no actions, or they can't be read.
        """
        features = self.info.features
        if "action" not in features:
            raise DatasetError(f"the dataset has no feature 'action': there are {', '.join(features)}")
        vectors = [n for n, f in features.items() if n.startswith("observation.") and f.dtype.startswith(_NUMBERS)]
        ends = [n for n in ("next.done", "next.truncated", "next.terminated") if n in features]
        rewards = ["next.reward"] if "next.reward" in features else []
        read = self._read(episode, ["action", *vectors, *ends, *rewards])
        rows = episode.rows
        flat = {name: numbers.reshape(rows, -1) for name, numbers in read.items()}
        seen = np.concatenate([flat[n] for n in vectors], axis=1) if vectors else np.zeros((rows, 0), np.float32)
        flags = {name: flat[name][:, 0] > 0.5 for name in ends}
        none = np.zeros(rows, dtype=np.bool_)
        truncated = flags.get("next.truncated", none).copy()
        terminated = flags.get("next.terminated", flags.get("next.done", none) & ~truncated)
        truncated[-1] |= not terminated[-1]
        return Transitions(
            observation=np.concatenate([seen, seen[-1:]]),
            action=flat["action"],
            reward=flat["next.reward"][:, 0] if rewards else None,
            terminated=terminated,
            truncated=truncated,
        )

    def column(self, episode: Episode, name: str) -> FloatArray:
        """Read a column of one number a row, float32, shape (T,).

        Raises:
            UnknownColumnError: There is no such column.
            DatasetError: It can't be read, or is no number a row.
        """
        numbers = self._read(episode, [name])[name]
        if numbers.size != episode.rows:
            raise DatasetError(f"column {name!r} holds {numbers.shape[1:]} numbers a row, not one")
        return numbers.reshape(-1)

    def fingerprint(self, camera: str) -> str:
        """Return what changes with the pictures of a camera; see :class:`~vlmreward.data.dataset.EpisodeDataset`.

        Labels that are written into data files change their sizes and times: pictures in them are known by what the
        file was before, as ``meta/vlmreward_origins.json`` remembers it.
        """
        key = self._key(camera)
        is_video = self.info.features[key].dtype == "video"
        names = {loc.videos[key].name if is_video else loc.data for loc in self.located}
        origins = {} if is_video else read_origins(self.root)
        layout = [
            (loc.recorded, loc.episode.rows, span.name, span.start_s, span.end_s)
            if (span := loc.videos.get(key)) is not None
            else (loc.recorded, loc.episode.rows, loc.data)
            for loc in self.located
        ]
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps(["lerobot", key, self.info.fps, layout]).encode())
        for name in sorted(names):
            found = stamp(inside(self.root, name))
            known = origins.get(name)
            digest.update(json.dumps([name, known.origin if known and known.now == found else found]).encode())
        return digest.hexdigest()

    def problems(self) -> list[Problem]:
        """Look for what is wrong; see :class:`~vlmreward.data.dataset.EpisodeDataset`."""
        return [*self._listed_wrong, *find_problems(self.root, self.info, self.located)]

    def _key(self, camera: str) -> str:
        key = self._keys.get(camera, camera)
        if key not in self._keys.values():
            raise DatasetError(f"there is no camera {camera!r}: there are {', '.join(self.cameras) or 'none'}")
        return key

    def _read(self, episode: Episode, columns: Sequence[str]) -> dict[str, FloatArray]:
        located = self.located[episode.index]
        arrays = read_episode(self.root, located.data, located.recorded, episode.rows, columns)
        with reading(located.data):
            return {name: to_numbers(array, f"{located.data}: {name}") for name, array in arrays.items()}


def _with_success(root: Path, located: Sequence[Located]) -> list[Located]:
    """Add whether each episode ended in success: the value of its last row, where its file can be read."""
    last: dict[int, tuple[int, bool]] = {}
    for name in dict.fromkeys(loc.data for loc in located):
        try:
            with opened(root, name) as file, reading(name):
                for group in range(file.metadata.num_row_groups):
                    table = file.read_row_group(group, columns=list(_SUCCESS_COLUMNS))
                    episodes, frames, success = (
                        to_numbers(table[c], c) if c == SUCCESS else table[c].to_numpy() for c in _SUCCESS_COLUMNS
                    )
                    order = np.lexsort((frames, episodes))
                    for row in order[np.flatnonzero(np.diff(episodes[order], append=np.iinfo(np.int64).max))]:
                        recorded, frame = int(episodes[row]), int(frames[row])
                        if recorded not in last or frame >= last[recorded][0]:
                            last[recorded] = (frame, bool(success[row] > 0.5))
        except DatasetError:
            continue  # problems() names the file; its episodes have no known outcome
    return [
        replace(loc, episode=replace(loc.episode, success=last[loc.recorded][1])) if loc.recorded in last else loc
        for loc in located
    ]
