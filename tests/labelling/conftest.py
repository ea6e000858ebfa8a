"""A dataset in memory, and jobs over it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmreward.data.dataset import Episode, Frame, Undecodable
from vlmreward.encoders.cached import open_cached
from vlmreward.labelling.labelling import Advance, Counts, Labeller
from vlmreward.labelling.local_engine import LocalEngine
from vlmreward.labelling.plan import make_plan
from vlmreward.labelling.scoring import LabelScorer
from vlmreward.labelling.work_folder import WorkFolder
from vlmreward.testing.fakes import LinearReward, ProjectionEncoder


class MemoryDataset:
    """Episodes of noise; every seventh frame is equal to one of another episode."""

    cameras = ("front",)

    def __init__(self, lengths: tuple[int, ...], side: int = 8, bad: tuple[tuple[int, int], ...] = ()) -> None:
        self.episodes = [Episode(i, f"e{i}", length, length) for i, length in enumerate(lengths)]
        self.side, self.bad = side, set(bad)
        self.decoded = 0
        self._lock = threading.Lock()

    def picture(self, episode: int, frame: int) -> Frame:
        """Return a frame."""
        seed = (0, frame // 7) if frame % 7 == 0 else (1 + episode, frame)
        return np.random.default_rng(seed).integers(0, 256, (self.side, self.side, 3), np.uint8)

    def frames(self, index: int, start: int = 0) -> Iterator[Frame | Undecodable]:
        """Yield the frames of an episode."""
        for frame in range(start, self.episodes[index].frames):
            with self._lock:
                self.decoded += 1
            yield Undecodable("broken") if (index, frame) in self.bad else self.picture(index, frame)


class BatchSensitiveEncoder(ProjectionEncoder):
    """Gives slightly other embeddings in another batch, as rounding does in a real one."""

    def encode_images(self, frames: Any) -> Any:
        """Return unit-norm embeddings that depend on the batch in the third digit."""
        out = super().encode_images(frames).astype(np.float64)
        out += 1e-3 * np.sin(frames.reshape(len(frames), -1).sum() + np.arange(len(frames)))[:, None]
        return (out / np.linalg.norm(out, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def memory_dataset() -> Callable[..., MemoryDataset]:
    return MemoryDataset


def build_job(
    dataset: MemoryDataset,
    path: Path,
    encoder: Any = None,
    run: str = "run",
    threads: int = 1,
    batch_size: int = 16,
    reward: Any = None,
) -> tuple[Labeller, WorkFolder, Callable[[], Counts]]:
    """Return a job's parts, and what runs it."""
    encoder = encoder or BatchSensitiveEncoder()
    store = open_cached(encoder, path / "embeddings").store
    folder = WorkFolder(path, "layout", run)
    folder.begin()
    engine = LocalEngine(dataset.frames, encoder, lambda keys: store.find(keys) >= 0, batch_size, threads)
    labeller = Labeller(make_plan(dataset.episodes), folder, store, engine, dataset.frames)
    scorer = LabelScorer(lambda goal: reward or LinearReward(encoder.dim), ["goal"] * len(dataset.episodes))

    def label(advance: Advance = lambda count: None) -> Counts:
        counts = Counts()
        labeller.run(scorer, advance, counts)
        return counts

    return labeller, folder, label


@pytest.fixture
def make_job() -> Any:
    return build_job
