"""Frames of an episode that shows how a task is done."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vlmreward.data import open_dataset
from vlmreward.data.dataset import Undecodable
from vlmreward.errors import ConfigError
from vlmreward.types import Frames


def read_frames(path: str | Path, number: int, camera: str | None, count: int) -> Frames:
    """Read evenly spaced frames of an episode, the first and the last among them.

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
    dataset = open_dataset(path)
    if type(number) is not int or not 0 <= number < len(dataset.episodes):
        raise ConfigError(f"reference_episode must be in [0, {len(dataset.episodes) - 1}], got {number}")
    camera = dataset.cameras[0] if camera is None and len(dataset.cameras) == 1 else camera
    if camera is None or camera not in dataset.cameras:
        raise ConfigError(f"reference_camera must be one of {', '.join(dataset.cameras)}, got {camera}")
    episode = dataset.episodes[number]
    wanted = np.rint(np.linspace(0, episode.frames - 1, count)).astype(int)
    pictures: dict[int, Frames] = {}
    for at, frame in enumerate(dataset.frames(episode, camera)):
        if at in wanted:
            if isinstance(frame, Undecodable):
                raise ConfigError(f"frame {at} of the reference {path} can't be decoded ({frame.reason}): give another")
            pictures[at] = frame
    return np.stack([pictures[at] for at in wanted.tolist()])
