"""A folder of videos, pictures or arrays, and ``episodes.jsonl`` that says what they are.

One JSON object a line::

    {"episode_id": "a", "video": "clips/a.mp4", "task": "open the drawer", "success": true, "fps": 10}

``video`` is a video file, a folder of JPEG or PNG pictures in the order of the numbers in their names, ``x.npy``, or
``x.npz:key``, uint8 (N, H, W, 3); several cameras are an object of names and these. ``camera`` names a single one.
``actions``, ``observations`` and ``rewards`` are ``x.npy`` or ``x.npz:key``; ``terminated`` and ``truncated`` tell how
the episode ended. Paths are relative to the file and stay in its folder.

An episode has a row for each action, and as many pictures or one more; without actions a row for each picture, whose
last has no successor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from vlmreward.data.dataset import Episode, EpisodeDataset, Format, Frame, Problem, Transitions, Undecodable
from vlmreward.data.filler import AUTO
from vlmreward.data.folder_labels import FolderLabelWriter, read_label
from vlmreward.data.folder_list import Entry, read_list
from vlmreward.data.folder_sources import Source, open_source, read_numbers
from vlmreward.data.folder_writer import FolderWriter
from vlmreward.data.paths import inside
from vlmreward.errors import DatasetError
from vlmreward.types import FloatArray

LIST = "episodes.jsonl"


class FolderDataset:
    """Reader; see :class:`~vlmreward.data.dataset.EpisodeDataset`.

    The fingerprint is made of names, sizes and times of change of the files that hold pictures, and of the layout of
    the episodes; labels are files of their own and no part of it.

    Args:
        root: The folder, or the ``episodes.jsonl`` in it.

    Raises:
        DatasetError: The list can't be read, or no episode of it can.
    """

    format = "folder"
    fps: float | None = None

    def __init__(self, root: Path) -> None:
        self.root = Path(root).expanduser().absolute()
        self.folder = self.root if self.root.is_dir() else self.root.parent
        entries, self._found = read_list(inside(self.folder, LIST if self.root.is_dir() else self.root.name))
        self._entries: list[Entry] = []
        self._sources: list[dict[str, Source]] = []
        episodes: list[Episode] = []
        for entry in entries:
            try:
                sources = {name: open_source(self.folder, video) for name, video in entry.videos.items()}
                rows, frames = self._count(entry, sources)
            except DatasetError as e:
                self._found.append(Problem(f"line {entry.line}", f"{e}: episode {entry.name!r} is left out", True))
                continue
            episodes.append(Episode(len(episodes), entry.name, rows, frames, entry.task, entry.success))
            self._entries.append(entry)
            self._sources.append(sources)
        if not episodes:
            why = f": {self._found[0].where}: {self._found[0].what}" if self._found else ""
            raise DatasetError(f"{LIST} names no readable episode{why}")
        self.episodes: Sequence[Episode] = episodes
        self.cameras: tuple[str, ...] = tuple(dict.fromkeys(name for s in self._sources for name in s))
        rates = {entry.fps or next((s.fps for s in of.values()), None) for entry, of in self._both()}
        if len(rates) > 1:
            said = sorted(f"{rate:g}" if rate else "unknown" for rate in rates)
            self._found.append(Problem(LIST, f"mixed fps: {', '.join(said)}"))
        else:
            (self.fps,) = rates
        shown: dict[str, str] = {name: source.kind for name, source in self._sources[0].items()}
        shown |= self._entries[0].arrays
        self.features: Mapping[str, str] = shown

    def frames(self, episode: Episode, camera: str, start: int = 0) -> Iterator[Frame | Undecodable]:
        """Decode the pictures of an episode; see :meth:`vlmreward.data.dataset.EpisodeDataset.frames`."""
        self._check_camera(camera)
        source = self._sources[episode.index].get(camera)
        if source is None:
            lost = Undecodable(f"episode {episode.name!r} has no camera {camera!r}")
            return iter([lost] * (episode.frames - start))
        return source.frames(episode.frames, start)

    def transitions(self, episode: Episode) -> Transitions:
        """Read everything but pictures; see :meth:`vlmreward.data.dataset.EpisodeDataset.transitions`."""
        entry, rows = self._entries[episode.index], episode.rows
        if "actions" not in entry.arrays:
            raise DatasetError(
                f"episode {episode.name!r} of {LIST} has no actions: give actions=<file>.npy in its line"
            )
        ends = np.zeros((2, rows), dtype=np.bool_)
        ends[:, -1] = entry.terminated, entry.truncated or not entry.terminated
        return Transitions(
            observation=self._observation(entry, rows),
            action=read_numbers(self.folder, entry.arrays["actions"], rows),
            reward=read_numbers(self.folder, name, rows)[:, 0] if (name := entry.arrays.get("rewards")) else None,
            terminated=ends[0],
            truncated=ends[1],
        )

    def column(self, episode: Episode, name: str) -> FloatArray:
        """Read a column; see :meth:`vlmreward.data.dataset.EpisodeDataset.column`.

        Args:
            episode: Whose.
            name: As it was given when labels were written, e.g. ``"reward_vlm"``, also with ``_success``,
                ``_progress`` or ``_valid`` behind it; ``"rewards"`` are the recorded ones. NaN where a
                label is invalid.

        Raises:
            UnknownColumnError: There is no such column.
            DatasetError: It is damaged.
        """
        if name == "rewards" and (file := self._entries[episode.index].arrays.get("rewards")):
            return read_numbers(self.folder, file, episode.rows)[:, 0]
        return read_label(self.folder, episode, name)

    def fingerprint(self, camera: str) -> str:
        """Return what changes with the pictures; see :meth:`vlmreward.data.dataset.EpisodeDataset.fingerprint`."""
        self._check_camera(camera)
        digest = hashlib.blake2b(f"folder {camera}\n".encode(), digest_size=16)
        for episode, sources in zip(self.episodes, self._sources, strict=True):
            source = sources.get(camera)
            parts = [episode.name, episode.rows, episode.frames, source.stamp(self.folder) if source else None]
            digest.update(repr(parts).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def problems(self) -> list[Problem]:
        """Look for what is wrong; see :meth:`vlmreward.data.dataset.EpisodeDataset.problems`."""
        found = list(self._found)
        for episode, (entry, sources) in zip(self.episodes, self._both(), strict=True):
            where = f"episode {episode.name!r}"
            if missing := [c for c in self.cameras if c not in sources]:
                found.append(Problem(where, f"no camera {', '.join(missing)}"))
            for camera, source in sources.items():
                try:
                    if (what := source.check(episode.frames)) is not None:
                        found.append(Problem(f"{where}, camera {camera}", what))
                except DatasetError as e:
                    found.append(Problem(f"{where}, camera {camera}", str(e)))
            for kind, file in entry.arrays.items():
                try:
                    read_numbers(self.folder, file, episode.rows)
                except DatasetError as e:
                    found.append(Problem(f"{where}, {kind}", str(e)))
        return found

    def _both(self) -> list[tuple[Entry, dict[str, Source]]]:
        return list(zip(self._entries, self._sources, strict=True))

    def _count(self, entry: Entry, sources: Mapping[str, Source]) -> tuple[int, int]:
        """Return the number of rows and of pictures of an episode.

        Raises:
            DatasetError: There are none, or pictures and actions can't be of one recording.
        """
        counts = {name: source.count for name, source in sources.items()}
        most = max(counts.values())
        if most < 1:
            raise DatasetError("zero frames")
        if len(set(counts.values())) > 1:
            said = ", ".join(f"{name} {count}" for name, count in counts.items())
            self._found.append(Problem(f"line {entry.line}", f"cameras have different numbers of pictures: {said}"))
        if "actions" not in entry.arrays:
            return most, most
        rows = len(read_numbers(self.folder, entry.arrays["actions"], None))
        if rows < 1:
            raise DatasetError(f"{entry.arrays['actions']} holds no action")
        if most not in (rows, rows + 1):
            self._found.append(Problem(f"line {entry.line}", f"{most} pictures and {rows} actions"))
        return rows, rows if most <= rows else rows + 1

    def _observation(self, entry: Entry, rows: int) -> FloatArray:
        if (name := entry.arrays.get("observations")) is None:
            return np.zeros((rows + 1, 0), np.float32)
        seen = read_numbers(self.folder, name, None)
        if not rows <= len(seen):
            raise DatasetError(f"{name} has {len(seen)} rows, {rows + 1} expected")
        return np.concatenate([seen[:rows], seen[rows : rows + 1] if len(seen) > rows else seen[rows - 1 : rows]])

    def _check_camera(self, camera: str) -> None:
        if camera not in self.cameras:
            raise DatasetError(f"{LIST} has no camera {camera!r}: cameras are {', '.join(self.cameras)}")


def recognises(path: Path) -> bool:
    """Return whether a path is a folder with ``episodes.jsonl``, or that file."""
    try:
        return (path / LIST).is_file() if path.is_dir() else path.name == LIST
    except OSError:
        return False


def _open(path: Path) -> EpisodeDataset:
    return FolderDataset(path)


def _label(dataset: FolderDataset, name: str, filler: str = AUTO, overwrite: bool = False) -> FolderLabelWriter:
    return FolderLabelWriter(dataset.folder, dataset.episodes, name, filler, overwrite)


FORMAT = Format(name="folder", marks=LIST, recognises=recognises, open=_open, create=FolderWriter, label=_label)
