"""Labels beside a folder: ``labels_<name>.parquet``, a row for each row of the dataset."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.atomic import atomic_path, check_writable
from vlmreward.data.dataset import Episode
from vlmreward.data.filler import AUTO, choose_filler, fill
from vlmreward.data.label_names import label_parts, label_stem, name_labels
from vlmreward.data.labels import Change, EpisodeLabels, Labels, Provenance, is_of_run
from vlmreward.data.paths import one_line
from vlmreward.errors import DatasetError, NonFiniteError, UnknownColumnError
from vlmreward.optional import require_package
from vlmreward.types import FloatArray

MARK = b"vlmreward"
"""Key of the file's metadata with the provenance, as JSON."""

FILLERS = ("empty", "hold", "decrease")
_ROWS_AT_ONCE = 1 << 16
_ROW_BYTES = 24


class FolderLabelWriter:
    """Writes labels beside a folder's list; see :class:`~vlmreward.data.labels.LabelWriter`.

    Nothing of the dataset is touched. Invalid rows say so, and why.

    Args:
        folder: Of the dataset.
        episodes: Of the dataset.
        name: ``"vlm"`` and ``"reward_vlm"`` mean the same.
        filler: What stands in an invalid row: null (``"empty"``, ``"auto"``), or a number with ``"hold"`` and
            ``"decrease"``.
        overwrite: Whether labels of the same name may be replaced.

    Raises:
        ConfigError: The name or the filler can't be.
        DatasetError: A file that isn't ours has the name.
        StorageError: The folder can't be written.
    """

    def __init__(
        self, folder: Path, episodes: Sequence[Episode], name: str, filler: str = AUTO, overwrite: bool = False
    ) -> None:
        self._filler = choose_filler(filler, FILLERS, "the labels of a folder")
        name_labels(name)
        self._path, self._episodes, self._overwrite = labels_path(folder, name), episodes, overwrite
        require_package("pyarrow", "data")
        check_writable(self._path)
        if self._path.exists() or self._path.is_symlink():
            _read_mark(self._path)

    def is_written(self, run: str) -> bool:
        """Return whether all labels of a run stand there; see :class:`~vlmreward.data.labels.LabelWriter`."""
        if not self._path.exists():
            return False
        return is_of_run(_read_mark(self._path), run, self._filler, self._overwrite, self._path.name)

    def plan(self) -> Sequence[Change]:
        """Return what ``write`` would do; changes nothing."""
        rows = sum(episode.rows for episode in self._episodes)
        what = "is replaced" if self._path.exists() else "is made"
        return [Change(self._path, f"{what} with {rows} labels", rows, rows * _ROW_BYTES)]

    def write(self, labels: Labels) -> None:
        """Write the labels of every episode, or nothing.

        Raises:
            DatasetError: Labels and episodes don't fit.
            NonFiniteError: A valid reward is not finite.
            StorageError: The disk is full.
        """
        pa, parquet = require_package("pyarrow", "data"), require_package("pyarrow.parquet", "data")
        about = labels.provenance
        if self.is_written(about.run):
            return
        told = asdict(about) | {"filler": self._filler}
        schema = _schema(pa).with_metadata({MARK: json.dumps(told, ensure_ascii=False)})
        with atomic_path(self._path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
            held: list[Any] = []
            first = 0
            for episode in self._episodes:
                table = pa.table(
                    _columns(episode, labels.episode(episode.index), about, first, self._filler), schema=schema
                )
                first += episode.rows
                held.append(table)
                if sum(t.num_rows for t in held) >= _ROWS_AT_ONCE:
                    writer.write_table(pa.concat_tables(held))
                    held.clear()
            if held:
                writer.write_table(pa.concat_tables(held))

    def undo(self) -> Sequence[Change]:
        """Remove the file of labels.

        Raises:
            DatasetError: There is none of ours.
        """
        if not self._path.exists():
            raise DatasetError(f"{self._path.name} is not there: nothing to undo")
        _read_mark(self._path)
        rows = require_package("pyarrow.parquet", "data").read_metadata(self._path).num_rows
        self._path.unlink()
        return [Change(self._path, "is removed", rows, 0)]


def labels_path(folder: Path, name: str) -> Path:
    """Return where labels of a name are."""
    return folder / f"labels_{label_stem(name)}.parquet"


def read_label(folder: Path, episode: Episode, column: str) -> FloatArray:
    """Read a column of labels of an episode.

    Args:
        folder: Of the dataset.
        episode: Whose.
        column: The labels' name, or with ``_success``, ``_progress`` or ``_valid`` behind it.

    Returns:
        float32, shape (T,); NaN where it is empty.

    Raises:
        UnknownColumnError: There are none.
        DatasetError: They are damaged.
    """
    known = [(labels_path(folder, name), part) for name, part in label_parts(column)]
    path, part = next((found for found in known if found[0].is_file()), (None, ""))
    if path is None:
        raise UnknownColumnError(
            f"there is no labels_{label_stem(column)}.parquet beside the episodes: label them first"
        )
    pa, parquet = require_package("pyarrow", "data"), require_package("pyarrow.parquet", "data")
    try:
        wanted = [("episode_index", "=", episode.index)]
        table = parquet.read_table(path, columns=["frame_index", part], filters=wanted)
        rows = table.column("frame_index").to_numpy()
        values = table.column(part).cast(pa.float32()).to_numpy(zero_copy_only=False)
    except (pa.ArrowException, OSError, KeyError, ValueError) as e:
        raise DatasetError(f"{path.name} can't be read: {one_line(e)}") from e
    if not np.array_equal(rows, np.arange(episode.rows)):
        raise DatasetError(f"{path.name} has {len(rows)} rows of episode {episode.name!r}, {episode.rows} expected")
    return np.asarray(values, dtype=np.float32)


def _schema(pa: Any) -> Any:
    return pa.schema(
        [
            ("index", pa.int64()),
            ("episode_index", pa.int64()),
            ("frame_index", pa.int64()),
            ("progress", pa.float32()),
            ("reward", pa.float32()),
            ("success", pa.float32()),
            ("valid", pa.bool_()),
            ("reason", pa.string()),
            ("model_id", pa.string()),
            ("prompt_hash", pa.string()),
            ("mode", pa.string()),
            ("causal", pa.bool_()),
            ("camera", pa.string()),
        ]
    )


def _columns(episode: Episode, labels: EpisodeLabels, about: Provenance, first: int, filler: str) -> dict[str, Any]:
    rows = episode.rows
    valid = np.asarray(labels.valid, dtype=np.bool_)
    text = about.goal or episode.instruction
    causal = about.reward.get("causal")
    columns: dict[str, Any] = {
        "index": np.arange(first, first + rows),
        "episode_index": np.full(rows, episode.index),
        "frame_index": np.arange(rows),
    }
    for name, values in (("progress", labels.progress), ("reward", labels.reward), ("success", labels.success)):
        if values is None:
            columns[name] = [None] * rows
            continue
        values = np.asarray(values, dtype=np.float32)
        if values.shape != (rows,) or valid.shape != (rows,):
            raise DatasetError(f"episode {episode.name!r} has {rows} rows, its labels {values.shape} and {valid.shape}")
        if not np.isfinite(values[valid]).all():
            raise NonFiniteError(f"{name} of episode {episode.name!r} is not finite in a valid row: mark it invalid")
        if filler == "empty":
            columns[name] = [float(v) if ok else None for v, ok in zip(values, valid, strict=True)]
        else:
            columns[name] = fill(values, valid, filler, name)
    return columns | {
        "valid": valid,
        "reason": [labels.reasons.get(i) for i in range(rows)],
        "model_id": [about.encoder] * rows,
        "prompt_hash": [hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]] * rows,
        "mode": [str(about.reward.get("name", ""))] * rows,
        "causal": [causal if isinstance(causal, bool) else None] * rows,
        "camera": [about.camera] * rows,
    }


def _read_mark(path: Path) -> dict[str, Any]:
    """Return what a file of ours tells of its labels.

    Raises:
        DatasetError: It isn't ours, or is damaged.
    """
    pa, parquet = require_package("pyarrow", "data"), require_package("pyarrow.parquet", "data")
    try:
        told = None if path.is_symlink() else (parquet.read_schema(path).metadata or {}).get(MARK)
        found = None if told is None else json.loads(told)
    except (pa.ArrowException, OSError, ValueError) as e:
        raise DatasetError(
            f"{path.name} is no file of labels ({one_line(e)}): move it away or give another name"
        ) from e
    if not isinstance(found, dict):
        raise DatasetError(f"{path.name} was not written by vlmreward: move it away or give another name")
    return found
