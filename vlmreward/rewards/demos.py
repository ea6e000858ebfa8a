"""Pictures of recorded episodes that show how a task is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlmreward.data import open_dataset
from vlmreward.data.dataset import Episode, EpisodeDataset, Undecodable
from vlmreward.errors import ConfigError
from vlmreward.types import Frames


def open_demos(path: str | Path, camera: str | None, setting: str) -> tuple[EpisodeDataset, str]:
    """Open a dataset and settle which camera is looked at.

    Args:
        path: Dataset of any format.
        camera: Name of the camera; None: the only one.
        setting: What the camera is set with, for the error message.

    Raises:
        DatasetError: The dataset can't be read.
        ConfigError: There is no such camera, or there are several and none is named.
    """
    dataset = open_dataset(path)
    camera = dataset.cameras[0] if camera is None and len(dataset.cameras) == 1 else camera
    if camera is None or camera not in dataset.cameras:
        raise ConfigError(f"{setting} must be one of {', '.join(dataset.cameras)}, got {camera}")
    return dataset, camera


def read_demo(dataset: EpisodeDataset, episode: Episode, camera: str, count: int) -> Frames:
    """Read evenly spaced frames of an episode, the first and the last among them.

    Args:
        dataset: Where the episode is.
        episode: One of its episodes.
        camera: One of its cameras.
        count: Number of frames; those of a shorter episode come more than once.

    Returns:
        uint8, shape (count, H, W, 3).

    Raises:
        ConfigError: A frame that is wanted can't be decoded.
    """
    wanted = np.rint(np.linspace(0, episode.frames - 1, count)).astype(int)
    pictures: dict[int, npt.NDArray[np.uint8]] = {}
    for at, frame in enumerate(dataset.frames(episode, camera)):
        if at in wanted:
            if isinstance(frame, Undecodable):
                where = f"frame {at} of episode {episode.index} of {dataset.root}"
                raise ConfigError(f"{where} can't be decoded ({frame.reason}): give another episode")
            pictures[at] = frame
    return np.stack([pictures[at] for at in wanted.tolist()])


def read_reference(path: str | Path, number: int, camera: str | None, count: int) -> Frames:
    """Read evenly spaced frames of the episode that a reward takes as its reference.

    Args:
        path: Dataset of any format.
        number: Of the episode.
        camera: Name of the camera; None: the only one.
        count: Number of frames, K.

    Returns:
        uint8, shape (K, H, W, 3).

    Raises:
        DatasetError: The dataset can't be read.
        ConfigError: There is no such episode or camera, or a frame that is wanted can't be decoded.
    """
    dataset, camera = open_demos(path, camera, "reference_camera")
    if type(number) is not int or not 0 <= number < len(dataset.episodes):
        raise ConfigError(f"reference_episode must be in [0, {len(dataset.episodes) - 1}], got {number}")
    return read_demo(dataset, dataset.episodes[number], camera, count)
