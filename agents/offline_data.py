"""A dataset of recorded episodes as arrays in memory, for agents that learn from nothing else.

Rows without a valid label are cut: whatever number stands in them is replaced before anything is computed. Labels come
from a column and its validity, as ``vlmreward label`` writes them, or else from the recorded reward.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vlmreward.data.dataset import Episode, EpisodeDataset, Transitions
from vlmreward.data.label_names import validity_names
from vlmreward.data.label_validity import read_validity
from vlmreward.errors import DatasetError
from vlmreward.types import BoolArray, FloatArray


@dataclass(frozen=True)
class OfflineData:
    """All rows of a dataset, N of them, episode after episode.

    Attributes:
        observation: Of every step, float32, shape (M, D); an episode of T rows has T + 1.
        at: Where a row's observation stands, int64, shape (N,); the one after it stands at ``at + 1``.
        action: float32, shape (N, A).
        label: float32, shape (N,), 0 where invalid; None where the dataset has no reward and no column was named.
        valid: bool, shape (N,): the row has a label.
        followed: bool, shape (N,): the observation after the row was recorded, or nothing follows, at a true end.
        terminated: bool, shape (N,).
        starts: First row of every episode, and N, int64.
        frames_end: bool, one an episode: what came after its last action was recorded.
        success: Recorded outcome of each episode; None where there is none.
        column: Name of the labels; "" for the recorded reward.
    """

    observation: FloatArray
    at: npt.NDArray[np.int64]
    action: FloatArray
    label: FloatArray | None
    valid: BoolArray
    followed: BoolArray
    terminated: BoolArray
    starts: npt.NDArray[np.int64]
    frames_end: BoolArray
    success: tuple[bool | None, ...]
    column: str = ""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.at)

    @property
    def episodes(self) -> int:
        """Return the number of episodes."""
        return len(self.success)

    def rows(self, episode: int) -> slice:
        """Return where the rows of an episode stand."""
        return slice(int(self.starts[episode]), int(self.starts[episode + 1]))

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits that change with any number that can be learned from."""
        digest = hashlib.blake2b(digest_size=16)
        parts = (self.observation, self.at, self.action, self.label, self.valid, self.followed, self.terminated)
        for part in (*parts, self.starts):
            digest.update(b"none" if part is None else part.tobytes())
        digest.update(repr((self.success, self.observation.shape, self.action.shape)).encode())
        return digest.hexdigest()


