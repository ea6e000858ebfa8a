"""A dataset format for tests: a folder whose ``fake.json`` says what is in it; pictures are drawn by number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlmreward.data.dataset import Episode, Format, Frame, Problem, Transitions, Undecodable
from vlmreward.errors import UnknownColumnError
from vlmreward.types import FloatArray


def write_dataset(root: Path, lengths: Sequence[int], **more: Any) -> Path:
    """Make a dataset.

    Args:
        root: Its folder.
        lengths: Rows of each episode.
        **more: ``extra`` (frames beyond rows, 0 or 1), ``task`` (of all episodes), ``bad`` ([episode, frame] that
            can't be decoded), ``cameras``, ``fps``, and ``columns``: name to a list of values for each episode.
    """
    root.mkdir(parents=True)
    (root / "fake.json").write_text(json.dumps({"lengths": lengths, **more}))
    return root


class FakeDataset:
    """See :class:`vlmreward.data.dataset.EpisodeDataset`."""

    format = "fake"

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        said = json.loads((root / "fake.json").read_text())
        self.cameras = tuple(said.get("cameras", ["front"]))
        self.fps = said.get("fps", 10.0)
        self._columns = said.get("columns", {})
        self._bad = {tuple(pair) for pair in said.get("bad", [])}
        self.features = {"action": "float32 (1,)", **dict.fromkeys(self._columns, "float32 (1,)")}
        self.episodes = [
            Episode(i, f"demo_{i}", rows, rows + said.get("extra", 1), said.get("task", "do it"), i % 2 == 0)
            for i, rows in enumerate(said["lengths"])
        ]

    def frames(self, episode: Episode, camera: str, start: int = 0) -> Iterator[Frame | Undecodable]:
        """Yield pictures whose brightness grows with time."""
        for frame in range(start, episode.frames):
            if (episode.index, frame) in self._bad:
                yield Undecodable("the file is cut off")
            else:
                picture = np.full((32, 32, 3), 40 + 10 * self.cameras.index(camera), np.uint8)
                picture[:, : 1 + frame % 32] = 60 + 5 * (frame % 32)
                picture[0, 0, 0] = episode.index
                yield picture

    def transitions(self, episode: Episode) -> Transitions:
        """Return transitions of zeros."""
        rows = episode.rows
        return Transitions(
            np.zeros((rows + 1, 0), np.float32), np.zeros((rows, 1), np.float32), None, np.zeros(rows, bool),
            np.arange(rows) == rows - 1,
        )  # fmt: skip

    def column(self, episode: Episode, name: str) -> FloatArray:
        """Return a column."""
        if name not in self._columns:
            raise UnknownColumnError(f"no column {name!r}")
        return np.array(self._columns[name][episode.index], np.float32)

    def fingerprint(self, camera: str) -> str:
        """Return what the pictures are drawn from."""
        text = f"{camera} {[(e.rows, e.frames) for e in self.episodes]} {sorted(self._bad)}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def problems(self) -> list[Problem]:
        """Return none."""
        return []


FORMAT = Format(
    name="fake",
    marks="fake.json",
    recognises=lambda path: (path / "fake.json").is_file(),
    open=FakeDataset,
    create=None,
    label=lambda *given, **options: None,  # type: ignore[arg-type,return-value]
)
