from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlmreward.agents import checkpoint_replay
from vlmreward.agents.checkpoint_replay import ReplayChunks
from vlmreward.errors import CheckpointError, StorageError
from vlmreward.wrappers.replay_buffer import ScoredReplayBuffer

FIELDS = ("observations", "next_observations", "actions", "rewards", "env_rewards", "status", "dones", "timeouts")


class Filler:
    """Steps a scored environment at random into a replay buffer."""

    def __init__(self, dots: Any, size: int) -> None:
        self.scorer = dots.scorer()
        self.venv = dots.venv(self.scorer, 2)
        self.buffer = self.empty(size)
        self.obs, self.rng = self.venv.reset(), np.random.default_rng(0)

    def empty(self, size: int) -> ScoredReplayBuffer:
        return ScoredReplayBuffer(
            size * 2, self.venv.observation_space, self.venv.action_space, n_envs=2, scorer=self.scorer
        )

    def add(self, count: int) -> None:
        for _ in range(count):
            actions = self.rng.integers(0, 3, 2)
            obs, rewards, dones, infos = self.venv.step(actions)
            self.buffer.add(self.obs, obs, actions, rewards, dones, infos)
            self.obs = obs


def same(a: ScoredReplayBuffer, b: ScoredReplayBuffer) -> None:
    assert (a.n_added, a.pos, a.full) == (b.n_added, b.pos, b.full)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name)[: a.size()], getattr(b, name)[: a.size()], err_msg=name)


@pytest.mark.parametrize("counts", [[7], [7, 5, 0, 3], [20, 20, 20], [55], [13, 50, 1]])
def test_buffer_comes_back_from_its_chunks(dots: Any, tmp_path: Path, counts: list[int]) -> None:
    """Below one round of the ring of 20 rows, over several, and more than a round between two checkpoints."""
    filler = Filler(dots, 20)
    chunks = ReplayChunks(tmp_path, filler.buffer)
    for count in counts[:-1]:
        filler.add(count)
        chunks.save()
    filler.add(counts[-1])
    state, shared = chunks.save()
    back = filler.empty(20)
    ReplayChunks(tmp_path, back).load(state, shared)
    same(filler.buffer, back)


def test_saving_goes_on_after_loading(dots: Any, tmp_path: Path) -> None:
    filler = Filler(dots, 20)
    first = ReplayChunks(tmp_path, filler.buffer)
    filler.add(8)
    state, shared = first.save()
    filler.buffer, original = filler.empty(20), filler.buffer
    resumed = ReplayChunks(tmp_path, filler.buffer)
    resumed.load(state, shared)
    same(filler.buffer, original)
    filler.add(17)
    state, shared = resumed.save()
    back = filler.empty(20)
    ReplayChunks(tmp_path, back).load(state, shared)
    same(filler.buffer, back)


def test_each_row_is_written_once(dots: Any, tmp_path: Path) -> None:
    filler = Filler(dots, 1000)
    chunks = ReplayChunks(tmp_path, filler.buffer)
    rows: list[tuple[int, int]] = []
    state: dict[str, Any] = {}
    shared: list[Any] = []
    for _ in range(4):
        filler.add(10)
        state, shared = chunks.save()
        with np.load(tmp_path / shared[-1].name) as newest:
            rows.append((int(newest["first"]), len(newest["actions"])))
    assert rows == [(0, 10), (10, 10), (20, 10), (30, 10)]
    assert len(state["chunks"]) == len(shared) == 4


def test_chunks_of_overwritten_rows_are_let_go(dots: Any, tmp_path: Path) -> None:
    filler = Filler(dots, 20)
    chunks = ReplayChunks(tmp_path, filler.buffer)
    filler.add(10)
    state, _ = chunks.save()
    for _ in range(5):
        filler.add(10)
        state, _ = chunks.save()
    assert [stop for stop, _ in state["chunks"]] == [50, 60]


def test_rows_of_another_size_are_refused(dots: Any, tmp_path: Path) -> None:
    filler = Filler(dots, 20)
    chunks = ReplayChunks(tmp_path, filler.buffer)
    filler.add(3)
    state, shared = chunks.save()
    with pytest.raises(CheckpointError, match="buffer of 20 rows"):
        ReplayChunks(tmp_path, filler.empty(30)).load(state, shared)


def test_full_disk_leaves_no_half_chunk(dots: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filler = Filler(dots, 20)
    chunks = ReplayChunks(tmp_path, filler.buffer)
    filler.add(3)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_replay, "sync", full)
    with pytest.raises(StorageError, match="no space left"):
        chunks.save()
    assert list((tmp_path / "replay").iterdir()) == []
    monkeypatch.undo()
    state, shared = chunks.save()  # the rows are not lost
    back = filler.empty(20)
    ReplayChunks(tmp_path, back).load(state, shared)
    same(filler.buffer, back)
