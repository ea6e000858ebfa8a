"""Labels of a dataset: reward, success and progress of every row, and where they came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vlmreward.errors import DatasetError
from vlmreward.types import BoolArray, FloatArray


@dataclass(frozen=True)
class EpisodeLabels:
    """Labels of the T rows of one episode.

    Attributes:
        reward: float32, shape (T,); row t is the reward of frame t + 1. NaN where invalid.
        valid: bool, shape (T,). False where the frame could not be decoded or scored, or has no successor.
        success: Probability that the task is done in frame t + 1, float32 in [0, 1], or None.
        progress: How far along frame t + 1 is, float32 in [0, 1], or None. NaN where invalid.
        reasons: Why rows are invalid: row number to reason.
    """

    reward: FloatArray
    valid: BoolArray
    success: FloatArray | None = None
    progress: FloatArray | None = None
    reasons: Mapping[int, str] = field(default_factory=dict)


class FrameLabels(Protocol):
    """Labels of the F frames of one episode, each of the frame itself: what a format needs that is read by frames.

    Attributes:
        valid: bool, shape (F,). False where the frame could not be decoded or scored.
        progress: How far along a frame is, float32 in [0, 1], shape (F,), NaN where invalid; or None.
    """

    @property
    def valid(self) -> BoolArray:
        """See above; properties here, so that a record may have more and be frozen."""
        ...

    @property
    def progress(self) -> FloatArray | None:
        """See above."""
        ...


@dataclass(frozen=True)
class Provenance:
    """Where labels came from; written into the metadata of whatever they are written into.

    Attributes:
        run: Identifies the labelling run: 16 hexadecimal digits, a hash of everything that decides the labels.
        encoder: Id of the encoder, with its precision and runtime.
        licence: Licence of the encoder's weights.
        reward: The reward's settings.
        goal: The goal's text, or "" where each episode's own task was used.
        camera: Whose pictures were scored.
        version: Version of this package.
    """

    run: str
    encoder: str
    licence: str
    reward: Mapping[str, Any]
    goal: str
    camera: str
    version: str


class Labels(Protocol):
    """The finished labels of a dataset, read episode by episode."""

    provenance: Provenance

    def episode(self, index: int) -> EpisodeLabels:
        """Return the labels of an episode's rows."""
        ...

    def frames(self, index: int) -> FrameLabels:
        """Return the labels of an episode's frames: also of the first one, which no row has."""
        ...

    def __iter__(self) -> Iterator[EpisodeLabels]:
        """Return the labels of every episode, in the dataset's order."""
        ...


@dataclass(frozen=True)
class Change:
    """One file that writing labels changes or makes.

    Attributes:
        path: The file.
        what: What happens to it, in words.
        rows: Number of rows that get a label in it.
        size: Its size afterwards as far as it is known, in bytes.
    """

    path: Path
    what: str
    rows: int
    size: int


class LabelWriter(Protocol):
    """Writes labels where the training code of an ecosystem looks for them; one for each format.

    Constructed as ``Writer(dataset, name, filler="auto", overwrite=False)``, ``name`` being that of the column, e.g.
    ``"reward_vlm"``. Constructing refuses a name that is reserved or of something that isn't ours, a filler that the
    format can't follow, and a dataset that can't be written.
    """

    def is_written(self, run: str) -> bool:
        """Return whether all labels of a run stand there already, with this filler.

        Args:
            run: Of :class:`Provenance`.

        Raises:
            DatasetError: Other labels have the name, and there is no ``overwrite``.
        """
        ...

    def plan(self) -> Sequence[Change]:
        """Return what ``write`` would do; changes nothing."""
        ...

    def write(self, labels: Labels) -> None:
        """Write the labels, atomically: after a crash the next call finishes or rolls back; nothing is lost.

        What :meth:`is_written` is left as it is.

        Raises:
            DatasetError: As in :meth:`is_written`, or labels and rows don't fit.
        """
        ...

    def undo(self) -> Sequence[Change]:
        """Take the column away again and return what was changed.

        Raises:
            DatasetError: There is no such column of ours.
        """
        ...


def is_of_run(written: Mapping[str, Any], run: str, filler: str, overwrite: bool, what: str) -> bool:
    """Return whether labels that are there are those that a run would write.

    Args:
        written: What is told of them.
        run: The run.
        filler: What should stand in invalid rows.
        overwrite: Whether others may be replaced.
        what: The labels that are there, in words.

    Raises:
        DatasetError: They are others, and aren't to be replaced.
    """
    same = written.get("run") == run and written.get("filler") == filler
    if not same and not overwrite:
        raise DatasetError(
            f"{what} is there already, from run {written.get('run')} with filler={written.get('filler')}: give "
            "overwrite=true or another name, or undo it first"
        )
    return same
