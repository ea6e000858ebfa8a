"""Find the curves that ``vlmreward view`` draws: labels of runs, and columns of the dataset."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmreward.data.label_names import label_stem
from vlmreward.data.label_validity import read_validity
from vlmreward.errors import ConfigError, UnknownColumnError
from vlmreward.registry import suggest
from vlmreward.video.viewer import KINDS, Curve, Kind

if TYPE_CHECKING:
    from vlmreward.data.dataset import Episode, EpisodeDataset
    from vlmreward.data.labels import Provenance
    from vlmreward.labelling.stored_labels import StoredLabels
    from vlmreward.types import FloatArray

USUAL = ("reward_vlm", "reward_vlm_success", "reward_vlm_progress")
"""What ``vlmreward label`` calls its columns unless it is told otherwise; understood by every format."""


def open_runs(dataset: EpisodeDataset, asked: Sequence[str]) -> list[StoredLabels]:
    """Open the labelling runs of a dataset.

    Args:
        dataset: That was labelled.
        asked: Folders of runs or of whole jobs; none for those in the usual places.

    Raises:
        ConfigError: A folder is not there, or no run has finished in it.
        DatasetError: The labels are of another dataset.
    """
    from vlmreward.cli.label_settings import job_folder
    from vlmreward.labelling.plan import layout_key
    from vlmreward.labelling.stored_labels import list_runs, open_labels

    if not asked:
        usual = (job_folder({"run_dir": None}, dataset.root, layout_key(dataset, camera)) for camera in dataset.cameras)
        found = [run for job in usual for run in list_runs(job)]
    else:
        found = []
        for given in asked:
            folder = Path(given)
            if not folder.is_dir():
                raise ConfigError(f"runs={given} is no folder: give runs/labels/<job>, or a labels-<run> in it")
            found += list_runs(folder) or [folder]
    return [open_labels(run, dataset) for run in dict.fromkeys(found)]


def choose_columns(dataset: EpisodeDataset, asked: Any, episode: Episode) -> list[str]:
    """Return the columns of the dataset that are drawn of an episode.

    Args:
        dataset: Opened for reading.
        asked: Names as given, or None for those that ``vlmreward label`` writes, as far as they hold anything.
        episode: Whose.

    Raises:
        ConfigError: The episode has no such column.
        DatasetError: One is there and can't be read.
    """
    if asked is None:
        return [name for name in USUAL if _holds_anything(dataset, episode, name)]
    names = [str(name) for name in asked] if isinstance(asked, list) else [str(asked)]
    for name in names:
        if _find(dataset, episode, name) is None:
            usual = {one for one in USUAL if _find(dataset, episode, one) is not None}
            others = {*usual, *dataset.features} - {name}  # features are of the first episode: another may lack one
            raise ConfigError(f"episode {episode.index} has no column {name!r}: {suggest(name, others)}")
    return list(dict.fromkeys(names))


def name_runs(runs: Sequence[Provenance], camera: str) -> list[str]:
    """Return a name for each run that tells it from the others.

    A run is called by its goal, encoder and reward; by its camera where that is not the one that is shown; and where
    these are the same, by the settings of the reward that differ, or in the end by its number.
    """
    names = []
    for run in runs:
        encoder = re.sub(r"-[0-9a-f]{16}$", "", run.encoder.split()[0])  # a sum of its weights is no name
        parts = [run.goal or "each episode's own task", encoder, str(run.reward.get("name", "reward"))]
        names.append(" · ".join([*parts, *([f"camera {run.camera}"] if run.camera != camera else [])]))
    for name in [name for name, count in Counter(names).items() if count > 1]:
        same = [i for i, other in enumerate(names) if other == name]
        keys = sorted({key for i in same for key in runs[i].reward})
        differing = [key for key in keys if len({json.dumps(runs[i].reward.get(key)) for i in same}) > 1]
        for i in same:
            names[i] += "".join(f" {key}={runs[i].reward.get(key)}" for key in differing)
    return [f"{name} ({runs[i].run[:6]})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def curves_of_runs(runs: Sequence[StoredLabels], camera: str, episode: Episode) -> list[Curve]:
    """Return the curves of an episode that labelling runs have left, of every kind that a run has."""
    curves = []
    for name, run in zip(name_runs([run.provenance for run in runs], camera), runs, strict=True):
        record = run.frames(episode.index)
        for kind in KINDS:
            values: FloatArray = np.where(record.valid, getattr(record, kind), np.float32(np.nan))
            if kind == "reward" or np.isfinite(values).any():
                curves.append(Curve(name, kind, values, record.reasons, _describe(run.provenance)))
    return curves


def curves_of_columns(dataset: EpisodeDataset, columns: Sequence[str], episode: Episode) -> list[Curve]:
    """Return the curves of columns: row t is about frame t + 1, so the first frame has no value.

    A row without a label has no value, nor has one of the success and progress that belong to it.

    Raises:
        DatasetError: A column can't be read.
    """
    curves = []
    for name in columns:
        values, valid = dataset.column(episode, name).astype(np.float32), read_validity(dataset, episode, name)
        if valid is not None:
            values = np.where(valid, values, np.float32(np.nan))
        of_frames = np.full(episode.frames, np.nan, np.float32)
        of_frames[1:] = values[: episode.frames - 1]
        said = f": {dataset.features[name]}" if name in dataset.features else ""
        curves.append(Curve(f"column {_set(name, columns)}", _kind(name), of_frames, about=f"column {name}{said}"))
    return curves


def _find(dataset: EpisodeDataset, episode: Episode, name: str) -> FloatArray | None:
    """Return a column; None where there is none."""
    try:
        return dataset.column(episode, name)
    except UnknownColumnError:
        return None


def _holds_anything(dataset: EpisodeDataset, episode: Episode, name: str) -> bool:
    values = _find(dataset, episode, name)  # a folder's labels have a place for success that may be empty throughout
    return values is not None and (_kind(name) == "reward" or bool(np.isfinite(values).any()))


def _kind(name: str) -> Kind:
    """Return the plot that a column belongs to, by either end of its name."""
    for kind in KINDS[1:]:
        if name.endswith(kind) or name.startswith(f"{kind}_"):
            return kind
    return "reward"


def _set(name: str, columns: Sequence[str]) -> str:
    """Return the name that the columns of one labelling share: that of its reward, where it is among the columns."""
    kind = _kind(name)
    if kind == "reward":
        return name
    labels = name.removeprefix(f"{kind}_")
    if labels == name:
        return name.removesuffix(f"_{kind}")
    return next((one for one in columns if _kind(one) == "reward" and label_stem(one) == labels), labels)


def _describe(run: Provenance) -> str:
    reward = ", ".join(f"{key} {value}" for key, value in run.reward.items())
    return f"run {run.run}; encoder {run.encoder}; reward {reward}; camera {run.camera}; vlmreward {run.version}"
