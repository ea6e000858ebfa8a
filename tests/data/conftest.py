"""Recordings and labels of known content, for every format."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vlmreward.data.dataset import Episode, EpisodeDataset, Recording, Undecodable
from vlmreward.data.labels import EpisodeLabels, Provenance

LENGTHS = (40, 3, 12)
TASKS = ("push the cube", 'läuft 蓝, "quoted" = 100 %', "push the cube")


def picture(episode: int, step: int, size: tuple[int, int] = (32, 48)) -> np.ndarray:
    """A smooth picture that differs from those of other episodes and steps."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    level = (17 * step + 61 * episode) % 200
    return np.stack([level + 0 * x, 2 * x + 20, 3 * y + 20], axis=-1).astype(np.uint8)


def record(episode: int, cameras: tuple[str, ...] = ("front", "wrist")) -> Recording:
    rows = LENGTHS[episode]
    sizes = {"front": (32, 48), "wrist": (64, 64)}
    rng = np.random.default_rng(episode)
    return Recording(
        frames={c: map(partial(picture, episode, size=sizes[c]), range(rows + 1)) for c in cameras},
        observation=rng.normal(size=(rows + 1, 5)).astype(np.float32),
        action=rng.normal(size=(rows, 2)).astype(np.float32),
        reward=(np.arange(rows) / 8).astype(np.float32),
        terminated=episode == 1,
        truncated=episode != 1,
        instruction=TASKS[episode],
        success=episode == 1,
        infos={"seed": episode},
    )


class KnownLabels:
    """Labels that tell episode and row; the last row of each episode and row 1 of the last episode are invalid."""

    def __init__(self, episodes: list[Episode], shift: float = 0.0) -> None:
        run = "0123456789abcdef" if shift == 0 else f"{int(shift):016x}"  # other labels are of another run
        self.provenance = Provenance(run, "mini-2-abc", "MIT", {"name": "clip", "causal": True}, "", "front", "0.1.0")
        self._episodes, self._shift = episodes, shift

    def episode(self, index: int) -> EpisodeLabels:
        rows = self._episodes[index].rows
        valid = np.arange(rows) != rows - 1
        if index == len(self._episodes) - 1:
            valid[1] = False
        reward = np.where(valid, index + np.arange(rows) / 100 + self._shift, np.nan).astype(np.float32)
        reasons = {int(i): "no successor" for i in np.flatnonzero(~valid)}
        progress = np.where(valid, np.arange(rows) / rows, np.nan).astype(np.float32)
        return EpisodeLabels(reward, valid, np.full(rows, 0.5, np.float32), progress, reasons)

    def __iter__(self) -> Iterator[EpisodeLabels]:
        return (self.episode(i) for i in range(len(self._episodes)))


def hashes(root: Path) -> dict[str, str]:
    """The content of every file below a folder, or of a file."""
    files = [root] if root.is_file() else [p for p in root.rglob("*") if p.is_file()]
    return {p.relative_to(root.parent).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def check_starts(dataset: EpisodeDataset) -> int:
    """Check that frames from any one on are the end of all, also where some are lost; returns how many are."""
    lost = 0
    for episode in dataset.episodes:
        for camera in dataset.cameras:
            whole = list(dataset.frames(episode, camera))
            lost += sum(isinstance(item, Undecodable) for item in whole)
            for start in range(episode.frames + 1):
                stop = episode.frames if start % 5 in (0, episode.frames % 5) else start + 3  # all of it takes its time
                items = list(islice(dataset.frames(episode, camera, start=start), stop - start + 1))
                items = items if stop == episode.frames else items[: stop - start]
                for number, (item, due) in enumerate(zip(items, whole[start:stop], strict=True), start):
                    if isinstance(item, Undecodable) or isinstance(due, Undecodable):
                        assert type(item) is type(due), (start, number, item, due)
                    else:
                        assert np.array_equal(item, due), (start, number)
    return lost


@pytest.fixture(scope="session")
def known() -> SimpleNamespace:
    """What this file defines, for tests in folders that are no packages."""
    return SimpleNamespace(
        check_starts=check_starts,
        LENGTHS=LENGTHS,
        TASKS=TASKS,
        KnownLabels=KnownLabels,
        hashes=hashes,
        picture=picture,
        record=record,
    )
