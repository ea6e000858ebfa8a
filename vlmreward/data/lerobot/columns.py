"""Writes labels into a LeRobot dataset as columns of its own rows, joined by ``index``; videos are not touched."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlmreward.atomic import check_writable, storage_errors
from vlmreward.data.filler import AUTO, choose_filler
from vlmreward.data.labels import Change, Labels, is_of_run
from vlmreward.data.lerobot.episodes import list_episode_files
from vlmreward.data.lerobot.journal import JOURNAL, Transaction, locked, recover
from vlmreward.data.lerobot.label_columns import LabelColumns, check_keys
from vlmreward.data.lerobot.layout import INFO, read_json
from vlmreward.data.lerobot.origins import ORIGINS, Origin, read_origins, stamp, to_json
from vlmreward.data.lerobot.parquet import opened
from vlmreward.data.lerobot.reader import LeRobotReader
from vlmreward.data.lerobot.rewrite import describe, forget, read_ours, rewrite
from vlmreward.data.lerobot.stats import NAMES, QUANTILES
from vlmreward.data.paths import inside, one_line
from vlmreward.errors import ConfigError, DatasetError, StorageError
from vlmreward.optional import require_package

STATS = "meta/stats.json"
EPISODES_STATS_V21 = "meta/episodes_stats.jsonl"
FILLERS = ("hold", "decrease")
RESERVED = ("next.", "complementary_info.", "observation.")
_DEFAULTS = ("action", "task", "timestamp", "frame_index", "episode_index", "index", "task_index")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,99}")
_BYTES_A_ROW = 14  # two float32 more than the usual float32 and bool, uncompressed: an upper bound for the plan


class ColumnWriter:
    """Writes labels as columns; see :class:`~vlmreward.data.labels.LabelWriter`.

    ``<name>`` is the reward, float32, never NaN; ``<name>_valid`` says where it is one; ``<name>_success`` and
    ``<name>_progress`` stand beside it where labels have them. Features, statistics and provenance are written, too.
    All new files are staged first: the parquet files need their size once more on the disk; memory holds a row group.

    Args:
        dataset: Opened dataset.
        name: Name of the reward's column.
        filler: What stands in an invalid row, ``"hold"`` (``"auto"``) or ``"decrease"``.
        overwrite: Replace labels of that name that this package wrote; those of others are never replaced.

    Raises:
        ConfigError: The name is reserved or can't be a column, or the filler leaves out values or rows.
        DatasetError: The column exists and is not ours, or a data file is missing, damaged or holds other rows than
            the episodes that are listed in it.
        StorageError: The dataset can't be written.
    """

    def __init__(self, dataset: LeRobotReader, name: str, filler: str = AUTO, overwrite: bool = False) -> None:
        filler = choose_filler(filler, FILLERS, "columns of a LeRobot dataset")
        if not _NAME.fullmatch(name) or name in _DEFAULTS or name.startswith(RESERVED):
            raise ConfigError(
                f"column {name!r} is reserved by LeRobot or no name: use letters, digits and '_', e.g. 'reward_vlm'"
            )
        self._dataset, self._root, self._name = dataset, dataset.root, name
        self._filler, self._overwrite = filler, overwrite
        for file in self._names():
            check_writable(inside(self._root, file))
        if not self._is_interrupted():
            self._check_name()
            self._check_files()

    def is_written(self, run: str) -> bool:
        """Return whether all labels of a run stand there; see :class:`~vlmreward.data.labels.LabelWriter`."""
        if self._is_interrupted() or not (written := self._written()):
            return False
        return is_of_run(written, run, self._filler, self._overwrite, f"column {self._name!r}")

    def plan(self) -> Sequence[Change]:
        """Return what ``write`` would do; changes nothing."""
        columns = f"columns {self._name}, {self._name}_valid (and _success, _progress where labels have them)"
        return self._changes(f"add {columns}", _BYTES_A_ROW)

    def write(self, labels: Labels) -> None:
        """Write the labels; see :class:`~vlmreward.data.labels.LabelWriter`.

        Raises:
            ConfigError: Labels don't fit the episodes.
            DatasetError: Rows and labels can't be joined: an ``index`` comes twice or belongs to no episode.
            NonFiniteError: A valid label is not finite.
            StorageError: The disk is full.
        """
        with locked(self._root):
            recover(self._root)
            if self.is_written(labels.provenance.run):
                return
            self._check_name()
            join = LabelColumns(self._dataset.located, labels, self._name, self._filler)
            provenance = {
                **{
                    key: getattr(labels.provenance, key)
                    for key in ("run", "encoder", "licence", "goal", "camera", "version")
                },
                "reward": json.loads(json.dumps(dict(labels.provenance.reward), default=str)),
                "filler": self._filler,
            }
            self._check_room(_BYTES_A_ROW)
            self._replace(join, provenance)

    def undo(self) -> Sequence[Change]:
        """Take the columns away again; see :class:`~vlmreward.data.labels.LabelWriter`."""
        with locked(self._root):
            recovered = recover(self._root)
            if not self._written():
                if recovered is not None and recovered.endswith(f" {self._name}"):  # recovering has taken them away
                    return self._changes(recovered, 0)
                raise DatasetError(f"there is no column {self._name!r} of ours in {self._root}: nothing to undo")
            self._check_room(0)
            changes = self._changes(f"remove columns {', '.join(self._written()['columns'])}", 0)
            self._replace(None, {})
            return changes

    def _is_interrupted(self) -> bool:
        """Return whether a call has left its work half done, which ``write`` finishes or rolls back."""
        return inside(self._root, JOURNAL).exists()

    def _written(self) -> dict[str, Any]:
        """Return what is told of the labels of this name in the data files; {} where there are none of ours."""
        with opened(self._root, self._dataset.located[0].data) as file:
            found: dict[str, Any] = read_ours(file.schema_arrow.metadata).get(self._name, {})
        columns = found.get("columns")
        return found if isinstance(columns, list) and self._name in columns else {}

    def _check_name(self) -> None:
        features = read_json(self._root, INFO).get("features", {})
        ours = self._written()
        wanted = {self._name, *(f"{self._name}_{part}" for part in ("valid", "success", "progress"))}
        foreign = sorted(wanted & set(features) - set(ours.get("columns", ())))
        if foreign:
            raise DatasetError(f"column {foreign[0]!r} is there already and not ours: use another name")

    def _check_files(self) -> None:
        """Look at the footer of every data file: what can't take labels is told before the work, not after it."""
        for name, rows in self._rows().items():
            with opened(self._root, name) as file:
                check_keys(file.schema_arrow, name)
                if (there := file.metadata.num_rows) != rows:
                    raise DatasetError(f"{name} holds {there} rows, its episodes have {rows}: repair the dataset")

    def _rows(self) -> dict[str, int]:
        """Return the number of rows of the episodes of each data file."""
        rows: dict[str, int] = {}
        for loc in self._dataset.located:
            rows[loc.data] = rows.get(loc.data, 0) + loc.episode.rows
        return rows

    def _names(self) -> list[str]:
        """Return the files that change, in the order of replacing: ``info.json`` last."""
        names = list(self._rows())
        if self._dataset.info.version == "v3.0":
            names += list_episode_files(self._root)
        elif inside(self._root, EPISODES_STATS_V21).is_file():
            names.append(EPISODES_STATS_V21)
        if inside(self._root, STATS).is_file():
            names.append(STATS)
        if any(feature.dtype == "image" for feature in self._dataset.info.features.values()):
            names.append(ORIGINS)
        return [*names, INFO]

    def _changes(self, what: str, bytes_a_row: int) -> list[Change]:
        rows, changes = self._rows(), []
        for name in self._names():
            path = inside(self._root, name)
            size = path.stat().st_size if path.exists() else 0
            label = what if name in rows else "features" if name == INFO else "statistics"
            label = "what files with pictures were before, kept so that these stay known" if name == ORIGINS else label
            changes.append(Change(path, label, rows.get(name, 0), size + bytes_a_row * rows.get(name, 0)))
        return changes

    def _check_room(self, bytes_a_row: int) -> None:
        needed = sum(change.size for change in self._changes("", bytes_a_row))
        free = shutil.disk_usage(self._root).free
        if needed > free:
            raise StorageError(
                f"writing into {self._root} needs {needed} bytes free for a while, there are {free}: make room"
            )

    def _replace(self, join: LabelColumns | None, told: Mapping[str, Any]) -> None:
        """Replace every file that changes: columns are added from ``join``, or taken away."""
        drop = set(self._written().get("columns", ()))
        add = join.dtypes if join is not None else {}
        work = Transaction(self._root, f"{'write' if add else 'undo'} {self._name}", self._names())
        try:
            with storage_errors(self._root):
                self._stage(work, drop, add, told, join)
        except BaseException:
            work.roll_back()
            raise
        work.commit()

    def _stage(
        self,
        work: Transaction,
        drop: set[str],
        add: Mapping[str, str],
        told: Mapping[str, Any],
        join: LabelColumns | None,
    ) -> None:
        pa = require_package("pyarrow", "data")
        name, root = self._name, self._root
        origins = read_origins(root)

        def metadata(old: dict[bytes, bytes]) -> dict[bytes, bytes]:
            return describe(forget(old, name), name, add, told) if add else forget(old, name)

        kinds = {column: pa.bool_() if dtype == "bool" else pa.float32() for column, dtype in add.items()}
        of_rows_ = join.columns if join is not None else _nothing
        of_episodes = join.stats if join is not None else _nothing
        for file in self._names():
            target = work.staged(file)
            if file == INFO:
                info = read_json(root, file)
                features = {k: v for k, v in info["features"].items() if k not in drop}
                new = {k: {"dtype": dtype, "shape": [1], "names": None} for k, dtype in add.items()}
                _write_json(target, info | {"features": features | new})
            elif file == ORIGINS:
                _write_json(target, to_json(origins))
            elif file == STATS:
                kept = {k: v for k, v in read_json(root, file).items() if k not in drop}
                _write_json(target, kept | (join.whole() if join is not None else {}))
            elif file == EPISODES_STATS_V21:
                _rewrite_stats_v21(inside(root, file), target, drop, join)
            elif file.startswith("meta/"):
                stats = {f"stats/{c}/{s}" for c in drop for s in NAMES}
                lists = {
                    f"stats/{c}/{s}": pa.list_(pa.int64() if s == "count" else pa.float64()) for c in add for s in NAMES
                }
                rewrite(root, file, target, stats, lists, of_episodes, lambda old: old)
            else:
                rewrite(root, file, target, drop, kinds, of_rows_, metadata)
                before = stamp(inside(root, file))
                known = origins.get(file)
                origin = known.origin if known is not None and known.now == before else before
                origins[file] = Origin(stamp(target), origin)
            work.keep(file)
        if join is not None:
            join.check_all()


def _nothing(table: Any) -> dict[str, Any]:
    return {}


def _rewrite_stats_v21(path: Path, target: Path, drop: set[str], join: LabelColumns | None) -> None:
    """Write the statistics of episodes of v2.1 again, which knows no quantiles."""
    with target.open("wb") as out:
        for line in _lines(path):
            try:
                entry = json.loads(line.decode("utf-8", "surrogateescape"))
                stats = {k: v for k, v in entry["stats"].items() if k not in drop}
                recorded = entry["episode_index"]
            except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as e:
                raise DatasetError(
                    f"{EPISODES_STATS_V21} can't be read as statistics of episodes: {one_line(e)}"
                ) from e
            if join is not None and join.knows(recorded):
                new = join.stats_of(recorded).items()
                stats |= {c: {s: v for s, v in of.items() if s not in QUANTILES} for c, of in new}
            text = json.dumps(entry | {"stats": stats}, ensure_ascii=False)
            out.write(text.encode("utf-8", "surrogateescape") + b"\n")


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as lines:
        yield from (line for line in lines if line.strip())


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_bytes(json.dumps(content, indent=4, ensure_ascii=False).encode("utf-8", "surrogatepass"))
