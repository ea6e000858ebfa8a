"""A dataset whose episodes are arrays in memory, and a format that keeps them in one npz file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vlmreward.data.dataset import Episode, Format, Frame, Problem, Transitions, Undecodable
from vlmreward.data.labels import LabelWriter
from vlmreward.errors import DatasetError, UnknownColumnError
from vlmreward.types import FloatArray, Frames

FILE = "arrays.npz"


@dataclass(frozen=True)
class ArrayEpisode:
    """One episode of T rows.

    Attributes:
        transitions: Its observations, actions, rewards and ends.
        columns: More numbers a row, e.g. labels, each float32, shape (T,).
        success: Recorded outcome.
        last_frame: Whether what came after the last action was recorded.
        frames: Pictures, uint8, shape (T or T + 1, H, W, 3); None where there are none.
    """

    transitions: Transitions
    columns: Mapping[str, FloatArray] = field(default_factory=dict)
    success: bool | None = None
    last_frame: bool = True
    frames: Frames | None = None


class ArrayDataset:
    """A dataset of such episodes, with the whole contract of :class:`vlmreward.data.dataset.EpisodeDataset`.

    Args:
        arrays: The episodes.
        root: What it says where it was opened.
        instruction: Of every episode.
    """

    format = "arrays"
    fps: float | None = None

    def __init__(self, arrays: Sequence[ArrayEpisode], root: Path = Path("memory"), instruction: str = "") -> None:
        self.arrays, self.root = arrays, root
        self.cameras: tuple[str, ...] = ("front",) if arrays and arrays[0].frames is not None else ()
        self.features: Mapping[str, str] = dict.fromkeys(arrays[0].columns if arrays else (), "float32 ()")
        rows = [len(one.transitions.action) for one in arrays]
        self.episodes: Sequence[Episode] = [
            Episode(i, f"episode {i}", rows[i], rows[i] + one.last_frame, instruction, one.success)
            for i, one in enumerate(arrays)
        ]

    def frames(self, episode: Episode, camera: str, start: int = 0) -> Iterator[Frame | Undecodable]:
        """Yield the pictures of an episode."""
        pictures = self.arrays[episode.index].frames
        if pictures is None:
            raise DatasetError(f"dataset {self.root} has no camera {camera!r}: it has no pictures")
        yield from pictures[start:]

    def transitions(self, episode: Episode) -> Transitions:
        """Return everything of an episode but pictures and columns."""
        return self.arrays[episode.index].transitions

    def column(self, episode: Episode, name: str) -> FloatArray:
        """Return a column, float32, shape (T,).

        Raises:
            UnknownColumnError: There is none of this name.
        """
        columns = self.arrays[episode.index].columns
        if name not in columns:
            raise UnknownColumnError(f"{episode.name} has no column {name!r}: it has {', '.join(columns) or 'none'}")
        return columns[name]

    def fingerprint(self, camera: str) -> str:
        """Return 32 digits."""
        return "0" * 32

    def problems(self) -> list[Problem]:
        """Return none."""
        return []


def save_arrays(folder: Path, arrays: Sequence[ArrayEpisode]) -> Path:
    """Write episodes, without pictures, into a new folder that ``FORMAT`` recognises, and return it."""
    folder.mkdir(parents=True)
    packed: dict[str, np.ndarray] = {}
    for i, one in enumerate(arrays):
        known = {name: value for name, value in vars(one.transitions).items() if value is not None}
        packed |= {f"{i}/transitions/{name}": value for name, value in known.items()}
        packed |= {f"{i}/columns/{name}": value for name, value in one.columns.items()}
        success = -1 if one.success is None else int(one.success)
        packed[f"{i}/about"] = np.array([success, one.last_frame])
    np.savez(folder / FILE, allow_pickle=False, **packed)
    return folder


def open_arrays(folder: Path) -> ArrayDataset:
    """Read what ``save_arrays`` wrote."""
    with np.load(folder / FILE, allow_pickle=False) as file:
        packed = {name: file[name] for name in file.files}
    arrays = []
    for i in range(sum(name.endswith("/about") for name in packed)):
        parts: dict[str, dict[str, np.ndarray]] = {"transitions": {"reward": None}, "columns": {}}  # type: ignore[dict-item]
        for name, value in packed.items():
            episode, _, rest = name.partition("/")
            group, _, key = rest.partition("/")
            if episode == str(i) and group in parts:
                parts[group][key] = value
        success, last_frame = packed[f"{i}/about"].tolist()
        outcome = None if success < 0 else bool(success)
        arrays.append(ArrayEpisode(Transitions(**parts["transitions"]), parts["columns"], outcome, bool(last_frame)))
    return ArrayDataset(arrays, folder.resolve())


def _no_label(*arguments: object, **settings: object) -> LabelWriter:
    raise DatasetError("datasets in memory take no labels: give them as columns")


FORMAT = Format("arrays", FILE, lambda root: (root / FILE).is_file(), open_arrays, None, _no_label)
