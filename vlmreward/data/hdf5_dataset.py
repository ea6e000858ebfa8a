"""What readers of HDF5 formats share: an episode is a group, a camera and a column are datasets in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmreward.data.dataset import Episode, Frame, Problem, Undecodable
from vlmreward.data.hdf5 import find, hdf5_errors, open_hdf5, read_attribute, read_pictures, read_rows
from vlmreward.data.label_names import label_names
from vlmreward.errors import DatasetError, UnknownColumnError
from vlmreward.types import FloatArray

PICTURES = "vlmreward_pictures"
"""Attribute of a file that our labels are in: when its pictures were last changed, and when we changed the file."""

_SAMPLED = 64


@dataclass(frozen=True)
class Span:
    """Some of the pictures of an episode: those from ``start`` to before ``stop`` of a dataset in its group."""

    dataset: str
    start: int
    stop: int


class Hdf5Dataset:
    """A dataset in one HDF5 file; see :class:`~vlmreward.data.dataset.EpisodeDataset`.

    A format says in its own class where the pictures of an episode are, and fills in the attributes. The file is opened
    for each call and closed after it, so that threads and other processes can be handed the object, and labels can be
    written meanwhile.

    The fingerprint is made of when the pictures were last changed, of the layout of the episodes and the datasets that
    hold pictures, and of the first picture of 64 episodes. Writing our labels changes the file's time of change; it is
    therefore noted in the file until when that was our doing, and whoever else changes the file changes the
    fingerprint.

    Attributes:
        path: The HDF5 file.
        groups: Path of each episode's group in the file, in the order of ``episodes``.
    """

    format: str
    root: Path
    path: Path
    cameras: tuple[str, ...] = ()
    fps: float | None = None
    features: Mapping[str, str]
    episodes: Sequence[Episode]
    groups: Sequence[str]

    def __init__(self, root: Path, path: Path) -> None:
        self.root, self.path = Path(root).expanduser().absolute(), path
        self.features, self.episodes, self.groups = {}, [], []
        self._found: list[Problem] = []

    def spans(self, episode: Episode, camera: str) -> Sequence[Span]:
        """Return where the pictures of a camera are, in time order: ``episode.frames`` of them."""
        raise NotImplementedError

    def frames(self, episode: Episode, camera: str, start: int = 0) -> Iterator[Frame | Undecodable]:
        """Decode the pictures of an episode; see :meth:`vlmreward.data.dataset.EpisodeDataset.frames`."""
        self._check_camera(camera)
        return self._frames(episode, camera, start)

    def column(self, episode: Episode, name: str) -> FloatArray:
        """Read a column of rows, float32, shape (T,).

        Args:
            episode: Whose.
            name: Name of a dataset in the episode's group, or of labels of ours as it was given when they were written:
                ``"reward_vlm"`` is found in ``rewards_vlm``, ``"reward_vlm_success"`` in ``success_vlm``.

        Raises:
            UnknownColumnError: There is no such column.
            DatasetError: It is damaged, or is no number a row.
        """
        with open_hdf5(self.path) as file:
            group = self.group(file, episode)
            node = find(group, name) or next((n for alias in label_names(name) if (n := find(group, alias))), None)
            if node is None or not hasattr(node, "dtype"):
                raise UnknownColumnError(f"{episode.name} of {self.path.name} has no column {name!r}: label it first")
            values = read_rows(node, episode.rows)
        if values.shape[1] != 1:
            raise DatasetError(f"{name!r} of {episode.name} has {values.shape[1]} values a row: it is no column")
        return values[:, 0]

    def fingerprint(self, camera: str) -> str:
        """Return what changes with the pictures; see :meth:`vlmreward.data.dataset.EpisodeDataset.fingerprint`."""
        self._check_camera(camera)
        digest = hashlib.blake2b(digest_size=16)
        every = max(1, len(self.episodes) // _SAMPLED)
        with open_hdf5(self.path) as file:
            digest.update(f"{self.format} {camera} {changed_ns(self.path, file)}\n".encode())
            for episode in self.episodes:
                group = self.group(file, episode)
                parts: list[object] = [episode.name, episode.rows, episode.frames]
                spans = self.spans(episode, camera)
                for span in spans:
                    node = find(group, span.dataset)
                    if node is not None and hasattr(node, "dtype"):
                        with hdf5_errors(str(node.name)):
                            parts += [str(node.dtype), node.shape, node.id.get_storage_size()]
                digest.update(repr(parts).encode("utf-8", "surrogateescape"))
                if episode.index % every == 0:
                    first = next(self._read(group, spans[:1]))
                    digest.update(repr(first).encode() if isinstance(first, Undecodable) else first.tobytes())
        return digest.hexdigest()

    def problems(self) -> list[Problem]:
        """Look for what is wrong; see :meth:`vlmreward.data.dataset.EpisodeDataset.problems`.

        Decodes the first and last picture of each camera in each episode.
        """
        found = list(self._found)
        with open_hdf5(self.path) as file:
            for episode in self.episodes:
                group = self.group(file, episode)
                for camera in self.cameras:
                    found += self._check_pictures(episode, camera, group)
                found += [Problem(episode.name, what) for what in self.check(episode, group)]
        return found

    def check(self, episode: Episode, group: Any) -> Iterator[str]:
        """Yield what is wrong with an episode besides its pictures."""
        yield from ()

    def group(self, file: Any, episode: Episode) -> Any:
        """Return the group of an episode in the open file.

        Raises:
            DatasetError: It was there when the dataset was opened, and isn't any more.
        """
        group = find(file, self.groups[episode.index])
        if group is None:
            raise DatasetError(f"{episode.name} is not in {self.path.name} any more: open the dataset again")
        return group

    def _check_camera(self, camera: str) -> None:
        if camera not in self.cameras:
            known = ", ".join(self.cameras) or "none"
            raise DatasetError(f"{self.path.name} has no camera {camera!r}: cameras are {known}")

    def _frames(self, episode: Episode, camera: str, start: int) -> Iterator[Frame | Undecodable]:
        due = start
        try:
            with open_hdf5(self.path) as file:
                for picture in self._read(self.group(file, episode), _from(self.spans(episode, camera), start)):
                    due += 1
                    yield picture
        except DatasetError as e:
            for _ in range(due, episode.frames):
                yield Undecodable(str(e))

    def _read(self, group: Any, spans: Iterable[Span]) -> Iterator[Frame | Undecodable]:
        for span in spans:
            try:
                node = find(group, span.dataset)
                reason = f"{group.name} has no pictures {span.dataset!r}"
            except DatasetError as e:
                node, reason = None, str(e)
            if node is None or not hasattr(node, "dtype"):
                yield from (Undecodable(reason) for _ in range(span.start, span.stop))
            else:
                yield from read_pictures(node, span.start, span.stop)

    def _check_pictures(self, episode: Episode, camera: str, group: Any) -> Iterator[Problem]:
        spans = self.spans(episode, camera)
        first, last = spans[0], spans[-1]
        ends = [Span(first.dataset, first.start, first.start + 1), Span(last.dataset, last.stop - 1, last.stop)]
        for span in ends[: 2 if episode.frames > 1 else 1]:
            item = next(self._read(group, [span]))
            if isinstance(item, Undecodable):
                yield Problem(f"{episode.name}, camera {camera}", item.reason)
                return


def _from(spans: Iterable[Span], start: int) -> Iterator[Span]:
    """Yield what is left of some spans without their first ``start`` pictures."""
    for span in spans:
        count = span.stop - span.start
        if start < count:
            yield Span(span.dataset, span.start + start, span.stop)
        start = max(0, start - count)


def changed_ns(path: Path, file: Any) -> int:
    """Return when a file was last changed by others than our writers of labels, in ns since 1970.

    Args:
        path: The file.
        file: The same, open.
    """
    changed = os.stat(path).st_mtime_ns
    try:
        noted = json.loads(read_attribute(file, PICTURES) or "{}")
        if noted.get("written_ns") == changed:
            return int(noted["changed_ns"])
    except (DatasetError, ValueError, TypeError, KeyError, AttributeError):
        pass  # the note isn't ours: the file's own time decides, and at worst pictures are encoded again
    return changed
