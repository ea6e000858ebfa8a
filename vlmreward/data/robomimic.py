"""robomimic's HDF5 files, and those of LIBERO, robosuite, MimicGen and RoboCasa, which are laid out alike.

An episode is ``data/demo_<i>``: ``actions``, ``rewards``, ``dones``, ``obs/<key>`` and often ``next_obs/<key>``, each
with T rows. Cameras are the keys of ``obs`` with pictures uint8 (T, H, W, 3), as they are stored: LIBERO's stand on
their head. With ``next_obs`` there is a picture after the last action, else the last row has no successor.

Only h5py is used. Labels are ``rewards_<name>`` beside ``rewards``; ``/mask`` and everything else stay as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.data.dataset import Episode, Format, Problem, Transitions
from vlmreward.data.hdf5 import (
    SUFFIXES,
    find,
    hdf5_errors,
    is_numeric,
    leaves,
    length_of,
    open_hdf5,
    picture_shape,
    read_attribute,
    read_rows,
)
from vlmreward.data.hdf5_dataset import Hdf5Dataset, Span
from vlmreward.data.hdf5_labels import Hdf5LabelWriter
from vlmreward.data.paths import inside
from vlmreward.data.robomimic_writer import RobomimicWriter
from vlmreward.errors import DatasetError
from vlmreward.types import FloatArray

_NUMBER = re.compile(r"(\d+)$")


class RobomimicDataset(Hdf5Dataset):
    """Reader; see :class:`~vlmreward.data.dataset.EpisodeDataset`.

    The task is looked for in a demo's ``ep_meta`` (RoboCasa, ours), then in LIBERO's ``problem_info`` and in
    ``env_args``. Success is recorded only in some of these files: ours say it; in LIBERO, and where ``env_args`` says
    that ``reward_shaping`` is off, the reward is 1 where the task is done, so the last reward tells. ``dones`` never
    does: robomimic sets it at successes, at ends, or at both.

    Args:
        root: The file, or a folder that holds it and no other HDF5 file.

    Raises:
        DatasetError: It can't be read, or holds no episode.
    """

    format = "robomimic"

    def __init__(self, root: Path) -> None:
        super().__init__(root, find_file(root))
        with open_hdf5(self.path) as file:
            data = find(file, "data")
            if data is None or hasattr(data, "dtype"):
                raise DatasetError(f"{self.path.name} has no group /data: it is no robomimic file")
            self._about = {name: self._json(data, name) for name in ("env_args", "problem_info")}
            cameras: dict[str, None] = {}
            episodes: list[Episode] = []
            for name in self._demos(data):
                if (episode := self._read_demo(data, name, len(episodes), cameras)) is not None:
                    episodes.append(episode)
            self.episodes: Sequence[Episode] = episodes
            self.groups = [f"data/{episode.name}" for episode in episodes]
            if not self.episodes:
                raise DatasetError(f"{self.path.name} has no readable episode data/demo_<i>{self._why()}")
            self.cameras = tuple(cameras)
            fps = self._about["env_args"].get("fps")
            control = self._about["env_args"].get("env_kwargs", {})
            fps = control.get("control_freq") if fps is None and isinstance(control, dict) else fps
            if isinstance(fps, (int, float)) and not isinstance(fps, bool) and 0 < fps <= 1e6:
                self.fps: float | None = float(fps)
            first = self.group(file, self.episodes[0])
            held = {n: f"{node.dtype} {node.shape[1:]}" for n, node in leaves(first) if node.shape}
            self.features: Mapping[str, str] = held

    def spans(self, episode: Episode, camera: str) -> Sequence[Span]:
        """Return where the pictures of a camera are; see the base class."""
        rows = episode.rows
        after = [Span(f"next_obs/{camera}", rows - 1, rows)] if episode.frames > rows else []
        return [Span(f"obs/{camera}", 0, rows), *after]

    def transitions(self, episode: Episode) -> Transitions:
        """Read everything but pictures; see :meth:`vlmreward.data.dataset.EpisodeDataset.transitions`.

        A true end is what ``terminated`` of the demo says in files of ours; in others, the end of a success whose last
        ``dones`` is set. Every other episode is cut off.
        """
        with open_hdf5(self.path) as file:
            group = self.group(file, episode)
            rows = episode.rows
            actions = find(group, "actions")
            if actions is None:
                raise DatasetError(f"{episode.name} of {self.path.name} has no actions")
            rewards, dones = find(group, "rewards"), find(group, "dones")
            if read_attribute(group, "has_rewards") is False:  # those of our writer that stand in for none
                rewards = None
            ended = bool(episode.success) and dones is not None and bool(read_rows(dones, rows)[-1, 0])
            said = [read_attribute(group, name) for name in ("terminated", "truncated")]
            ends = np.zeros((2, rows), dtype=np.bool_)
            ends[:, -1] = said if None not in said else (ended, not ended)
            return Transitions(
                observation=self._observation(group, rows),
                action=read_rows(actions, rows),
                reward=None if rewards is None else read_rows(rewards, rows)[:, 0],
                terminated=ends[0],
                truncated=ends[1],
            )

    def check(self, episode: Episode, group: Any) -> Iterator[str]:
        """Yield what is wrong with an episode: counts that disagree."""
        said = read_attribute(group, "num_samples")
        if said is not None and said != episode.rows:
            yield f"num_samples is {said}, there are {episode.rows} actions"
        if not is_numeric(actions := find(group, "actions")):
            yield f"actions are {actions.dtype} {actions.shape}, not numbers"
        for name in ("rewards", "dones", "states"):
            node = find(group, name)
            if node is not None and length_of(node) != episode.rows:
                yield f"{name} has {length_of(node)} rows, there are {episode.rows} actions"
        for camera in self.cameras:
            node = find(group, f"obs/{camera}")
            if node is not None and hasattr(node, "dtype") and length_of(node) > episode.rows:
                yield f"obs/{camera} holds {length_of(node)} pictures, there are {episode.rows} actions"

    def _demos(self, data: Any) -> list[str]:
        """Return the names of the demos by number: ``demo_10`` stands behind ``demo_9``."""
        with hdf5_errors("/data"):
            names = [str(name) for name in data]

        def place(name: str) -> tuple[int, str]:
            number = _NUMBER.search(name)
            return (int(number[1][:18]) if number else -1, name)

        return sorted(names, key=place)

    def _read_demo(self, data: Any, name: str, index: int, cameras: dict[str, None]) -> Episode | None:
        """Return an episode, or None, and a problem, where it can't be read; adds to the names of cameras."""
        try:
            group = find(data, name)
            actions = find(group, "actions") if group is not None and not hasattr(group, "dtype") else None
            if actions is None or not hasattr(actions, "dtype"):
                raise DatasetError("it has no actions: left out")
            rows = length_of(actions)
            if rows < 1:
                self._found.append(Problem(name, "it has no rows: left out"))
                return None
            seen, after = self._cameras_of(group, "obs"), self._cameras_of(group, "next_obs")
        except DatasetError as e:
            self._found.append(Problem(name, str(e), left_out=True))
            return None
        cameras.update(dict.fromkeys(seen))
        return Episode(
            index=index,
            name=name,
            rows=rows,
            frames=rows + 1 if seen and set(seen) <= set(after) else rows,
            instruction=self._instruction(group),
            success=self._success(group, name, rows),
        )

    def _cameras_of(self, group: Any, where: str) -> list[str]:
        inside = find(group, where)
        if inside is None or hasattr(inside, "dtype"):
            return []
        found = []
        with hdf5_errors(str(inside.name)):
            keys = list(inside)
        for key in keys:
            try:
                if picture_shape(find(inside, key)) is not None:
                    found.append(str(key))
            except DatasetError as e:
                self._found.append(Problem(str(inside.name), str(e)))
        return found

    def _instruction(self, group: Any) -> str:
        sources = (self._json(group, "ep_meta"), self._about["problem_info"], self._about["env_args"])
        for source in sources:
            for key in ("lang", "language_instruction", "env_lang"):
                text = source.get(key)
                if isinstance(text, list) and all(isinstance(part, str) for part in text):
                    text = "".join(text)  # LIBERO stores some as a list of pieces
                if isinstance(text, str) and text.strip():
                    return text.strip()
        return ""

    def _success(self, group: Any, name: str, rows: int) -> bool | None:
        try:
            said = read_attribute(group, "success")
            if isinstance(said, bool) or said in (0, 1):
                return bool(said)
            kwargs = self._about["env_args"].get("env_kwargs")
            sparse = isinstance(kwargs, dict) and kwargs.get("reward_shaping") is False
            rewards = find(group, "rewards")
            if rewards is None or not (sparse or self._about["problem_info"]):
                return None
            return bool(read_rows(rewards, rows)[-1, 0] > 0)
        except DatasetError as e:
            self._found.append(Problem(name, str(e)))
            return None

    def _json(self, node: Any, name: str) -> dict[str, Any]:
        """Return an attribute that holds a JSON object; empty, and a problem, where it holds something else."""
        try:
            text = read_attribute(node, name)
            if text is None:
                return {}
            found = json.loads(text) if isinstance(text, str) else text
            if not isinstance(found, dict):
                raise DatasetError(f"attribute {name} of {node.name} is no JSON object")
            return found
        except (DatasetError, ValueError, RecursionError) as e:
            what = str(e) if isinstance(e, DatasetError) else f"attribute {name} is no JSON: {e}"
            self._found.append(Problem(str(node.name).removeprefix("/data/"), " ".join(what.split())))
            return {}

    def _observation(self, group: Any, rows: int) -> FloatArray:
        """Return the keys of ``obs`` that are no pictures, side by side in the order of their names."""
        seen = find(group, "obs")
        parts, last = [], []
        for key in [] if seen is None else sorted(name for name, _ in leaves(seen)):
            node = find(seen, key)
            if not is_numeric(node) or picture_shape(node) is not None:
                continue
            parts.append(read_rows(node, rows))
            after = find(group, f"next_obs/{key}")
            has_after = after is not None and hasattr(after, "dtype") and is_numeric(after)
            last.append(read_rows(after, rows)[-1:] if has_after else parts[-1][-1:])
        if not parts:
            return np.zeros((rows + 1, 0), np.float32)
        return np.concatenate([np.concatenate(parts, axis=1), np.concatenate(last, axis=1)])

    def _why(self) -> str:
        return f": {self._found[0].where}: {self._found[0].what}" if self._found else ""


def find_file(root: Path) -> Path:
    """Return the HDF5 file of a dataset.

    Args:
        root: The file, or a folder that holds it.

    Raises:
        DatasetError: A folder holds several.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        return root.resolve()
    files = _hdf5_files(root)
    if len(files) != 1:
        raise DatasetError(f"{root} holds {len(files)} HDF5 files: give one of them, not the folder")
    return inside(root, files[0].name)


def recognises(path: Path) -> bool:
    """Return whether a path is an HDF5 file, or a folder with some."""
    try:
        return bool(_hdf5_files(path)) if path.is_dir() else path.suffix.lower() in SUFFIXES
    except OSError:
        return False


def _hdf5_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


FORMAT = Format(
    name="robomimic",
    marks="a .hdf5 file with groups data/demo_<i>",
    recognises=recognises,
    open=RobomimicDataset,
    create=RobomimicWriter,
    label=Hdf5LabelWriter,
)
