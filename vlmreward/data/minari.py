"""Minari's datasets, read and written with h5py alone.

``data/metadata.json`` and ``data/main_data.hdf5``; an episode is ``/episode_<i>`` with ``observations`` (T + 1 rows;
groups for Dict and Tuple spaces), ``actions``, ``rewards``, ``terminations`` and ``truncations`` (T), and ``infos``.
Cameras are the parts of ``observations`` with pictures, raw uint8 (T + 1, H, W, 3) or encoded as JPEG, which is what
Minari does of itself with pictures of 32x32 and more; what a dataset holds is told by its bytes, not its spaces.

Minari has no place for a task; it is looked for where datasets keep it. Labels are ``rewards_<name>`` beside
``rewards``.
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
    find,
    hdf5_errors,
    is_encoded,
    is_numeric,
    leaves,
    length_of,
    open_hdf5,
    picture_shape,
    plain,
    read_attribute,
    read_rows,
)
from vlmreward.data.hdf5_dataset import Hdf5Dataset, Span
from vlmreward.data.hdf5_labels import Hdf5LabelWriter
from vlmreward.data.minari_writer import FILE, METADATA, MinariWriter
from vlmreward.data.paths import inside, one_line, shown
from vlmreward.errors import DatasetError
from vlmreward.types import FloatArray

PICTURES_ONLY = "observations"
"""Name of the camera where the observation is a picture and nothing else."""

_EPISODE = re.compile(r"episode_(\d{1,18})")
_TASK_KEYS = ("instruction", "language_instruction", "task", "mission")
_MAX_JSON = 256 << 20


class MinariDataset(Hdf5Dataset):
    """Reader; see :class:`~vlmreward.data.dataset.EpisodeDataset`.

    The task is the attribute ``instruction``, ``language_instruction``, ``task`` or ``mission`` of an episode, or the
    first text of that name in ``infos`` or ``observations``. Success is the attribute ``success``, or the last value of
    ``infos/success``.

    Args:
        root: The dataset's folder, or its ``data`` folder.

    Raises:
        DatasetError: It can't be read, is stored as arrow, or holds no episode.
    """

    format = "minari"

    def __init__(self, root: Path) -> None:
        home, data = find_data(root)
        super().__init__(root, inside(home, f"{data}{FILE}"))
        self.metadata = _read_metadata(inside(home, f"{data}{METADATA}"))
        if (stored := self.metadata.get("data_format", "hdf5")) != "hdf5":
            raise DatasetError(
                f"{METADATA}: data_format {shown(stored)} can't be read, only 'hdf5': convert with minari"
            )
        fps = self.metadata.get("fps")
        if isinstance(fps, (int, float)) and not isinstance(fps, bool) and 0 < fps <= 1e6:
            self.fps: float | None = float(fps)
        cameras: dict[str, None] = {}
        with open_hdf5(self.path) as file:
            episodes: list[Episode] = []
            for name in self._names(file):
                if (episode := self._read_episode(file, name, len(episodes), cameras)) is not None:
                    episodes.append(episode)
            if not episodes:
                why = f": {self._found[0].where}: {self._found[0].what}" if self._found else ""
                raise DatasetError(f"{FILE} has no readable group episode_<i>{why}")
            self.episodes: Sequence[Episode] = episodes
            self.groups = [episode.name for episode in episodes]
            self.cameras = tuple(cameras)
            first = self.group(file, episodes[0])
            held = {n: _describe(node) for n, node in leaves(first) if node.shape}
            self.features: Mapping[str, str] = held
        said = self.metadata.get("total_episodes")
        if isinstance(said, int) and said != len(episodes):
            self._found.append(Problem(METADATA, f"total_episodes is {said}, {len(episodes)} can be read"))

    def spans(self, episode: Episode, camera: str) -> Sequence[Span]:
        """Return where the pictures of a camera are; see the base class."""
        return [Span(_observations(camera), 0, episode.frames)]

    def transitions(self, episode: Episode) -> Transitions:
        """Read everything but pictures; see :meth:`vlmreward.data.dataset.EpisodeDataset.transitions`."""
        rows = episode.rows
        with open_hdf5(self.path) as file:
            group = self.group(file, episode)
            rewards = find(group, "rewards")
            if read_attribute(group, "has_rewards") is False:  # those of our writer that stand in for none
                rewards = None
            ends = [find(group, name) for name in ("terminations", "truncations")]
            flags = [np.zeros(rows, np.bool_) if e is None else read_rows(e, rows)[:, 0] != 0 for e in ends]
            return Transitions(
                observation=_side_by_side(find(group, "observations"), rows + 1),
                action=_side_by_side(find(group, "actions"), rows),
                reward=None if rewards is None else read_rows(rewards, rows)[:, 0],
                terminated=flags[0],
                truncated=flags[1],
            )

    def check(self, episode: Episode, group: Any) -> Iterator[str]:
        """Yield what is wrong with an episode: counts that disagree."""
        said = read_attribute(group, "total_steps")
        if said is not None and said != episode.rows:
            yield f"total_steps is {said}, there are {episode.rows} rewards or actions"
        due = {"actions": episode.rows, "rewards": episode.rows, "observations": episode.frames}
        for name, rows in (due | {"terminations": episode.rows, "truncations": episode.rows}).items():
            part = find(group, name)
            if part is None:
                yield f"it has no {name}"
                continue
            found = [(name, part)] if hasattr(part, "dtype") else [(f"{name}/{n}", v) for n, v in leaves(part)]
            for where, node in found:
                if name == "actions" and not is_numeric(node):
                    yield f"{where} are {node.dtype} {node.shape}, not numbers"
                if length_of(node) != rows:
                    yield f"{where} has {length_of(node)} rows, {rows} expected"

    def _names(self, file: Any) -> list[str]:
        with hdf5_errors(FILE):
            found = [(int(match[1]), str(name)) for name in file if (match := _EPISODE.fullmatch(str(name)))]
        return [name for _, name in sorted(found)]

    def _read_episode(self, file: Any, name: str, index: int, cameras: dict[str, None]) -> Episode | None:
        """Return an episode, or None, and a problem, where it can't be read; adds to the names of cameras."""
        try:
            group = find(file, name)
            if group is None or hasattr(group, "dtype"):
                raise DatasetError("it is no group: left out")
            rows = self._rows(group)
            if rows < 1:
                self._found.append(Problem(name, "it has no rows: left out"))
                return None
            seen = find(group, "observations")
            if hasattr(seen, "dtype"):
                found = [PICTURES_ONLY] if picture_shape(seen) else []
            else:
                found = [] if seen is None else [n for n, node in leaves(seen) if picture_shape(node)]
        except DatasetError as e:
            self._found.append(Problem(name, str(e), left_out=True))
            return None
        cameras.update(dict.fromkeys(found))
        return Episode(
            index=index,
            name=name,
            rows=rows,
            frames=rows + 1,
            instruction=str(self._text(group, name, _TASK_KEYS)).strip(),
            success=self._success(group, name, rows),
        )

    def _rows(self, group: Any) -> int:
        """Return the number of rows: of rewards, or of actions where there are none."""
        node = find(group, "rewards")
        if node is None:
            part = find(group, "actions")
            node = part if part is None or hasattr(part, "dtype") else next((n for _, n in leaves(part)), None)
        if node is None or not hasattr(node, "dtype"):
            raise DatasetError("it has neither rewards nor actions: left out")
        return length_of(node)

    def _text(self, group: Any, name: str, keys: Sequence[str]) -> str:
        try:
            for key in keys:
                if isinstance(text := read_attribute(group, key), str) and text.strip():
                    return text
            for place in (f"{where}/{key}" for where in ("infos", "observations") for key in keys):
                node = find(group, place)
                if node is None or not hasattr(node, "dtype") or node.dtype.kind not in "OS":
                    continue
                with hdf5_errors(place):
                    value = node[0] if node.shape and length_of(node) > 0 else node[()] if not node.shape else ""
                if isinstance(text := plain(value, place), str) and text.strip():
                    return text
        except DatasetError as e:
            self._found.append(Problem(name, str(e)))
        return ""

    def _success(self, group: Any, name: str, rows: int) -> bool | None:
        try:
            said = read_attribute(group, "success")
            if isinstance(said, bool) or said in (0, 1):
                return bool(said)
            node = find(group, "infos/success")
            if node is None or not hasattr(node, "dtype") or not is_numeric(node) or length_of(node) < rows:
                return None
            return bool(read_rows(node, length_of(node))[-1, 0] > 0)
        except DatasetError as e:
            self._found.append(Problem(name, str(e)))
            return None


