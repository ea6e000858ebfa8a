"""Labels in an HDF5 file: ``rewards_<name>`` beside the recorded rewards of each episode."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmreward.atomic import check_writable
from vlmreward.data.dataset import Episode
from vlmreward.data.filler import AUTO, choose_filler, fill
from vlmreward.data.hdf5 import find, hdf5_errors, open_hdf5, read_attribute
from vlmreward.data.hdf5_dataset import PICTURES, Hdf5Dataset, changed_ns
from vlmreward.data.hdf5_rewrite import rewriting
from vlmreward.data.label_names import RECORDED, name_labels
from vlmreward.data.labels import Change, EpisodeLabels, Labels, Provenance, is_of_run
from vlmreward.errors import DatasetError, NonFiniteError
from vlmreward.optional import require_package

MARK = "vlmreward"
"""Attribute of every dataset that we wrote: where it comes from, as JSON."""

FILLERS = ("hold", "decrease")
_ROW_BYTES = 13  # reward, success and progress float32, valid bool
_EPISODE_BYTES = 8192  # headers and attributes
_SECOND_NS = 1_000_000_000
_MAX_REASONS = 20


class Hdf5LabelWriter:
    """Writes labels into the file of a dataset; see :class:`~vlmreward.data.labels.LabelWriter`.

    Each episode gets ``rewards_<name>`` float32 and ``rewards_<name>_valid`` bool, and ``success_<name>`` and
    ``progress_<name>`` float32 where the labels have them. The attribute ``vlmreward`` of each holds the provenance;
    the labels are no part of the fingerprint.

    With the name ``rewards`` and ``overwrite`` the labels take the place of the recorded rewards, which stay as
    ``rewards_recorded``.

    The file is changed in a copy that takes its place (:mod:`vlmreward.data.hdf5_rewrite`): a kill leaves the file as
    it was, or finished.

    Args:
        dataset: The dataset, open.
        name: ``"vlm"``, ``"reward_vlm"`` and ``"rewards_vlm"`` mean the same.
        filler: What stands in an invalid row, ``"hold"`` (``"auto"``) or ``"decrease"``.
        overwrite: Whether labels of the same name may be replaced.

    Raises:
        ConfigError: The name or the filler can't be.
        DatasetError: Something that isn't ours has the name.
        StorageError: The folder of the file can't be written.
    """

    def __init__(self, dataset: Hdf5Dataset, name: str, filler: str = AUTO, overwrite: bool = False) -> None:
        self._filler = choose_filler(filler, FILLERS, f"a {dataset.format} file")
        self._names = name_labels(name)
        self._dataset, self._overwrite = dataset, overwrite
        check_writable(dataset.path)
        with open_hdf5(dataset.path) as file:
            self._check_names(file)

    def is_written(self, run: str) -> bool:
        """Return whether all labels of a run stand there; see :class:`~vlmreward.data.labels.LabelWriter`."""
        what = f"{self._names.reward} of {self._dataset.path.name}"
        with open_hdf5(self._dataset.path) as file:
            nodes = [find(group, self._names.reward) for group in self._groups(file)]
            told = [_read_mark(node) if self._is_ours(node) else None for node in nodes]
        ours = [is_of_run(mark, run, self._filler, self._overwrite, what) for mark in told if mark is not None]
        return len(ours) == len(told) and all(ours)

    def plan(self) -> Sequence[Change]:
        """Return what ``write`` would do; changes nothing."""
        rows = sum(episode.rows for episode in self._dataset.episodes)
        more = rows * _ROW_BYTES + len(self._dataset.episodes) * _EPISODE_BYTES
        what = f"gets {self._names.reward} and {self._names.valid} in {len(self._dataset.episodes)} episodes"
        if self._names.in_place:
            what += f", the recorded rewards stay as {RECORDED}"
        path = self._dataset.path
        return [Change(path, what, rows, path.stat().st_size + more)]

    def write(self, labels: Labels) -> None:
        """Write the labels of every episode, or nothing.

        Raises:
            DatasetError: Labels and episodes don't fit, or the file is damaged.
            NonFiniteError: A valid reward is not finite.
            StorageError: There is no room for a copy of the file.
        """
        path = self._dataset.path
        if self.is_written(labels.provenance.run):
            return
        (change,) = self.plan()
        with rewriting(path, change.size - path.stat().st_size) as copy:
            with _open_for_change(copy) as file:
                changed = changed_ns(path, file)
                self._check_names(file)
                for episode in self._dataset.episodes:
                    self._write_episode(file, episode, labels.episode(episode.index), labels.provenance)
                written = time.time_ns() // _SECOND_NS * _SECOND_NS  # whole seconds: any file system can keep them
                file.attrs[PICTURES] = json.dumps({"written_ns": written, "changed_ns": changed})
            _set_changed(copy, written)

    def undo(self) -> Sequence[Change]:
        """Take the labels away again; the recorded rewards, where they were replaced, return.

        Raises:
            DatasetError: There are no labels of ours of this name.
        """
        path = self._dataset.path
        with open_hdf5(path) as file:
            if not any(self._is_ours(find(group, self._names.reward)) for group in self._groups(file)):
                raise DatasetError(f"{path.name} has no {self._names.reward} that vlmreward wrote: nothing to undo")
        rows = 0
        with rewriting(path) as copy:
            with _open_for_change(copy) as file:
                changed = changed_ns(path, file)
                for episode, group in zip(self._dataset.episodes, self._groups(file), strict=True):
                    if self._remove(group):
                        rows += episode.rows
                if any(self._has_labels(group) for group in self._groups(file)):
                    written = time.time_ns() // _SECOND_NS * _SECOND_NS
                    file.attrs[PICTURES] = json.dumps({"written_ns": written, "changed_ns": changed})
                else:
                    written = changed  # what is in the file is what was in it then
                    file.attrs.pop(PICTURES, None)
            _set_changed(copy, written)
        return [Change(path, f"loses {self._names.reward}", rows, path.stat().st_size)]

    def _check_names(self, file: Any) -> None:
        path, names = self._dataset.path, self._names
        for group in self._groups(file):
            for name in names.all:
                node = find(group, name)
                if node is None:
                    continue
                if self._is_ours(node):
                    continue
                if not (names.in_place and name == names.reward):
                    raise DatasetError(f"{path.name} has {name}, which vlmreward did not write: give another name")
                if not self._overwrite:
                    raise DatasetError(
                        f"{name} of {path.name} are the recorded ones: give another name, or overwrite=true to "
                        f"keep them as {RECORDED}"
                    )
                if find(group, RECORDED) is not None:
                    raise DatasetError(f"{path.name} has {RECORDED} beside recorded rewards: give another name")

    def _write_episode(self, file: Any, episode: Episode, labels: EpisodeLabels, provenance: Provenance) -> None:
        valid = np.asarray(labels.valid, dtype=np.bool_)
        columns: dict[str, npt.NDArray[Any]] = {}
        for part in ("reward", "success", "progress"):
            name, value = getattr(self._names, part), getattr(labels, part)
            if value is None:
                continue
            column = np.asarray(value, dtype=np.float32)
            if column.shape != (episode.rows,) or valid.shape != (episode.rows,):
                raise DatasetError(
                    f"{episode.name} has {episode.rows} rows, its labels {column.shape} and {valid.shape}"
                )
            if not np.isfinite(column[valid]).all():
                raise NonFiniteError(f"{name} of {episode.name} is not finite in a valid row: mark the row invalid")
            columns[name] = fill(column, valid, self._filler, part)
        columns[self._names.valid] = valid
        group = self._dataset.group(file, episode)
        self._remove(group, for_new=True)
        why = Counter(labels.reasons.values()).most_common(_MAX_REASONS)
        counts = {"rows": episode.rows, "invalid": int((~valid).sum()), "reasons": dict(why)}
        for name, column in columns.items():
            about = {"labels": self._names.reward, **asdict(provenance), "filler": self._filler}
            with hdf5_errors(f"{group.name}/{name}"):
                node = group.create_dataset(name, data=column)
                node.attrs[MARK] = json.dumps(about if name != self._names.valid else about | counts)

    def _remove(self, group: Any, for_new: bool = False) -> bool:
        """Remove our labels from an episode, and put the recorded rewards in their place, or out of their way."""
        ours = [name for name in self._names.all if self._is_ours(find(group, name))]
        with hdf5_errors(str(group.name)):
            for name in ours:
                del group[name]
            if self._names.in_place:
                if for_new and find(group, "rewards") is not None:
                    group.move("rewards", RECORDED)
                elif not for_new and ours and find(group, RECORDED) is not None:
                    group.move(RECORDED, "rewards")
        return bool(ours)

    def _is_ours(self, node: Any) -> bool:
        return node is not None and hasattr(node, "dtype") and isinstance(read_attribute(node, MARK), str)

    def _has_labels(self, group: Any) -> bool:
        """Return whether labels of ours of any name are left in an episode; follows no link."""
        h5py = require_package("h5py", "data")
        hard = [name for name in group if isinstance(group.get(name, getlink=True), h5py.HardLink)]
        return any(self._is_ours(group[name]) for name in hard)

    def _groups(self, file: Any) -> list[Any]:
        return [self._dataset.group(file, episode) for episode in self._dataset.episodes]


def _read_mark(node: Any) -> dict[str, Any]:
    """Return what a dataset of ours tells of its labels; empty where that is damaged."""
    try:
        found = json.loads(read_attribute(node, MARK))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _open_for_change(copy: Path) -> Any:
    h5py = require_package("h5py", "data")
    with hdf5_errors(copy.name):
        return h5py.File(copy, "r+", locking=False)  # it is locked already, and HDF5 would stand in our own way


def _set_changed(path: Path, changed: int) -> None:
    os.utime(path, ns=(path.stat().st_atime_ns, changed))
