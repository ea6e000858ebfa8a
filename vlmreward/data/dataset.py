"""What a dataset of recorded episodes is, whatever its format: frames in time order, actions, a task in words.

A reader opens a folder or file, tells its episodes without decoding a picture, and gives frames lazily. Rows and frames
are not the same thing: a row is one recorded transition, which gets one label; row t is judged by frame t + 1. A format
that keeps the observation after the last action has one frame more than rows; where it doesn't, the last row has no
successor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from vlmreward.types import FloatArray

if TYPE_CHECKING:
    from vlmreward.data.labels import LabelWriter

Frame = npt.NDArray[np.uint8]
"""One picture, RGB, uint8, shape (H, W, 3)."""


@dataclass(frozen=True)
class Episode:
    """One recorded episode, as far as it is known without decoding a picture.

    Attributes:
        index: Its place in the dataset's order, from 0; what ``episode=`` on the command line means.
        name: What the dataset calls it, e.g. ``"demo_10"``.
        rows: Number of recorded transitions, T > 0: of rows that get a label.
        frames: Number of pictures of each camera, T or T + 1.
        instruction: The recorded task in words; "" where none was recorded.
        success: Whether it ended in success, where that was recorded.
    """

    index: int
    name: str
    rows: int
    frames: int
    instruction: str = ""
    success: bool | None = None


@dataclass(frozen=True)
class Undecodable:
    """Stands where a frame should be that could not be decoded: its label will be invalid, with this reason."""

    reason: str


@dataclass(frozen=True)
class Problem:
    """Something wrong with a dataset, found without or with decoding.

    Attributes:
        where: A file or an episode, relative to the dataset's root, e.g. ``"episode 3"``.
        what: What is wrong, in one line: what was expected and what was found.
        left_out: It is a recorded episode that can't be read, and so is none of the dataset's.
    """

    where: str
    what: str
    left_out: bool = False


@dataclass(frozen=True)
class Transitions:
    """What offline learning needs of an episode besides pictures and labels; T rows.

    Attributes:
        observation: Vector observations (proprioception, state), float32, shape (T + 1, D); where the format keeps none
            after the last action, the last one is repeated. D may be 0.
        action: float32, shape (T, A).
        reward: The recorded reward, float32, shape (T,), or None.
        terminated: bool, shape (T,): a true end.
        truncated: bool, shape (T,): a time limit, or that the recording ends.
    """

    observation: FloatArray
    action: FloatArray
    reward: FloatArray | None
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]


@runtime_checkable
class EpisodeDataset(Protocol):
    """A dataset of recorded episodes that was opened for reading.

    Every reader refuses, in one line that names the file (:class:`vlmreward.errors.DatasetError`), what it can't read
    safely; paths that a dataset names never leave its root, links resolved.

    Attributes:
        format: Name of the format, e.g. ``"lerobot"``.
        root: Folder or file that was opened, absolute.
        cameras: Names of the cameras, in the dataset's order.
        fps: Pictures a second; None where it isn't recorded.
        features: What a row holds: name to a description like ``"float32 (7,)"``, for people.
        episodes: In the dataset's order, ``episodes[i].index == i``.
    """

    @property
    def format(self) -> str:
        """See above; properties here, so that a reader may have an attribute of a narrower type."""
        ...

    @property
    def root(self) -> Path:
        """See above."""
        ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """See above."""
        ...

    @property
    def fps(self) -> float | None:
        """See above."""
        ...

    @property
    def features(self) -> Mapping[str, str]:
        """See above."""
        ...

    @property
    def episodes(self) -> Sequence[Episode]:
        """See above."""
        ...

    def frames(self, episode: Episode, camera: str, start: int = 0) -> Iterator[Frame | Undecodable]:
        """Decode the pictures of an episode from frame ``start`` on, in time order, as they are asked for.

        Memory does not grow with the episode. Exactly ``episode.frames - start`` items come, whatever the file holds:
        what is missing or damaged is :class:`Undecodable`, and the others keep their places. Earlier pictures are not
        decoded, but for those that picture ``start`` of a video is built on; a compressed array is decompressed from
        its beginning.

        Args:
            episode: Whose.
            camera: Which of ``cameras``.
            start: The first frame to give, 0 to ``episode.frames``.
        """
        ...

    def transitions(self, episode: Episode) -> Transitions:
        """Read everything of an episode but its pictures.

        Raises:
            DatasetError: There are no actions, or they can't be read.
        """
        ...

    def column(self, episode: Episode, name: str) -> FloatArray:
        """Read a numeric column of rows, e.g. a label that was written, float32, shape (T,).

        Raises:
            UnknownColumnError: There is no such column.
            DatasetError: It can't be read, or is no number a row.
        """
        ...

    def fingerprint(self, camera: str) -> str:
        """Return 32 hexadecimal digits that change whenever the pictures of a camera, their order or episodes change.

        From sizes, times of change and names of the files that hold pictures, and the layout of episodes; labels that
        were written in do not change it, so that a second goal finds the first one's embeddings.
        """
        ...

    def problems(self) -> list[Problem]:
        """Look for what is wrong: missing files, counts that disagree, timestamps that are off, truncated videos.

        Opens every file, decodes no picture but the last ones of each video.
        """
        ...


@dataclass
class Recording:
    """One episode to be written.

    Attributes:
        frames: Pictures by camera, each an iterable of T + 1 frames uint8 (H, W, 3).
        observation: float32, shape (T + 1, D).
        action: float32, shape (T, A).
        reward: The environment's own reward, float32, shape (T,), which a format may keep; None keeps none.
        terminated: Whether the last transition is a true end.
        truncated: Whether the last transition is a time limit.
        instruction: The task in words.
        success: Whether the episode ended in success, where the dataset should say so; None says nothing.
        infos: More that a format may keep as metadata of the episode: plain JSON values.
    """

    frames: Mapping[str, Any]
    observation: FloatArray
    action: FloatArray
    reward: FloatArray | None
    terminated: bool
    truncated: bool
    instruction: str
    success: bool | None = None
    infos: Mapping[str, Any] = field(default_factory=dict)


class EpisodeWriter(Protocol):
    """Writes a new dataset, episode by episode; nothing can be read as a whole dataset before ``finish``.

    Constructed as ``Writer(root, fps=..., env_id=..., robot=...)``; refuses a root that exists and isn't empty, and
    begins anew where another one was killed.
    """

    def add(self, recording: Recording) -> None:
        """Write one episode.

        Raises:
            ConfigError: Its shapes differ from those of the first one.
        """
        ...

    def finish(self) -> None:
        """Write what makes it a whole dataset."""
        ...


@dataclass(frozen=True)
class Format:
    """One dataset format.

    Attributes:
        name: The name users write.
        marks: What a folder or file is known by, for the error line, e.g. ``"meta/info.json"``.
        recognises: Whether a path is of this format; imports nothing heavy and never fails.
        open: Opens a path for reading.
        create: Makes a writer of new datasets, ``create(root, fps=..., env_id=...)``; None where it is only read.
        label: Makes a writer of labels, ``label(dataset, name, filler="auto", overwrite=False)``.
    """

    name: str
    marks: str
    recognises: Callable[[Path], bool]
    open: Callable[[Path], EpisodeDataset]
    create: Callable[..., EpisodeWriter] | None
    label: Callable[..., LabelWriter]
