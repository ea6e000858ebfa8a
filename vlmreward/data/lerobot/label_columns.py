"""Labels as columns for the rows of data files, joined by ``index``, and the statistics of those columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vlmreward.data.filler import fill
from vlmreward.data.labels import EpisodeLabels, FrameLabels, Labels
from vlmreward.data.lerobot.episodes import Located
from vlmreward.data.lerobot.layout import KEYS
from vlmreward.data.lerobot.stats import NAMES, Whole, of_rows, to_lists
from vlmreward.errors import ConfigError, DatasetError, NonFiniteError
from vlmreward.optional import require_package

Values = Mapping[str, npt.NDArray[Any]]
"""Columns of one episode by name, each of shape (T,)."""


class LabelColumns:
    """Labels as columns for tables of rows, found by ``index``, each exactly once.

    Args:
        located: Episodes of the dataset.
        labels: Their labels.
        name: Name of the reward's column; the others are called after it.
        filler: What stands for an invalid row.

    Attributes:
        dtypes: ``"float32"`` or ``"bool"`` by name of column.
    """

    def __init__(self, located: Sequence[Located], labels: Labels, name: str, filler: str) -> None:
        self._by_recorded = {loc.recorded: loc for loc in located}
        self._located, self._labels, self._name, self._filler = located, labels, name, filler
        first = labels.episode(located[0].episode.index)
        self.dtypes: dict[str, str] = {name: "float32", f"{name}_valid": "bool"}
        for part in ("success", "progress"):
            if getattr(first, part) is not None:
                self.dtypes[f"{name}_{part}"] = "float32"
        self._last: tuple[int, Values] | None = None
        self._open: dict[int, npt.NDArray[np.bool_]] = {}
        self._done: set[int] = set()

    def columns(self, table: Any) -> dict[str, Any]:
        """Return the columns for rows of a data file."""
        pa = require_package("pyarrow", "data")
        check_keys(table.schema, "a data file")
        if any(table[c].null_count for c in KEYS):
            raise DatasetError(f"a data file lacks {', '.join(KEYS)} in some rows: labels can't be joined")
        index, episodes, frames = (table[c].to_numpy() for c in KEYS)
        found: dict[str, npt.NDArray[Any]] = {
            c: np.zeros(len(index), np.bool_ if kind == "bool" else np.float32) for c, kind in self.dtypes.items()
        }
        for recorded in np.unique(episodes).tolist():
            mine = np.flatnonzero(episodes == recorded)
            places = self._take(recorded, index[mine])
            if not np.array_equal(frames[mine], places):
                loc = self._by_recorded[recorded]
                raise DatasetError(f"{loc.data}: index and frame_index of episode {recorded} disagree: repair it")
            for column, values in self._values(recorded).items():
                found[column][mine] = values[places]
        return {column: pa.array(values) for column, values in found.items()}

    def stats(self, table: Any) -> dict[str, Any]:
        """Return the statistics for rows of the list of episodes."""
        pa = require_package("pyarrow", "data")
        rows: list[dict[str, Any]] = []
        for recorded in table["episode_index"].to_pylist():
            known = self.knows(recorded)  # one without rows is listed, and has no labels
            rows.append(self.stats_of(recorded) if known else {})
        arrays = {}
        for column in self.dtypes:
            for name in NAMES:
                kind = pa.list_(pa.int64() if name == "count" else pa.float64())
                arrays[f"stats/{column}/{name}"] = pa.array([row.get(column, {}).get(name) for row in rows], kind)
        return arrays

    def knows(self, recorded: Any) -> bool:
        """Return whether there are labels for an episode."""
        return recorded in self._by_recorded

    def stats_of(self, recorded: int) -> dict[str, Any]:
        """Return the statistics of each column in one episode, as lists."""
        return {column: to_lists(of_rows(values)) for column, values in self._values(recorded).items()}

    def whole(self) -> dict[str, Any]:
        """Return the statistics of each column in the dataset, as lists."""
        whole = {column: Whole() for column in self.dtypes}
        for loc in self._located:
            for column, values in self._values(loc.recorded).items():
                whole[column].add(of_rows(values))
        return {column: to_lists(found.stats()) for column, found in whole.items()}

    def check_all(self) -> None:
        """Refuse to leave a label without its row.

        Raises:
            DatasetError: Rows of an episode weren't found.
        """
        for loc in self._located:
            if loc.recorded not in self._done:
                seen = int(self._open[loc.recorded].sum()) if loc.recorded in self._open else 0
                due = loc.episode.rows
                raise DatasetError(f"episode {loc.recorded} has {due} labels, {loc.data} {seen} of its rows: repair it")

    def _take(self, recorded: int, index: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the places in an episode of rows, which are marked as taken."""
        loc = self._by_recorded.get(recorded)
        if loc is None:
            raise DatasetError(f"a row belongs to episode {recorded}, which isn't listed: repair the dataset")
        places = index - loc.start
        if places.min() < 0 or places.max() >= loc.episode.rows:
            end = loc.start + loc.episode.rows - 1
            raise DatasetError(f"{loc.data}: index of a row of episode {recorded} is not within {loc.start} to {end}")
        seen = self._open.setdefault(recorded, np.zeros(loc.episode.rows, dtype=np.bool_))
        if recorded in self._done or seen[places].any() or len(np.unique(places)) != len(places):
            raise DatasetError(f"{loc.data}: an index of episode {recorded} comes twice: repair the dataset")
        seen[places] = True
        if seen.all():
            self._done.add(recorded)
            del self._open[recorded]
        return places

    def _values(self, recorded: int) -> Values:
        if self._last is None or self._last[0] != recorded:
            self._last = recorded, self._of(self._by_recorded[recorded])
        return self._last[1]

    def _of(self, loc: Located) -> Values:
        labels = self._labels.episode(loc.episode.index)
        check_labels(labels, loc)
        valid = np.asarray(labels.valid, dtype=np.bool_)
        found = {
            self._name: fill(np.asarray(labels.reward, np.float32), valid, self._filler, "reward"),
            f"{self._name}_valid": valid,
        }
        for part in ("success", "progress"):
            values = getattr(labels, part)
            if (values is not None) != (f"{self._name}_{part}" in self.dtypes):
                raise ConfigError(f"labels of episode {loc.recorded} and of the first one don't agree on having {part}")
            if values is not None:
                found[f"{self._name}_{part}"] = fill(np.asarray(values, np.float32), valid, self._filler, part)
        return found