def read_offline_data(dataset: EpisodeDataset, column: str | None = None) -> OfflineData:
    """Read a dataset's observations, actions and labels; no picture is decoded.

    Args:
        dataset: Opened for reading.
        column: The labels, e.g. ``"reward_vlm"`` or ``"reward_vlm_progress"``; None takes the recorded reward, where
            there is one.

    Raises:
        DatasetError: There are no vector observations or actions, their sizes differ between episodes, the column or
            its validity is missing, or a number that would be learned from is not finite.
    """
    read = [_read_episode(dataset, episode, column) for episode in dataset.episodes]
    if not read:
        raise DatasetError(f"dataset {dataset.root} has no episodes: there is nothing to learn from")
    transitions = [one.transitions for one in read]
    for what in ("observation", "action"):
        sizes = sorted({getattr(t, what).shape[1] for t in transitions})
        if len(sizes) > 1 or sizes[0] == 0:
            raise DatasetError(
                f"dataset {dataset.root} has {what}s of {' and '.join(map(str, sizes))} numbers: an offline agent "
                f"needs vector {what}s of one size in every episode"
            )
    lengths = np.array([len(one.valid) for one in read], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    rewards = [one.label for one in read]
    known = [label for label in rewards if label is not None]
    if known and len(known) < len(rewards):
        missing = next(episode.name for episode, label in zip(dataset.episodes, rewards, strict=True) if label is None)
        raise DatasetError(f"episode {missing} has no recorded reward and others have: name labels=<column>")
    return OfflineData(
        observation=np.concatenate([t.observation for t in transitions]).astype(np.float32),
        at=np.arange(starts[-1], dtype=np.int64) + np.repeat(np.arange(len(read)), lengths),
        action=np.concatenate([t.action for t in transitions]).astype(np.float32),
        label=np.concatenate(known).astype(np.float32) if known else None,
        valid=np.concatenate([one.valid for one in read]),
        followed=np.concatenate([one.followed for one in read]),
        terminated=np.concatenate([t.terminated for t in transitions]).astype(bool),
        starts=starts.astype(np.int64),
        frames_end=np.array([one.frames_end for one in read]),
        success=tuple(episode.success for episode in dataset.episodes),
        column=column or "",
    )


@dataclass(frozen=True)
class _EpisodeRows:
    transitions: Transitions
    label: FloatArray | None
    valid: BoolArray
    followed: BoolArray
    frames_end: bool


def _read_episode(dataset: EpisodeDataset, episode: Episode, column: str | None) -> _EpisodeRows:
    transitions = dataset.transitions(episode)
    rows = episode.rows
    shapes = (len(transitions.observation) - 1, len(transitions.action), len(transitions.terminated))
    if shapes != (rows, rows, rows):
        raise DatasetError(f"episode {episode.name} of {dataset.root} has {rows} rows, its arrays have {shapes}")
    for what in ("observation", "action"):
        if not np.isfinite(getattr(transitions, what)).all():
            raise DatasetError(f"episode {episode.name} of {dataset.root} has an {what} that is not finite: remove it")
    label, valid = _read_labels(dataset, episode, transitions, column)
    # a format without an observation after the last action repeats the one before it: nobody knows what followed
    frames_end = episode.frames != episode.rows
    followed = np.ones(rows, bool)
    followed[-1] = frames_end or transitions.terminated[-1]
    return _EpisodeRows(transitions, label, valid, followed, frames_end)


def _read_labels(
    dataset: EpisodeDataset, episode: Episode, transitions: Transitions, column: str | None
) -> tuple[FloatArray | None, BoolArray]:
    if column is None:
        label, valid = transitions.reward, np.ones(episode.rows, bool)
        if label is None:
            return None, valid
    else:
        label = dataset.column(episode, column)
        valid = _read_valid(dataset, episode, column)
    if not np.isfinite(label[valid]).all():
        raise DatasetError(
            f"episode {episode.name} of {dataset.root} has a {column or 'reward'} that counts as valid and is not "
            "finite: label the dataset again"
        )
    return np.where(valid, label, 0.0).astype(np.float32), valid


def _read_valid(dataset: EpisodeDataset, episode: Episode, column: str) -> BoolArray:
    valid = read_validity(dataset, episode, column)
    if valid is None:
        raise DatasetError(
            f"labels={column} has no column {' or '.join(validity_names(column))} that says which rows hold one: write "
            "labels with vlmreward label, or leave labels out for the recorded reward"
        )
    return valid


@dataclass(frozen=True)
class Shape:
    """What a policy takes and gives.

    Attributes:
        observation: Numbers in an observation.
        actions: Numbers in an action, or how many actions there are to choose from.
        discrete: Whether an action is a choice.
    """

    observation: int
    actions: int
    discrete: bool


def settle_shape(data: OfflineData, choices: int | None = None) -> Shape:
    """Return what a policy for this data takes and gives.

    Args:
        data: The dataset.
        choices: How many actions there are to choose from, numbered from 0; None for actions that are numbers.

    Raises:
        DatasetError: Its actions are no such choices.
    """
    observation, numbers = data.observation.shape[1], data.action.shape[1]
    if choices is None:
        return Shape(observation, numbers, discrete=False)
    chosen = data.action
    if numbers != 1 or (chosen != np.round(chosen)).any() or chosen.min() < 0 or chosen.max() >= choices:
        raise DatasetError(
            f"actions must be one whole number from 0 to {choices - 1} to choose from, the dataset has {numbers} from "
            f"{chosen.min():g} to {chosen.max():g}: choose the environment that it was recorded in"
        )
    return Shape(observation, choices, discrete=True)


@dataclass(frozen=True)
class Scales:
    """Statistics of the rows that are learned from; kept in every checkpoint.

    Attributes:
        mean: Of the observations, float32, shape (D,).
        std: The same; 1 where a number never changes.
        low: Smallest value of each number of an action, float32, shape (A,).
        high: Largest.
        reward: Standard deviation of the labels; 1 without labels or where they never change.
    """

    mean: FloatArray
    std: FloatArray
    low: FloatArray
    high: FloatArray
    reward: float


def measure_scales(data: OfflineData, weights: FloatArray) -> Scales:
    """Return the statistics of the rows whose weight is above 0.

    Args:
        data: The dataset.
        weights: float32, shape (N,).
    """
    kept = np.flatnonzero(weights > 0)
    observations = data.observation[data.at[kept]].astype(np.float64)
    std = observations.std(axis=0)
    action = data.action[kept]
    reward = 1.0 if data.label is None else float(data.label[kept].astype(np.float64).std())
    return Scales(
        observations.mean(axis=0).astype(np.float32),
        np.where(std > 1e-6, std, 1.0).astype(np.float32),
        action.min(axis=0),
        action.max(axis=0),
        reward if reward > 1e-9 else 1.0,
    )