def find_data(root: Path) -> tuple[Path, str]:
    """Return a dataset's folder, and where its files are below it: ``"data/"`` or ``""``.

    Raises:
        DatasetError: They aren't there.
    """
    root = Path(root).expanduser()
    if root.is_file():
        root = root.parent
    for part in ("data/", ""):
        if (root / part / METADATA).exists() or (root / part / FILE).exists():
            return root, part
    raise DatasetError(f"{root} has no data/{METADATA}: it is no Minari dataset")


def recognises(path: Path) -> bool:
    """Return whether a path is a Minari dataset: its folder, its ``data`` folder, or the HDF5 file in it."""
    try:
        if path.is_file():
            return path.name == FILE and (path.parent / METADATA).exists()
        return any((path / part / METADATA).exists() or (path / part / FILE).exists() for part in ("data", ""))
    except OSError:
        return False


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise DatasetError(f"{METADATA} is {path.stat().st_size} bytes long: is it damaged?")
        found = json.loads(path.read_bytes().decode("utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        if isinstance(e, DatasetError):
            raise
        raise DatasetError(f"{METADATA} can't be read as JSON: {one_line(e)}") from e
    if not isinstance(found, dict):
        raise DatasetError(f"{METADATA} must be a JSON object, got {shown(found)}")
    return found


def _observations(camera: str) -> str:
    return camera if camera == PICTURES_ONLY else f"observations/{camera}"


def _describe(node: Any) -> str:
    return "picture, encoded" if is_encoded(node) else f"{node.dtype} {node.shape[1:]}"


def _side_by_side(part: Any, rows: int) -> FloatArray:
    """Return the numbers of a dataset, or of all in a group, as one vector a row; pictures are left out.

    Raises:
        DatasetError: There is nothing, or it can't be read.
    """
    if part is None:
        raise DatasetError("the episode has no observations or no actions")
    nodes = [part] if hasattr(part, "dtype") else [node for _, node in leaves(part)]
    numbers = [read_rows(n, rows) for n in nodes if is_numeric(n) and picture_shape(n) is None]
    return np.concatenate(numbers, axis=1) if numbers else np.zeros((rows, 0), np.float32)


FORMAT = Format(
    name="minari",
    marks="data/metadata.json and data/main_data.hdf5",
    recognises=recognises,
    open=MinariDataset,
    create=MinariWriter,
    label=Hdf5LabelWriter,
)
