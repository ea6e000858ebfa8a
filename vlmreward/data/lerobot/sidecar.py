"""Writes progress beside a LeRobot dataset, in the file that LeRobot's reward-aligned cloning (RA-BC) reads.

``sarm_progress.parquet`` holds ``index``, ``episode_index``, ``frame_index`` (int64) and ``progress_sparse`` (float32).
Row t holds the progress of frame t itself, where a column of labels holds that of frame t + 1: LeRobot weighs the
actions that begin at frame t by ``progress[t + chunk] - progress[t]``, and near the end by the last row's progress less
``progress[t]``. So the first and the last row have values of their own, and a row is invalid only where its own frame
could not be decoded or scored.

LeRobot gives its ``fallback_weight``, 1 unless it is set, to a row that is NaN *or missing*. So no NaN is ever written,
and the fillers mean:

* ``hold`` (``auto``): an invalid row repeats the last valid value: it counts as standing still.
* ``drop``: an invalid row is left out; train with ``fallback_weight: 0``, or such samples count in full.
* ``decrease``: an invalid row lies below the last valid value: samples that lead to it weigh 0; one that starts there
  may count in full. The last row of an episode holds, and none goes below 0: from there it counts as standing still.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vlmreward.atomic import atomic_path, check_writable
from vlmreward.data.filler import AUTO, choose_filler, fill
from vlmreward.data.labels import Change, Labels, is_of_run
from vlmreward.data.lerobot.journal import locked
from vlmreward.data.lerobot.label_columns import check_labels
from vlmreward.data.lerobot.layout import KEYS
from vlmreward.data.lerobot.parquet import opened
from vlmreward.data.lerobot.reader import LeRobotReader
from vlmreward.data.lerobot.rewrite import OURS, read_ours
from vlmreward.data.paths import inside
from vlmreward.errors import ConfigError, DatasetError
from vlmreward.optional import require_package

SIDECARS = ("sarm_progress", "robometer_progress", "topreward_progress")
"""Names of files that LeRobot looks for at the root of a dataset."""
FILLERS = ("hold", "decrease", "drop")
_BYTES_A_ROW = 28


class SidecarWriter:
    """Writes the progress of labels into a file of its own; see :class:`~vlmreward.data.labels.LabelWriter`.

    Args:
        dataset: Opened dataset.
        name: Name of the file without its suffix, one of :data:`SIDECARS`.
        filler: What stands for an invalid row, see above.
        overwrite: Replace a file that this package wrote; one of others is never replaced.

    Raises:
        ConfigError: Name or filler are none that can be.
        DatasetError: The file exists and is not ours.
        StorageError: The folder can't be written.
    """

    def __init__(self, dataset: LeRobotReader, name: str, filler: str = AUTO, overwrite: bool = False) -> None:
        filler = choose_filler(filler, FILLERS, "a progress file")
        if name not in SIDECARS:
            raise ConfigError(f"a progress file is one of {', '.join(SIDECARS)}, got {name!r}")
        self._dataset, self._name, self._filler, self._overwrite = dataset, name, filler, overwrite
        self._file = f"{name}.parquet"
        self._path = inside(dataset.root, self._file)
        check_writable(self._path)
        self._check_name()

    def is_written(self, run: str) -> bool:
        """Return whether all labels of a run stand there; see :class:`~vlmreward.data.labels.LabelWriter`."""
        if not self._path.exists():
            return False
        return is_of_run(self._written().get(self._name, {}), run, self._filler, self._overwrite, self._file)

    def plan(self) -> Sequence[Change]:
        """Return what ``write`` would do; changes nothing."""
        rows = sum(episode.rows for episode in self._dataset.episodes)
        return [Change(self._path, f"progress of each frame, filler {self._filler}", rows, _BYTES_A_ROW * rows)]

    def write(self, labels: Labels) -> None:
        """Write the progress of the labels; see :class:`~vlmreward.data.labels.LabelWriter`.

        Raises:
            ConfigError: Labels have no progress, or don't fit the episodes.
            NonFiniteError: A valid one is not finite.
            StorageError: The disk is full.
        """
        pa = require_package("pyarrow", "data")
        parquet = require_package("pyarrow.parquet", "data")
        told = vars(labels.provenance) | {"reward": dict(labels.provenance.reward), "filler": self._filler}
        ours = {self._name: {"columns": ["progress_sparse"], **told}}
        schema = pa.schema(
            [*((key, pa.int64()) for key in KEYS), ("progress_sparse", pa.float32())],
            metadata={
                OURS: json.dumps(ours, ensure_ascii=False, sort_keys=True, default=str).encode(),
                b"vlm_name": labels.provenance.encoder.encode(),
            },
        )
        with locked(self._dataset.root):
            self._check_name()
            if self.is_written(labels.provenance.run):
                return
            with atomic_path(self._path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
                for columns in self._columns(labels):
                    writer.write_table(pa.table(columns, schema=schema))

    def undo(self) -> Sequence[Change]:
        """Remove the file; see :class:`~vlmreward.data.labels.LabelWriter`."""
        with locked(self._dataset.root):
            if not self._path.exists() or self._name not in self._written():
                raise DatasetError(f"there is no {self._file} of ours in {self._dataset.root}: nothing to undo")
            rows = sum(episode.rows for episode in self._dataset.episodes)
            self._path.unlink()
            return [Change(self._path, "removed", rows, 0)]

    def _columns(self, labels: Labels) -> Iterator[dict[str, Any]]:
        for loc in self._dataset.located:
            found = labels.frames(loc.episode.index)  # as many as rows: a row of LeRobot is a frame
            check_labels(found, loc, ("progress",))
            if found.progress is None:
                raise ConfigError(f"the labels have no progress, which {self._file} is of: use a reward that gives it")
            valid = np.asarray(found.valid, dtype=np.bool_)
            rows = np.flatnonzero(valid) if self._filler == "drop" else np.arange(loc.episode.rows)
            progress = fill(np.asarray(found.progress, dtype=np.float32), valid, self._filler, "progress")
            yield {
                "index": loc.start + rows,
                "episode_index": np.full(len(rows), loc.recorded),
                "frame_index": rows,
                "progress_sparse": progress[rows],
            }

    def _check_name(self) -> None:
        if self._path.exists() and self._name not in self._written():
            raise DatasetError(f"{self._file} is there already and not ours: move it away")

    def _written(self) -> dict[str, Any]:
        with opened(self._dataset.root, self._file) as file:
            return read_ours(file.schema_arrow.metadata)
