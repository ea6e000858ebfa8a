"""Finished labels of a dataset, read from the shards of a work folder, as rows of episodes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from vlmreward.data.dataset import Episode, EpisodeDataset
from vlmreward.data.labels import EpisodeLabels, Provenance
from vlmreward.errors import DatasetError, StorageError
from vlmreward.labelling.plan import Plan, layout_key, make_plan
from vlmreward.labelling.work_folder import LabelRecord, WorkFolder
from vlmreward.types import FloatArray

RESULT = "result.json"
"""What a run says of itself once all its shards are there."""
RUN_PREFIX = "labels-"
RANGE_SHARDS = 64
"""Shards over which the range of rewards is taken; memory must not grow with the dataset."""

NO_SUCCESSOR = "the frame after the last action was not recorded"


class StoredLabels:
    """The labels of a run; see :class:`vlmreward.data.labels.Labels`.

    A reward model that says nothing of progress gets one from its reward: its place between the 1 % and the 99 %
    quantile over the whole dataset, cut to [0, 1]. Not over each episode: a failed one would look finished.

    Args:
        folder: Where the shards are.
        plan: Which frame is in which shard.
        episodes: Of the dataset.
        provenance: Of the labels.
    """

    def __init__(self, folder: WorkFolder, plan: Plan, episodes: Sequence[Episode], provenance: Provenance) -> None:
        self._folder, self._plan, self._episodes = folder, plan, episodes
        self.provenance = provenance
        self._last: tuple[int, LabelRecord] | None = None
        self._success: bool | None = None
        self._range: tuple[float, float] | None = None

    def __iter__(self) -> Iterator[EpisodeLabels]:
        """Return the labels of every episode, in the dataset's order."""
        return (self.episode(episode.index) for episode in self._episodes)

    def frames(self, index: int) -> LabelRecord:
        """Return the labels of an episode's F frames, the first one's included.

        Raises:
            DatasetError: A shard is missing, or is none of this dataset.
        """
        episode = self._episodes[index]
        reward, success, progress = (np.full(episode.frames, np.nan, np.float32) for _ in range(3))
        valid, reasons = np.zeros(episode.frames, bool), {}
        for number, rows, frames in self._plan.where(index):
            shard = self._shard(number)
            reward[frames], valid[frames] = shard.reward[rows], shard.valid[rows]
            success[frames], progress[frames] = shard.success[rows], shard.progress[rows]
            offset = frames.start - rows.start
            inside = ((row, why) for row, why in shard.reasons.items() if rows.start <= row < rows.stop)
            reasons.update({row + offset: why for row, why in inside})
        return LabelRecord(reward, valid, success, self._progress(reward, progress), reasons)

    def episode(self, index: int) -> EpisodeLabels:
        """Return the labels of an episode's T rows: row t has those of frame t + 1."""
        rows = self._episodes[index].rows
        found = self.frames(index)
        valid = np.zeros(rows, bool)
        valid[: len(found.valid) - 1] = found.valid[1:]
        reasons = {frame - 1: why for frame, why in found.reasons.items() if frame > 0}
        if len(found.valid) == rows:
            reasons[rows - 1] = NO_SUCCESSOR

        def shift(values: FloatArray) -> FloatArray:
            out = np.full(rows, np.nan, np.float32)
            out[: len(values) - 1] = values[1:]
            return out

        success, progress = shift(found.success), shift(found.progress)
        return EpisodeLabels(
            reward=shift(found.reward),
            valid=valid,
            success=success if self._tells_success() else None,
            progress=progress,
            reasons=reasons,
        )

    def _tells_success(self) -> bool:
        """Return whether the run has any success: what labels there are is one thing for all episodes."""
        if self._success is None:
            self._success = any(
                np.isfinite(self._shard(number).success).any() for number in range(len(self._plan.shards))
            )
        return self._success

    def _progress(self, reward: FloatArray, said: FloatArray) -> FloatArray:
        """Return the model's progress, or where it says none that of the reward; NaN where there is no reward."""
        if np.isfinite(said).any() or not np.isfinite(reward).any():
            return said
        low, high = self._rewards()
        with np.errstate(invalid="ignore"):  # NaN stays NaN
            return np.clip((reward - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)

    def _rewards(self) -> tuple[float, float]:
        """Return the 1 % and the 99 % quantile of the rewards of at most ``RANGE_SHARDS`` shards, spread evenly."""
        if self._range is None:
            count = len(self._plan.shards)
            numbers = np.unique(np.linspace(0, count - 1, min(count, RANGE_SHARDS)).round().astype(int)).tolist()
            rewards = np.concatenate([self._shard(number).reward for number in numbers])
            low, high = np.quantile(rewards[np.isfinite(rewards)], (0.01, 0.99))
            self._range = float(low), float(high)
        return self._range

    def _shard(self, number: int) -> LabelRecord:
        if self._last is None or self._last[0] != number:
            record = self._folder.read_labels(number)
            due = len(self._plan.shards[number])
            if record is None or len(record.valid) != due:
                has = "is missing" if record is None else f"has {len(record.valid)} rows instead of {due}"
                raise DatasetError(f"shard {number} of {self._folder.labels} {has}: run the same vlmreward label again")
            self._last = (number, record)
        return self._last[1]


def list_runs(job: Path) -> list[Path]:
    """Return the folders of the finished runs of a labelling job, sorted by name."""
    return sorted(path.parent for path in job.glob(f"{RUN_PREFIX}*/{RESULT}"))


def open_labels(folder: Path, dataset: EpisodeDataset) -> StoredLabels:
    """Open what a finished labelling run left, for reading.

    Args:
        folder: ``labels-<run>`` of a job.
        dataset: That was labelled.

    Raises:
        DatasetError: It is no such folder, the run has not finished, or the labels are of other episodes or pictures.
        StorageError: ``result.json`` can't be read.
    """
    path = folder / RESULT
    if not folder.name.startswith(RUN_PREFIX) or not path.is_file():
        raise DatasetError(
            f"{folder} holds no finished labels ({RUN_PREFIX}<run> with {RESULT} in it): give a folder that vlmreward "
            "label has made, or let it finish"
        )
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        said = about["provenance"]
        provenance = Provenance(**{known.name: said[known.name] for known in fields(Provenance)})
        layout = about["layout"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise StorageError(
            f"{path} can't be read ({type(e).__name__}: {' '.join(str(e).split())}): remove {folder}, and make these "
            "labels again"
        ) from e
    if provenance.camera not in dataset.cameras or layout_key(dataset, provenance.camera) != layout:
        raise DatasetError(
            f"{folder} has labels of pictures of camera {provenance.camera!r} that {dataset.root} doesn't hold: they "
            "are of another dataset, or this one has changed; label it again"
        )
    work = WorkFolder(folder.parent, layout, folder.name.removeprefix(RUN_PREFIX))
    return StoredLabels(work, make_plan(dataset.episodes), dataset.episodes, provenance)
