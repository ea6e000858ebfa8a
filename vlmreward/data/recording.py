"""What writers of new datasets share: a recording that is looked at before anything of it is written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmreward.data.dataset import Frame, Recording
from vlmreward.errors import ConfigError
from vlmreward.types import FloatArray


@dataclass(frozen=True)
class Shapes:
    """What every episode of a dataset has in common.

    Attributes:
        observation: Length of an observation.
        action: Length of an action.
        cameras: Names of the cameras.
        has_reward: Whether rewards are recorded.
    """

    observation: int
    action: int
    cameras: tuple[str, ...]
    has_reward: bool


def check_fps(fps: float) -> None:
    """Refuse what is no rate of a dataset.

    Raises:
        ConfigError: It is not a number above 0.
    """
    if not 0 < fps <= 1e6:
        raise ConfigError(f"fps must be a number above 0, got {fps!r}")


def check_recording(recording: Recording, first: Shapes | None) -> tuple[Shapes, FloatArray, FloatArray]:
    """Check a recording by itself and against the first one of a dataset; pictures are checked as they come.

    Returns:
        Its shapes, its observations float32 (T + 1, D) and its actions float32 (T, A).

    Raises:
        ConfigError: It has no rows, its parts don't fit together, or its shapes differ from those of the first one.
    """
    action = np.asarray(recording.action, dtype=np.float32)
    seen = np.asarray(recording.observation, dtype=np.float32)
    rows = len(action)
    if action.ndim != 2 or not rows or seen.ndim != 2 or len(seen) != rows + 1:
        raise ConfigError(
            f"an episode needs actions (T, A) and observations (T + 1, D), T > 0, got {action.shape} and {seen.shape}"
        )
    if recording.reward is not None and np.shape(recording.reward) != (rows,):
        raise ConfigError(f"an episode of {rows} actions needs as many rewards, got {np.shape(recording.reward)}")
    shapes = Shapes(seen.shape[1], action.shape[1], tuple(recording.frames), recording.reward is not None)
    for camera in recording.frames:
        if not camera or "/" in camera or not camera.isprintable() or camera.startswith("."):
            raise ConfigError(f"a camera can't be called {camera!r}: use letters, digits and '_'")
    if first is not None and shapes != first:
        raise ConfigError(f"an episode is {shapes}, the first one {first}: all need the same shapes")
    return shapes, seen, action


def check_pictures(recording: Recording, camera: str, size: tuple[int, int] | None) -> Iterator[Frame]:
    """Yield the T + 1 pictures of a camera, checked.

    Args:
        recording: What they are part of.
        camera: Whose.
        size: Height and width of the camera's pictures in other episodes; None takes those of the first picture.

    Raises:
        ConfigError: One is no picture or of another size, or there are fewer or more than T + 1.
    """
    due, count = len(recording.action) + 1, 0
    frames: Any = recording.frames[camera]
    for frame in frames:
        picture = np.asarray(frame)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or 0 in picture.shape:
            raise ConfigError(f"pictures of {camera} must be uint8 (H, W, 3), got {picture.dtype} {picture.shape}")
        height, width = picture.shape[:2]
        size = size or (height, width)
        if (height, width) != size:
            raise ConfigError(f"pictures of {camera} are {size[1]}x{size[0]}, got one of {width}x{height}")
        count += 1
        if count > due:
            break
        yield picture
    if count != due:
        found = "more" if count > due else str(count)
        raise ConfigError(f"an episode of {due - 1} actions needs {due} pictures of {camera}, got {found}")