def check_keys(schema: Any, whose: str) -> None:
    """Refuse a data file whose rows labels can't be joined to.

    Args:
        schema: The pyarrow schema of its rows.
        whose: The file, in words.

    Raises:
        DatasetError: A column of :data:`~vlmreward.data.lerobot.layout.KEYS` is missing, or none of whole numbers.
    """
    pa = require_package("pyarrow", "data")
    kinds = {key: schema.field(key).type if key in schema.names else None for key in KEYS}
    for key, kind in kinds.items():
        if kind is None or not pa.types.is_integer(kind):
            raise DatasetError(
                f"{whose} has no whole numbers as {key} ({kind or 'no such column'}): repair the dataset"
            )


def check_labels(
    labels: EpisodeLabels | FrameLabels, loc: Located, parts: Sequence[str] = ("reward", "success", "progress")
) -> None:
    """Refuse labels that don't fit an episode.

    Args:
        labels: Of its rows, or of its frames, which are as many.
        loc: The episode.
        parts: Which of them are written, besides their validity.

    Raises:
        ConfigError: There is another number of them than rows.
        NonFiniteError: A valid one is not finite.
    """
    valid = np.asarray(labels.valid, dtype=np.bool_)
    for part in ("valid", *parts):
        values = getattr(labels, part)
        if values is None:
            continue
        if np.shape(values) != (loc.episode.rows,):
            raise ConfigError(
                f"episode {loc.recorded} has {loc.episode.rows} rows, labels have {part} of {np.shape(values)}"
            )
        if not np.isfinite(np.asarray(values, np.float32)[valid]).all():
            raise NonFiniteError(f"{part} of a valid row of episode {loc.recorded} is not finite: mark it invalid")
